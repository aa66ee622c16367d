"""The group of verbs, which imports a verb's module when it is run."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import click

from t9k.em.cli.exits import INTERRUPTED, exit_code
from t9k.em.escape import printable

SECTIONS: dict[str, dict[str, str]] = {
    "Runs": {
        "runs": "List local runs.",
        "show": "Show a run or an artifact.",
        "tail": "Follow a live run.",
        "compare": "Show what differs between runs.",
        "plot": "Plot metrics in the terminal, or to SVG or PNG.",
        "export": "Write metrics as CSV, Parquet, JSON or TensorBoard events.",
        "import": "Make runs of what TensorBoard or mlflow recorded.",
    },
    "Artifacts": {
        "add": "Add directories and files to a new artifact.",
        "ls": "List artifacts, the entries of one, or what a server has.",
        "diff": "Compare the paths and bytes of two artifacts.",
        "hash": "Print BLAKE3 digests as b3sum does.",
        "origin": "Show which runs and artifacts a file comes from.",
    },
    "Store": {
        "du": "Show what artifacts occupy.",
        "gc": "Reclaim objects that no artifact reaches.",
        "verify": "Hash stored files and report what is wrong.",
    },
    "Server": {
        "sync": "Send what runs with auto_upload could not.",
        "login": "Keep a server's URL and an API key.",
        "logout": "Forget the API key.",
        "upload": "Upload runs and artifacts.",
        "load": "Load a run or an artifact.",
        "share": "Let others see or change a folder, run or artifact.",
    },
}
"""Every verb with its line of `em --help`, which is shown without importing the verb's module."""

MODULES = {"import": "import_"}  # a keyword cannot name a module


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verbs in SECTIONS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"t9k.em.cli.{MODULES.get(cmd_name, cmd_name)}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(ctx):
            import difflib

            for verb in difflib.get_close_matches(args[0], self.list_commands(ctx), n=1):
                ctx.fail(f"No such command {args[0]!r}; did you mean {verb!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb and exits with its code."""
        try:
            ctx.exit(exit_code(lambda: super(_Group, self).invoke(ctx)))
        except click.Abort:  # at a prompt
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call, 130 interrupted.",
)
@click.version_option(package_name="t9k", message="t9k %(version)s")
@click.pass_context
def em(ctx: click.Context) -> None:
    """Runs and content-addressed artifacts of training scripts.

    `em VERB --help` has options and examples; --json prints exact values for scripts.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"Warning: {printable(str(message))}", err=True)
