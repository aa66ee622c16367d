"""What an upload would send: the upload itself, to a server that takes nothing.

```text
upload ─ DrySession ─┬─ questions ─ the server
                     └─ changes ─ answered here as the server would
```

So nothing is estimated: packs are built, batches encoded and bodies written as they would travel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import IO, Any, ClassVar

from t9k.em.client import nodes
from t9k.em.client.session import Answer, Body, Request, Session
from t9k.protocol import CLAIM_HEADER, DIGEST_BYTES, LEASE_BYTES

_QUESTIONS = ("/artifacts/plan", "/artifacts/missing")

# Of a pack (`docs/formats.md`): what lies behind its footer, a record of the footer, and a digest in that.
_TAIL_BYTES, _RECORD_BYTES, _DIGEST_AT = 20, 41, 9


@dataclass
class _Taken:
    """What a server would have by now, beside what it has: about 100 bytes for each chunk."""

    chunks: set[bytes] = field(default_factory=set)
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass
class DrySession(Session):
    """Sends only requests that ask. What it is given counts as there from then on, and is forgotten with it."""

    is_dry: ClassVar[bool] = True
    taken: _Taken = field(default_factory=_Taken)

    @classmethod
    def of(cls, session: Session) -> DrySession:
        """One that asks the same server, as the same user."""
        return cls(**{one.name: getattr(session, one.name) for one in fields(Session) if one.init})

    def _send(self, request: Request) -> Answer:
        path, body = request.path, request.body
        wanted = str((request.params or {}).get("path"))
        if path in ("/nodes", "/runs") and (node := self.taken.nodes.get(wanted)) is not None:
            return _json(200, node if path == "/nodes" else {"node": node})
        if request.method == "GET" or path in _QUESTIONS:
            headers = {name: value for name, value in request.headers.items() if name != CLAIM_HEADER}
            answer = super()._send(replace(request, headers=headers))
            if path == "/artifacts/missing" and answer.status == 200 and isinstance(body, bytes):
                return Answer(200, answer.headers, self._without_taken(bytes(answer.body), body))
            return answer
        data = _read(body)
        if path.startswith("/packs/"):
            self.taken.chunks |= _chunks_of(data)
            return _json(201, {"lease": request.headers.get("EM-Lease", "0" * LEASE_BYTES)})
        if path == "/artifacts/commit":
            return self._place("Artifact", json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")]))
        return self._place("Run", json.loads(data)) if path == "/runs" else _json(200, {})

    def _without_taken(self, answer: bytes, asked: bytes) -> bytes:
        """An answer of `missing` after which nothing is missing that was given to this session."""
        bits = bytearray(answer)
        for index in range(len(asked) // DIGEST_BYTES if self.taken.chunks else 0):
            if asked[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] in self.taken.chunks:
                bits[LEASE_BYTES + index // 8] &= ~(1 << index % 8)
        return bytes(bits)

    def _place(self, kind: str, wish: Mapping[str, Any]) -> Answer:
        """The answer to what makes a node, as `docs/protocol.md` says of placing."""
        placement = wish.get("placement")
        if placement is None:
            node = self.request("GET", f"/nodes/{wish['artifact_id']}", "cannot find the artifact").json()
            return _json(201, {"node": node, "created": True})
        folder, strategy = placement["folder"], placement["conflict_strategy"]
        if nodes.find(self, folder) is None:
            if not placement["make_folder"]:
                return _problem(404, "not_found", f"there is no folder {folder}")
            self._make("Folder", folder)
        path = f"{folder}/{placement['name']}"
        there = nodes.find(self, path)
        if there is not None and strategy in ("skip", "replace") and there.kind != kind:
            return _problem(409, "conflict", f"{path} is a {there.kind}, not a {kind}")
        if there is not None and strategy == "skip":
            return _json(200, {"node": vars(there), "created": False})
        if there is not None and strategy == "new":
            path = f"{folder}/{placement['alternative_name']}"
            there = nodes.find(self, path)
        if there is not None and strategy != "replace":
            return _problem(409, "conflict", f"{path} is there already")
        return _json(201, {"node": self._make(kind, path), "created": True})

    def _make(self, kind: str, path: str) -> dict[str, str]:
        number = f"{len(self.taken.nodes):020}"
        node = {"id": number, "kind": kind, "path": path, "name": path.rpartition("/")[2]}
        return self.taken.nodes.setdefault(path, node)


def _read(body: bytes | IO[bytes] | Body | None) -> bytes:
    if isinstance(body, Body):
        return b"".join(body)
    if body is None or isinstance(body, bytes):
        return body or b""
    body.seek(0)
    return body.read()


def _chunks_of(pack: bytes) -> set[bytes]:
    count = int.from_bytes(pack[-_TAIL_BYTES : 4 - _TAIL_BYTES], "little")
    first = len(pack) - _TAIL_BYTES - _RECORD_BYTES * count + _DIGEST_AT
    return {pack[at : at + DIGEST_BYTES] for at in range(first, first + _RECORD_BYTES * count, _RECORD_BYTES)}


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, {}, json.dumps(document).encode())


def _problem(status: int, kind: str, detail: str) -> Answer:
    return _json(status, {"kind": kind, "detail": detail, "status": status})
