"""`em sync`."""

from __future__ import annotations

import os
import sys

import click

from t9k.em.cli.console import count_text, echo_json
from t9k.em.cli.verb import RESUMABLE, Verb, json_option
from t9k.em.escape import printable


@click.command(
    "sync",
    cls=Verb,
    examples=["em sync", "em sync mnist_261123_101500_a1b2c3"],
    exit_codes="0 all is sent, 1 something could not be, 2 a wrong call",
    interrupted=RESUMABLE,
)
@click.argument("runs", nargs=-1)
@json_option
def command(runs: tuple[str, ...], as_json: bool) -> None:
    """Send what runs with auto_upload could not send: all that wait, or those that are named.

    A run that was made offline (EM_MODE=offline) goes where its script said. What a server has lost, because it was
    restored from a backup, is sent again.
    """
    from t9k.em.cli.places import run_record
    from t9k.em.client.connection import connected, is_configured
    from t9k.em.errors import EmError
    from t9k.em.run import load_run
    from t9k.em.runs.record import run_parent_dir
    from t9k.em.sync.send import send
    from t9k.em.sync.waiting import unsent_runs

    session = connected() if runs or is_configured() or unsent_runs(run_parent_dir()) else None
    waiting = [run_record(run).path for run in runs] or unsent_runs(run_parent_dir(), session)
    results: list[dict[str, str]] = []
    for path in waiting:
        assert session is not None
        result = {"run": os.path.basename(path), "problem": ""}
        try:
            state = send(session, path)
            if state is not None and state.is_done:
                load_run(path).remember_place(state)
            elif state is not None and not state.is_skipped:
                result["problem"] = "the run goes on; what it has written is sent"
        except EmError as error:
            result["problem"] = str(error)
        results.append(result)
        if not as_json:
            click.echo(f"{printable(result['run'])}: {printable(result['problem']) or 'sent'}")
    failed = sum(bool(result["problem"]) for result in results)
    if as_json:
        echo_json(results)
    else:
        click.echo(f"{count_text(len(results), 'run')}, {failed} with something left")
    sys.exit(1 if failed else 0)
