"""The `em` command: a file for each verb, imported when the verb is run.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call,
130 interrupted by Ctrl-C, 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command with the arguments, by default those of the process, and exits."""
    words = list(sys.argv[1:] if args is None else args)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by who has started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end of the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    try:
        if words[:1] == ["hash"] and words[1:] and all(os.path.exists(word) and word[0] != "-" for word in words[1:]):
            # Importing click and the rest takes as long as hashing 500 MB.
            from t9k.em.cli.digests import print_digests
            from t9k.em.cli.exits import exit_code

            sys.exit(exit_code(lambda: print_digests(words[1:])))
        from t9k.em.cli.group import em

        em.main(words, prog_name="em")
    except KeyboardInterrupt:  # while the modules were imported
        sys.exit(130)
    raise AssertionError("click exits by itself")
