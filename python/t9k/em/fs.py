"""`em://`: artifacts of the server as a read-only fsspec file system.

Whatever reads through fsspec (pandas, pyarrow, dask, torch, safetensors) reads files of artifacts by their URL:
``em:///<user>/<folder>/<artifact>/<path>``, or ``em://<folder>/<artifact>/<path>`` below the user who is logged in.
Behind the artifact's name there may be ``:alias`` or ``@digest``. Only ranges that are read are fetched, each verified.
What a name means is asked again when a file is opened, if the last answer is older than `FRESH_S`.

Example:
    >>> import pandas
    >>> pandas.read_parquet("em://datasets/digits:latest/train.parquet")  # doctest: +SKIP
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import IO, Any

from fsspec import AbstractFileSystem

from t9k.em.client import artifacts, nodes
from t9k.em.client.connection import connected
from t9k.em.client.placement import absolute_path
from t9k.em.client.session import Session
from t9k.em.errors import NotFoundError
from t9k.em.transfer.partial import RemoteFiles

FRESH_S = 5.0
"""So long a name is taken to mean the version that it meant: whoever opens a thousand files asks once."""

_Info = dict[str, Any]


@dataclass
class _Known:
    """What a name of an artifact means, as far as was known at `asked_at`."""

    files: RemoteFiles
    asked_at: float


class EMFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Folders, artifacts and their files on the server that this process is logged in to."""

    protocol = "em"
    root_marker = "/"

    def __init__(self, **options: Any) -> None:
        """Sends nothing: the login is looked for at the first request."""
        super().__init__(**options)
        self._session: Session | None = None
        self._artifacts: dict[str, _Known] = {}

    def invalidate_cache(self, path: str | None = None) -> None:
        """Asks again what names of artifacts mean."""
        self._artifacts.clear()
        super().invalidate_cache(path)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix("em://").rstrip("/") or "/"

    def _split(self, path: str, *, is_opened: bool = False) -> tuple[str, RemoteFiles | None, str]:
        """The artifact's path as far as `path` goes, the artifact there if it is one, and the path in that.

        The shortest beginning that is an artifact counts: nothing lies below an artifact but its files.
        """
        session = connected()
        if session is not self._session:
            self._session = session
            self._artifacts.clear()
        path = self._strip_protocol(path)
        full = absolute_path(path, session.user)
        parts = full.strip("/").split("/")
        heads = {"/" + "/".join(parts[:count]): "/".join(parts[count:]) for count in range(2, len(parts) + 1)}
        for head, inside in heads.items():
            if (known := self._artifacts.get(head)) is not None:
                if is_opened and time.monotonic() > known.asked_at + FRESH_S:
                    version = artifacts.resolve(session, head)
                    files = known.files if known.files.is_of(version) else RemoteFiles.of(session, version)
                    self._artifacts[head] = known = _Known(files, time.monotonic())
                return _without(path, inside), known.files, inside
        for head, inside in heads.items():
            name = head.rpartition("/")[2]
            node = nodes.find(session, head.partition(":")[0].partition("@")[0] if ":" in name or "@" in name else head)
            if node is None:
                break
            if node.kind == "Artifact":
                self._artifacts[head] = _Known(RemoteFiles.at(session, head), time.monotonic())
                return _without(path, inside), self._artifacts[head].files, inside
        return path, None, ""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Lists a folder, or a directory of an artifact."""
        head, files, inside = self._split(path)
        found = self._ls_files(head, files, inside) if files is not None else self._ls_folder(head)
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [one["name"] for one in found]

    def _ls_folder(self, path: str) -> list[_Info]:
        session = connected()
        node = nodes.find(session, absolute_path(path, session.user))
        if node is None:
            raise FileNotFoundError(path)
        # As they were asked for: pyarrow takes a name of another form for one of another directory.
        children = nodes.children(session, node)
        return [_directory(f"{path.rstrip('/')}/{child.name}", kind=child.kind) for child in children]

    def _ls_files(self, head: str, files: RemoteFiles, inside: str) -> list[_Info]:
        entry = files.entries.get(inside)
        if entry is not None and entry["type"] == "file":
            return [_file(f"{head}/{inside}", entry)]
        prefix = f"{inside}/" if inside else ""
        found: dict[str, _Info] = {}
        for path, below in files.entries.items():
            name, _, deeper = path.removeprefix(prefix).partition("/")
            if not path.startswith(prefix) or not name or below["type"] == "reference":
                continue
            whole = f"{head}/{prefix}{name}"
            found[name] = _directory(whole) if deeper or below["type"] == "directory" else _file(whole, below)
        if not found and inside and (entry is None or entry["type"] != "directory"):
            raise FileNotFoundError(f"{head}/{inside}")
        return list(found.values())

    def info(self, path: str, **_: Any) -> _Info:
        """Tells type and size of one path."""
        head, files, inside = self._split(path)
        if files is None:
            session = connected()
            node = nodes.find(session, absolute_path(head, session.user))
            if node is None:
                raise FileNotFoundError(path)
            return _directory(head, kind=node.kind)
        entry = files.entries.get(inside)
        if entry is not None and entry["type"] == "file":
            return _file(f"{head}/{inside}", entry)
        if inside and not any(name == inside or name.startswith(f"{inside}/") for name in files.entries):
            raise FileNotFoundError(path)
        return _directory(f"{head}/{inside}".rstrip("/"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> IO[bytes]:
        if mode != "rb":
            raise NotImplementedError(f"em:// cannot be opened with mode {mode!r}: it is read-only")
        try:
            head, files, inside = self._split(path, is_opened=True)
            if files is None:
                raise NotFoundError(f"there is no artifact on the way to {head!r}")
            return files.open(inside)
        except NotFoundError as error:
            raise FileNotFoundError(str(error)) from None

    def created(self, path: str) -> Any:
        """Not known of files."""
        raise NotImplementedError

    def modified(self, path: str) -> Any:
        """Not known of files: a version never changes."""
        raise NotImplementedError

    def ukey(self, path: str) -> str:
        """The digest of a file's content."""
        return str(self.info(path).get("digest", path))


def _without(path: str, inside: str) -> str:
    """The beginning of a path that ends with `inside`."""
    return path.removesuffix(f"/{inside}") if inside else path


def _file(name: str, entry: dict[str, Any]) -> _Info:
    return {"name": name, "type": "file", "size": entry["size"], "digest": entry["digest"]}


def _directory(name: str, **more: Any) -> _Info:
    return {"name": name, "type": "directory", "size": 0, **more}
