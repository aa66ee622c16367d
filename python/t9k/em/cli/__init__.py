"""The `em` command: a file for each verb, imported when the verb is run.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call,
130 interrupted by Ctrl-C, 141 nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from t9k.em.errors import EmError

EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141

SECTIONS: dict[str, dict[str, str]] = {
    "Artifacts": {
        "add": "Add directories and files to a new artifact.",
        "ls": "List local artifacts, or the entries of one.",
        "show": "Show an artifact.",
        "diff": "Compare the paths and bytes of two artifacts.",
        "hash": "Print BLAKE3 digests as b3sum does.",
    },
    "Store": {
        "du": "Show what artifacts occupy.",
        "gc": "Reclaim objects that no artifact reaches.",
        "verify": "Hash stored files and report what is wrong.",
    },
}
"""Every verb with its line of `em --help`, which is shown without importing the verb's module."""

_MODULES = {"import": "import_"}  # a keyword cannot name a module


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verbs in SECTIONS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(f"t9k.em.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(verbs.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb; our errors, those of files, Ctrl-C and a closed pipe become exit codes."""
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
            return value
        except EmError as error:
            raise click.ClickException(_printable(str(error))) from None
        except BrokenPipeError:
            # Python flushes once more at exit, and would complain there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_CLOSED_PIPE) from None
        except OSError as error:
            raise click.ClickException(_printable(str(error))) from None
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)  # leaves the line of the terminal's ^C, or of a bar
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call, 130 interrupted.",
)
@click.pass_context
def _em(ctx: click.Context) -> None:
    """Runs and content-addressed artifacts of training scripts.

    `em VERB --help` has options and examples; --json prints exact values for scripts.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with the arguments, by default those of the process, and exits."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    warnings.showwarning = _show_warning
    _em.main(args, prog_name="em")
    raise AssertionError("click exits by itself")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"Warning: {_printable(str(message))}", err=True)


def _printable(text: str) -> str:
    from t9k.em.cli.console import printable

    return printable(text)
