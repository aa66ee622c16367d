"""`em://`: artifacts of the server as a read-only fsspec file system.

Whatever reads through fsspec (pandas, pyarrow, dask, torch, safetensors) reads files of artifacts by their URL:
``em:///<user>/<folder>/<artifact>/<path>``, or ``em://<folder>/<artifact>/<path>`` below the user who is logged in.
Behind the artifact's name there may be ``:alias`` or ``@digest``. Only ranges that are read are fetched, each verified.

Example:
    >>> import pandas
    >>> pandas.read_parquet("em://datasets/digits:latest/train.parquet")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import IO, Any

from fsspec import AbstractFileSystem

from t9k.em.client import nodes
from t9k.em.client.connection import connected
from t9k.em.client.placement import absolute_path
from t9k.em.errors import NotFoundError
from t9k.em.transfer.partial import RemoteFiles

_Info = dict[str, Any]


class EMFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Folders, artifacts and their files on the server that this process is logged in to."""

    protocol = "em"
    root_marker = "/"

    def __init__(self, **options: Any) -> None:
        """Sends nothing: the login is looked for at the first request."""
        super().__init__(**options)
        self._artifacts: dict[str, RemoteFiles] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix("em://").rstrip("/") or "/"

    def _split(self, path: str) -> tuple[str, RemoteFiles | None, str]:
        """The node's path, the artifact there if it is one, and the path in that.

        The shortest beginning that is an artifact counts: nothing lies below an artifact but its files.
        """
        session = connected()
        full = absolute_path(self._strip_protocol(path), session.user)
        parts = full.strip("/").split("/")
        for count in range(2, len(parts) + 1):
            head = "/" + "/".join(parts[:count])
            if head in self._artifacts:
                return head, self._artifacts[head], "/".join(parts[count:])
        for count in range(2, len(parts) + 1):
            head = "/" + "/".join(parts[:count])
            name = parts[count - 1]
            node = nodes.find(session, head.partition(":")[0].partition("@")[0] if ":" in name or "@" in name else head)
            if node is None:
                break
            if node.kind == "Artifact":
                self._artifacts[head] = files = RemoteFiles.at(session, head)
                return head, files, "/".join(parts[count:])
        return full, None, ""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Lists a folder, or a directory of an artifact."""
        full, files, inside = self._split(path)
        found = self._ls_files(full, files, inside) if files is not None else self._ls_folder(full)
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [one["name"] for one in found]

    def _ls_folder(self, full: str) -> list[_Info]:
        session = connected()
        node = nodes.find(session, full)
        if node is None:
            raise FileNotFoundError(full)
        return [_directory(child.path, kind=child.kind) for child in nodes.children(session, node)]

    def _ls_files(self, full: str, files: RemoteFiles, inside: str) -> list[_Info]:
        entry = files.entries.get(inside)
        if entry is not None and entry["type"] == "file":
            return [_file(f"{full}/{inside}", entry)]
        prefix = f"{inside}/" if inside else ""
        found: dict[str, _Info] = {}
        for path, below in files.entries.items():
            name, _, deeper = path.removeprefix(prefix).partition("/")
            if not path.startswith(prefix) or not name or below["type"] == "reference":
                continue
            whole = f"{full}/{prefix}{name}"
            found[name] = _directory(whole) if deeper or below["type"] == "directory" else _file(whole, below)
        if not found and inside and (entry is None or entry["type"] != "directory"):
            raise FileNotFoundError(f"{full}/{inside}")
        return list(found.values())

    def info(self, path: str, **_: Any) -> _Info:
        """Tells type and size of one path."""
        full, files, inside = self._split(path)
        if files is None:
            node = nodes.find(connected(), full)
            if node is None:
                raise FileNotFoundError(path)
            return _directory(full, kind=node.kind)
        entry = files.entries.get(inside)
        if entry is not None and entry["type"] == "file":
            return _file(f"{full}/{inside}", entry)
        if inside and not any(name == inside or name.startswith(f"{inside}/") for name in files.entries):
            raise FileNotFoundError(path)
        return _directory(f"{full}/{inside}".rstrip("/"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> IO[bytes]:
        if mode != "rb":
            raise NotImplementedError(f"em:// cannot be opened with mode {mode!r}: it is read-only")
        full, files, inside = self._split(path)
        try:
            if files is None:
                raise NotFoundError(f"there is no artifact on the way to {full!r}")
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


def _file(name: str, entry: dict[str, Any]) -> _Info:
    return {"name": name, "type": "file", "size": entry["size"], "digest": entry["digest"]}


def _directory(name: str, **more: Any) -> _Info:
    return {"name": name, "type": "directory", "size": 0, **more}
