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
@click.option("--dry-run", is_flag=True, help="Change nothing, and print what would become of packs.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@click.pass_obj
def command(place: Place, grace_s: int, dry_run: bool, as_json: bool) -> None:
    """Delete what no artifact reaches any more. A server does this by itself; this may run beside it.

    What nothing reaches is condemned first, and its bytes are deleted by a later run, after the grace period. Packs of
    which less than half is used are rewritten without the rest, and go as well. With a grace of 0 all of that is done
    at once; clients that are loading just then ask again where the chunks are.

    Example: aistore gc --dry-run
    """
    from t9k.aistore.artifacts.gc import Collected, collect, look_ahead, sweep

    with place.opened() as services:
        lease_s = services.settings.lease_s
        if dry_run:
            found = look_ahead(services.database, lease_s=lease_s, grace_s=grace_s)
            click.echo(
                json.dumps(asdict(found))
                if as_json
                else f"would delete {found.deleted_packs} packs ({_mb(found.deleted_bytes)}), "
                f"condemn {found.condemned_packs} ({_mb(found.condemned_bytes)}) "
                f"and rewrite {found.rewritten_packs} ({_mb(found.rewritten_bytes)}) to {_mb(found.written_bytes)}"
            )
            return
        done = Collected()
        while True:  # what was rewritten may make room for more, and goes at once if there is no grace
            part = collect(services.database, services.blobs, lease_s=lease_s, grace_s=grace_s)
            done += part
            if not part.rewritten_packs:
                done.damaged_chunks = part.damaged_chunks  # each pass meets them again
                break
        swept = sweep(services.database, services.blobs)
    if as_json:
        click.echo(json.dumps(asdict(done) | {"swept_blobs": swept}))
        return
    click.echo(
        f"deleted {done.deleted_packs} packs ({_mb(done.deleted_bytes)}), {swept} blobs without a row, "
        f"{done.versions} versions, {done.manifests} manifests, {done.objects} objects; "
        f"condemned {done.condemned_packs} packs; rewrote {done.rewritten_packs} to {_mb(done.written_bytes)}"
    )
    if done.damaged_chunks:
        click.echo(f"{done.damaged_chunks} used chunks are damaged: see `aistore check --read`", err=True)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
