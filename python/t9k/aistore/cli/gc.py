"""`aistore gc`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from t9k.aistore.cli import Place


@click.command("gc")
@click.option(
    "--grace",
    "grace_s",
    default=86_400,
    show_default=True,
    type=click.IntRange(0),
    help="Seconds for which the bytes of what nothing reaches stay.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.pass_obj
def command(place: Place, grace_s: int, as_json: bool) -> None:
    """Delete what no artifact reaches any more. A server does this by itself; this may run beside it.

    What nothing reaches is condemned first, and its bytes are deleted by a later run, after the grace period.

    Example: aistore gc
    """
    from t9k.aistore.artifacts.gc import collect, sweep

    with place.opened() as services:
        lease_s = services.settings.lease_s
        done = collect(services.database, services.blobs, lease_s=lease_s, grace_s=grace_s)
        swept = sweep(services.database, services.blobs)
    if as_json:
        click.echo(json.dumps(asdict(done) | {"swept_blobs": swept}))
        return
    click.echo(
        f"deleted {done.deleted_packs} packs ({done.deleted_bytes / 1e6:,.1f} MB), {swept} blobs without a row, "
        f"{done.versions} versions, {done.manifests} manifests, {done.objects} objects; "
        f"condemned {done.condemned_packs} packs"
    )
