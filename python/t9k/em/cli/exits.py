"""How a verb ends: our errors, those of files, Ctrl-C and a closed pipe become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from t9k.em.errors import EmError
from t9k.em.escape import printable

ERROR = 1
INTERRUPTED = 130
CLOSED_PIPE = 141


def exit_code(call: Callable[[], object]) -> int:
    """Calls, says in one line what went wrong, and returns the exit code."""
    try:
        call()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except (EmError, OSError) as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt as interrupt:
        # Below the line of the terminal's ^C, or of a bar.
        print("\n" + (str(interrupt) or "Interrupted"), file=sys.stderr)
        return INTERRUPTED
    return 0
