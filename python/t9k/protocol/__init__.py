"""What client and server both say: paths, kinds of errors, sizes, media types."""

from __future__ import annotations

API_PREFIX = "/api/v1"
"""Below the server's URL. A client of another major version is answered with a problem that says so."""

PROTOCOL_VERSION = 1
PROTOCOL_HEADER = "EM-Protocol"
"""Both sides send their version; the server refuses one that it does not speak."""

HISTORY_HEADER = "EM-History"
"""The server sends the id of its database's history, and refuses requests with another one: they come from before it
was restored from a backup, and rely on what the backup may not have."""

REQUEST_ID_HEADER = "X-Request-ID"
IDEMPOTENCY_HEADER = "Idempotency-Key"

PROBLEM_TYPE = "application/problem+json"
PACK_TYPE = "application/vnd.em.pack"
BINARY_TYPE = "application/octet-stream"

KINDS = {
    "invalid_input": 400,
    "auth": 403,
    "not_found": 404,
    "conflict": 409,
    "integrity": 422,
    "transfer": 503,
    "store": 507,
    "error": 500,
}
"""Kinds of errors, the same as those of `t9k.em.errors`, and the usual HTTP status of each."""

CONFLICT_STRATEGIES = ("skip", "error", "new", "replace")

DIGEST_BYTES = 32
MAX_PACK_BYTES = 64 << 20
MAX_JSON_BYTES = 1 << 20
"""Longest body of a request in JSON."""

MAX_PLAN_OBJECTS = 100_000
"""Objects that one `plan` request asks for; a larger artifact takes several."""

MAX_MISSING_CHUNKS = 1_000_000
"""Chunks that one `missing` request asks for (32 MB)."""

MAX_LOCATE_CHUNKS = 100_000
"""Chunks that one `locate` request asks for (3.2 MB, answered by 4.4 MB)."""

LEASE_HEADER = "EM-Lease"
CLAIM_HEADER = "EM-Claim"
LEASE_BYTES = 20
"""A lease is this many small letters and digits."""

MAX_MANIFEST_ENTRIES = 1_000_000
"""Files of an artifact on the server: what checking one takes of its memory is in proportion."""

MAX_MANIFEST_BYTES = 1 << 30
MAX_COMMIT_BYTES = 2 << 30
"""JSON, manifest and chunk tables of one commit."""

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
MAX_DEPTH = 64
"""Nodes on the way from a user's root to any node."""

MAX_LABELS = 100
MAX_LABEL_BYTES = 255
MAX_DESCRIPTION_BYTES = 64 << 10
MAX_PAGE = 1000


def problem_type(kind: str) -> str:
    """The `type` member of a problem document (RFC 9457)."""
    return f"urn:em:problem:{kind}"
