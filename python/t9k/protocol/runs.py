"""Limits of a run's record, which client and server share. Those of a batch of metrics are in `metric_batch`."""

from __future__ import annotations

RUN_STATES = ("Running", "Complete", "Failed", "Crashed")

MAX_CLIENT_ID_CHARS = 64
"""Of `client_id` and of a session: letters, digits, ``-`` and ``_``."""

MAX_RECORD_DEPTH = 64
"""Nesting of metadata, hparams, platform and git."""

MAX_METRIC_TYPES = 1000
MAX_METRIC_NAMES = 10_000
"""Names of one type of a run."""

MAX_METRIC_POINTS = 100_000_000
"""Points of one type of a run."""

MAX_METRIC_SESSIONS = 10_000
MAX_LOG_BYTES = 256 << 20
MAX_LOG_PART_BYTES = 4 << 20
"""Bytes of a log that one request brings."""

MAX_EDGES = 1000
"""Inputs, and as many outputs, of a run."""

MAX_EXTERNAL_NAME_BYTES = 1024
"""Of an input or output that is not in a tree of the server."""

NEXT_HEADER = "EM-Next"
"""Of points in bytes: where the next page begins."""
