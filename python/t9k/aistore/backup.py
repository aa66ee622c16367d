"""Backups of a whole server, taken while it runs, and restored into either database.

```text
<backup>/
  backup.json          schema revision, time, rows of each table, blobs and their bytes; written last: without it
                       there is no backup
  tables/<name>.jsonl  a row each line, in the order of the primary key; bytes as base64
  blobs/…              as in the blob store
```

The tables are one snapshot. Blobs are copied after it, and the garbage collector deletes none meanwhile, so every blob
that the snapshot names is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from t9k.aistore.blobs.local import LocalBlobStore, make_directory, sync_directory
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import iso, now_us
from t9k.aistore.db import Database, dump
from t9k.aistore.db.schema import current, upgrade
from t9k.aistore.errors import conflict, integrity, invalid

FORMAT = 1
Report = Callable[[int, int], object]
"""Called with blobs and bytes copied so far."""


def backup(database: Database, blobs: BlobStore, target: Path, report: Report = lambda *_: None) -> dict[str, Any]:
    """Copies database and blobs to a new directory, all of it durable when this returns.

    Blobs that an earlier backup in the same directory has are not copied again: repeat a backup into the same directory
    to make it cheap.

    Returns:
        What ``backup.json`` says.

    Raises:
        Refusal: The directory holds something else (`conflict`).
    """
    index = target / "backup.json"
    if target.exists() and any(target.iterdir()) and not index.exists():
        raise conflict(f"{target} is not empty and not a backup", hint="name a new directory")
    index.unlink(missing_ok=True)  # until the end there is no backup
    make_directory(target / "tables")
    with dump.hold_blobs(database):
        rows: dict[str, int] = {}

        def write_tables(connection: Connection) -> str | None:
            for name, found in dump.tables(connection):
                lines = (json.dumps(row, ensure_ascii=False) for row in found)
                rows[name] = _write_lines(target / "tables" / f"{name}.jsonl", lines)
            return dump.revision(connection)

        revision = database.read(write_tables)
        copies = LocalBlobStore(target / "blobs")
        count = size_bytes = 0
        for blob in blobs.list():
            if copies.size(blob.key) != blob.size_bytes:
                copies.delete(blob.key)
                copies.put_if_absent(blob.key, blobs.get(blob.key))
            count, size_bytes = count + 1, size_bytes + blob.size_bytes
            report(count, size_bytes)
    document = {
        "format": FORMAT,
        "revision": revision,
        "taken": iso(now_us()),
        "rows": rows,
        "blobs": count,
        "blob_bytes": size_bytes,
    }
    _write_lines(index, iter([json.dumps(document)]))
    return document


def restore(source: Path, database: Database, blobs: BlobStore, report: Report = lambda *_: None) -> dict[str, Any]:
    """Fills an empty database and blob store from a backup, then brings the schema to this version's.

    Raises:
        Refusal: There is no backup (`invalid_input`), the database is not empty (`conflict`), or a row is missing
            (`integrity`).
    """
    try:
        document: dict[str, Any] = json.loads((source / "backup.json").read_text())
    except (OSError, ValueError) as error:
        raise invalid(
            f"{source} is not a backup: {error}", hint="name the directory that `aistore backup` wrote"
        ) from None
    if document.get("format") != FORMAT:
        raise invalid(
            f"{source} has format {document.get('format')}, this version reads {FORMAT}", hint="upgrade aistore"
        )
    if current(database) is not None:
        raise conflict("the database has tables already", hint="restore into an empty one: --data, --database-url")
    upgrade(database, document["revision"])
    copies = LocalBlobStore(source / "blobs")
    count = size_bytes = 0
    for blob in copies.list():
        blobs.put_if_absent(blob.key, copies.get(blob.key))
        count, size_bytes = count + 1, size_bytes + blob.size_bytes
        report(count, size_bytes)

    def read_tables(connection: Connection) -> None:
        for name in dump.names(connection):
            path = source / "tables" / f"{name}.jsonl"
            found = dump.insert(connection, name, map(json.loads, _read_lines(path)))
            if found != document["rows"].get(name, 0):
                raise integrity(f"{path} has {found} rows and not {document['rows'].get(name, 0)}")

    database.write(read_tables)
    upgrade(database)
    return document


def _write_lines(path: Path, lines: Iterator[str]) -> int:
    """Writes a file, durable under its name when this returns; answers the number of lines."""
    temporary = path.with_name(f".tmp-{path.name}")
    count = 0
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)
    return count


def _read_lines(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    with open(path, encoding="utf-8") as file:
        yield from file
