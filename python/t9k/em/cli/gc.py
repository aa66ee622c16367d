"""`em gc`."""

from __future__ import annotations

import sys

import click

from t9k.em.cli.console import count_text, echo_json
from t9k.em.cli.verb import Verb, json_option

AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _age_s(context: click.Context, parameter: click.Parameter, text: str) -> int:
    """Seconds of an age such as 30s, 10m, 1h or 7d."""
    number, unit = text[:-1], text[-1:]
    if unit not in AGE_UNITS or not number.isdecimal() or len(number) > 9:
        raise click.BadParameter(f"{text!r} is not an age such as 30s, 10m, 1h or 7d")
    return int(number) * AGE_UNITS[unit]


@click.command("gc", cls=Verb, examples=["em gc --dry-run", "em gc --older-than 7d"])
@click.option("--dry-run", is_flag=True, help="Only say what would be reclaimed.")
@click.option(
    "--older-than",
    "older_than_s",
    default="1h",
    show_default=True,
    metavar="AGE",
    callback=_age_s,
    help="Delete what nothing has reached for this long; 0s at once, when no other host uses the store.",
)
@json_option
def command(dry_run: bool, older_than_s: int, as_json: bool) -> None:
    """Reclaim objects that no artifact reaches, and say first what that frees.

    It does not ask: what an artifact, a load or an add in flight reaches is never touched. Unreachable objects are set
    aside at first, and deleted by a later run once they are old enough. What is freed is told in whole blocks of the
    disk, chunk tables included; an object that has a name elsewhere frees none.
    """
    from t9k.em import _engine
    from t9k.em.cli.places import existing_store_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    with translated(), Progress("gc", "entries and objects") as progress:

        def say(planned: dict[str, int]) -> None:
            if as_json:
                return
            progress.clear()
            objects = count_text(planned["unreachable_objects"], "object")
            click.echo(f"{objects} that no artifact reaches, {count_text(planned['unreachable_bytes'], 'byte')}")
            click.echo(f"deleting them frees {count_text(planned['reclaimable_bytes'], 'byte')} on the disk")
            sys.stdout.flush()

        done = _engine.gc(existing_store_dir(), older_than_s, dry_run, progress, say)
    if as_json:
        echo_json(done)
    elif not dry_run:
        click.echo(f"deleted {done['deleted_objects']:,}, freed {count_text(done['freed_bytes'], 'byte')} on the disk")
        if kept := done["unreachable_objects"] - done["deleted_objects"]:
            click.echo(f"{kept:,} set aside until they are old enough, or an add is running: run `em gc` again later")
