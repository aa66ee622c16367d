"""What all verbs of `em` share: the form of their help, and the option `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

RESUMABLE = "Interrupted; the same command goes on where this one was"
EXIT_CODES = "0 success, 1 an error, 2 a wrong call"


class Verb(click.Command):
    """A command whose help ends with examples and exit codes."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str],
        exit_codes: str = EXIT_CODES,
        interrupted: str = "Interrupted",
        **kwargs: Any,
    ) -> None:
        """Takes complete command lines as examples, and what is said after Ctrl-C."""
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.exit_codes = exit_codes
        self.interrupted = interrupted

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self.interrupted) from None

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples, one a line, and the exit codes."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
        formatter.write_paragraph()
        formatter.write_text(f"Exit codes: {self.exit_codes}.")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
