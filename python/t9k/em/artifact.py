"""Artifact: a set of files that a Run inputs or outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.errors import InvalidInputError, NotFoundError, translated
from t9k.em.fields import Fields
from t9k.em.linked import Added, tell
from t9k.em.progress import Progress
from t9k.em.run_files import check_name, make_run_dir, path_text

if TYPE_CHECKING:
    from t9k.em.transfer.partial import RemoteFiles

METADATA = os.path.join(".artifact", "metadata.json")
MAX_METADATA_BYTES = 16 << 20


def store_dir() -> str:
    """Returns the local store: EM_STORE_DIR, by default ``.em/store``."""
    return os.environ.get("EM_STORE_DIR") or os.path.join(".em", "store")


def etags_of(manifest: bytes) -> dict[str, str]:
    """What is known of the ETags of references, by their paths. Holds the references of the manifest."""
    return {path: etag for path, _, _, etag, _ in _engine.manifest_references(manifest) if etag is not None}


def artifact_parent_dir() -> str:
    """Returns where new artifacts go: EM_ARTIFACT_PARENT_DIR, by default ``.em/artifacts``."""
    return os.environ.get("EM_ARTIFACT_PARENT_DIR") or os.path.join(".em", "artifacts")


class Artifact:
    """A set of files that a Run inputs or outputs; made by `create_artifact` and `load_artifact`.

    Files are added by content: their bytes go to the local store once,
    however often they are added, and appear at ``<local>/<obj_path>`` as
    read-only links. An add is whole or not at all, whatever ends the process.

    Attributes:
        name: Name of the Artifact.
        labels: Labels of the Artifact.
        description: Description of the Artifact.
        created_timestamp: Created timestamp of the Artifact.
        alternative_name: ``<name>_<YYMMDD>_<HHMMSS>_<6 random characters>``,
            the name of the local directory.
        remote: Upload and download history of the Artifact.
        local: Local directory of the Artifact; empty if it has none.

    Example:
        >>> from t9k import em
        >>> artifact = em.create_artifact(name="checkpoints")
        >>> artifact.add_dir("checkpoints/")
        >>> run.mark_output(artifact)
    """

    def __init__(self, metadata: dict[str, Any], objects: dict[str, dict[str, Any]] | None = None) -> None:
        """Creates an Artifact in memory; `create_artifact` gives it a directory.

        Args:
            metadata: ``name``, ``labels``, ``description``,
                ``created_timestamp``, ``alternative_name``, ``remote`` and
                ``local``; only the name must be there.
            objects: Entries by obj_path, as `to_dict` gives them. They are
                what ``objects`` shows until the artifact has a directory.

        Raises:
            InvalidInputError: A field has another type.
        """
        self._remote_files: RemoteFiles | None = None
        self.parse_from_dict({"metadata": metadata, "objects": objects or {}})

    def parse_from_dict(self, data: dict[str, Any]) -> None:
        """Parses an Artifact instance from a dict as `to_dict` returns it.

        Args:
            data: ``{"metadata": {…}, "objects": {obj_path: {…}}}``.

        Raises:
            InvalidInputError: A field has another type.
        """
        fields = Fields("an artifact", data.get("metadata"))
        self.name: str = check_name(fields.text("name"))
        self.labels: list[str] = fields.texts("labels")
        self.description: str = fields.text("description")
        self.created_timestamp: str = fields.text("created_timestamp")
        self.alternative_name: str = fields.text("alternative_name")
        self.remote: list[dict[str, str]] = fields.mappings("remote")
        self.local: str = fields.text("local")
        self._objects: dict[str, dict[str, Any]] = Fields("an artifact", data).mapping("objects")

    def to_dict(self) -> dict[str, Any]:
        """Converts Artifact instance to a dict and returns it.

        Returns:
            Plain values: ``{"metadata": {…}, "objects": {obj_path: {…}}}``.
        """
        return {"metadata": self.describe(), "objects": dict(self.entries())}

    def describe(self) -> dict[str, Any]:
        """Returns the metadata that `to_dict` has, without the objects."""
        return self._metadata() | {"local": self.local}

    def _metadata(self) -> dict[str, Any]:
        names = ("name", "labels", "description", "created_timestamp", "alternative_name", "remote")
        return {name: getattr(self, name) for name in names}

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields path and entry, sorted by path, without holding more than one of them; see `objects`."""
        if not self.local:
            yield from sorted(self._objects.items())
            return
        fields = ("type", "size", "digest", "executable", "uri")
        etags: dict[str, str] | None = None
        with translated():
            for path, *rest in _engine.read_entries(self.local):
                entry = {name: value for name, value in zip(fields, rest, strict=True) if value is not None}
                if entry["type"] == "reference":
                    etags = etags_of(_engine.read_manifest(self.local)) if etags is None else etags
                    entry |= {"etag": etags[path]} if path in etags else {}
                yield path, entry

    @property
    def objects(self) -> list[dict[str, str]]:
        """Data of objects of the Artifact, sorted by path, every value as text.

        Each has ``path`` and ``type`` (``file``, ``directory`` or
        ``reference``), and as far as they are known ``size`` in bytes,
        ``digest`` (BLAKE3), ``executable``, ``uri`` and ``etag``.
        """
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, str]]:
        for path, entry in self.entries():
            yield {"path": path} | {name: str(value) for name, value in entry.items()}

    def add_dir(self, dir_path: str | os.PathLike[str], obj_path: str | None = None) -> None:
        """Adds all files under a local directory as objects of the Artifact.

        Symbolic links are followed; empty directories and the executable bit
        are kept. A file whose path the Artifact has already is replaced, all
        others of the Artifact stay. All or nothing: on an error and at Ctrl-C
        the Artifact is what it was. Several processes may add to one Artifact.

        New bytes are read once and written once. A file that has not changed
        since it was last added, to any Artifact of the store, is not read. The
        source stays as it is and may be changed or deleted afterwards. What
        takes longer than two seconds shows its progress on stderr, unless
        EM_QUIET is set.

        Args:
            dir_path: The directory.
            obj_path: Where it goes in the artifact: its own name by default;
                ``'b/'`` is ``b/<its name>``, and ``'b'`` is its new name.

        Raises:
            InvalidInputError: The obj_path is absolute, is not normalized,
                is ``.artifact``, or makes a directory of a file or the
                reverse; a pipe, socket or device; a name that is not UTF-8; a
                loop of links.
            NotFoundError: There is no such directory.
            ConflictError: A file changed while it was read, twice.
            StoreError: The disk is full, or a file cannot be read; ``errno``
                says why.

        Example:
            >>> artifact.add_dir("a/")  # to <local>/a
            >>> artifact.add_dir("a/", "b/")  # to <local>/b/a
            >>> artifact.add_dir("a/", "b")  # to <local>/b
        """
        self._add(_engine.add_dir, dir_path, obj_path)

    def add_file(self, file_path: str | os.PathLike[str], obj_path: str | None = None) -> None:
        """Adds a local file as an object of the Artifact.

        A link is followed. A file that is there already at that path is
        replaced, whole. Cost, progress and Ctrl-C are as with `add_dir`.

        Args:
            file_path: The file.
            obj_path: Where it goes in the artifact: its own name by default;
                ``'a/'`` is ``a/<its name>``, and ``'a'`` is its new name.

        Raises:
            InvalidInputError: A bad obj_path, as with `add_dir`, or no regular
                file.
            NotFoundError: There is no such file.
            ConflictError: It changed while it was read, twice.
            StoreError: The disk is full, or the file cannot be read.

        Example:
            >>> artifact.add_file("1.png")  # to <local>/1.png
            >>> artifact.add_file("1.png", "a/")  # to <local>/a/1.png
            >>> artifact.add_file("1.png", "a/2.png")  # to <local>/a/2.png
        """
        self._add(_engine.add_file, file_path, obj_path)

    def _add(self, add: Callable[..., Added], path: str | os.PathLike[str], obj_path: str | None) -> None:
        source = path_text(path)
        target = target_path(source, obj_path)
        with translated(), Progress("add") as progress:
            summary = add(store_dir(), self._directory(), source, target, progress)
        self._warn(summary)
        tell(summary["linked"], self.local, store_dir())

    def _warn(self, summary: Added) -> None:
        if count := summary["reserved_on_windows"]:
            import logging

            logger = logging.getLogger("t9k.em")
            logger.warning("%d of the paths added to %s cannot be made on Windows", count, self.alternative_name)

    def add_reference(
        self,
        uri: str,
        obj_path: str | None = None,
        *,
        size: int | None = None,
        etag: str | None = None,
        digest: str | None = None,
    ) -> None:
        """Adds a URI as an object reference to the Artifact; nothing is fetched.

        What is given of the content is kept with it, and `fetch_references`
        refuses other content. An object at that path is replaced as an entry;
        its file stays in the directory.

        Args:
            uri: Where the content is: 1 to 8,192 bytes.
            obj_path: Its path in the artifact: the last part of the URI by
                default; ``'a/'`` is below ``a``.
            size: Bytes of the content.
            etag: Its ETag, as the server of an HTTP URI says it.
            digest: Its BLAKE3, 64 hex digits, as `em hash` prints it.

        Raises:
            InvalidInputError: A bad obj_path, as with `add_dir`, or what is
                said of the content cannot be.
            StoreError: The manifest cannot be written.

        Example:
            >>> artifact.add_reference("s3://bucket/data.csv", size=1200)
        """
        target = target_path(uri.split("?")[0].split("#")[0], obj_path)
        if size is not None and not 0 <= size < 1 << 63:
            raise InvalidInputError(f"no content has {size} bytes")
        try:
            known_digest = bytes.fromhex(digest) if digest is not None else None
        except ValueError:
            raise InvalidInputError(f"{digest!r} is not a digest", hint="64 hex digits, as `em hash` prints") from None
        with translated():
            summary = _engine.add_reference(self._directory(), target, uri, size, etag, known_digest)
        self._warn(summary)

    def upload(self, folder: str = "default", make_folder: bool = False, conflict_strategy: str = "new") -> None:
        """Uploads this Artifact to server, which is sent only the chunks that it lacks.

        When this returns the server has stored all of it durably. A call that
        was interrupted is continued by the next one.

        Args:
            folder: Path of the Folder it goes to; without a leading ``/`` it
                is below ``/<current-user>/``.
            make_folder: Whether to make the Folder and its parents as needed.
            conflict_strategy: What to do with a taken name: ``'skip'``,
                ``'error'``, ``'new'`` (the alternative name) or
                ``'replace'``.

        Raises:
            ConflictError: The name is taken, and so is the alternative name,
                or the strategy is ``'error'``.
            NotFoundError: There is no such Folder.
            IntegrityError: A stored file is damaged; the message names its
                path in the Artifact.
            AuthError: Nobody is logged in, or the user may not.
            TransferError: The server cannot be reached.

        Example:
            >>> artifact.upload(folder="checkpoints", make_folder=True)  # doctest: +SKIP
        """
        from t9k.em.client.connection import connected
        from t9k.em.client.placement import Target
        from t9k.em.transfer.upload import upload_artifact

        target = Target(folder, make_folder, conflict_strategy)
        self._directory()
        upload_artifact(connected(), self, target)

    @classmethod
    def at(cls, path: str) -> Artifact:
        """Opens an Artifact of the server without downloading it; it has no local directory.

        `objects` lists it, `open` reads files or parts of them, `download`
        gets some of them. Nothing else works before `load_artifact`.

        Args:
            path: Path of the Artifact in server, as `load_artifact` takes it.

        Raises:
            NotFoundError: There is none at that path.
            AuthError: Nobody is logged in, or the user may not see it.
            TransferError: The server cannot be reached.

        Example:
            >>> config = em.Artifact.at("checkpoints/gpt:latest").open("config.json")  # doctest: +SKIP
        """
        from t9k.em.client.connection import connected
        from t9k.em.transfer.partial import RemoteFiles

        files = RemoteFiles.at(connected(), path)
        artifact = cls(files.metadata, files.entries)
        artifact._remote_files = files
        return artifact

    def open(self, path: str) -> IO[bytes]:
        """Opens a file of the Artifact for reading, as bytes, with `seek`.

        Of one that is not downloaded only the ranges that are read are
        fetched, each verified; a bounded part of them is kept in memory.

        Raises:
            NotFoundError: There is no file at that path.
            IntegrityError: The server's bytes are wrong (when reading).
        """
        if self._remote_files is not None:
            return self._remote_files.open(path)
        entry = next((entry for found, entry in self.entries() if found == path), None)
        if entry is None or entry["type"] != "file":
            raise NotFoundError(f"there is no file {path!r} in artifact {self.alternative_name!r}")
        return open(os.path.join(self._directory(), path), "rb")

    def download(
        self, into: str | os.PathLike[str] = ".", paths: Sequence[str] | None = None, glob: str | None = None
    ) -> list[str]:
        """Downloads files of an Artifact that `at` opened to a directory; they go through the local store.

        Args:
            into: The directory, which is made if it is not there.
            paths: Files and directories of the Artifact; all by default.
            glob: Pattern of paths as `fnmatch` has it: ``*.safetensors``.

        Returns:
            Where the files are, sorted.

        Raises:
            NotFoundError: No file of the Artifact is meant.
            ConflictError: Another file is in the way; then nothing is written.
        """
        if self._remote_files is None:
            raise InvalidInputError(
                f"artifact {self.name!r} is local", hint="em.Artifact.at(path) opens one that is not"
            )
        return self._remote_files.download(path_text(into), paths, glob)

    def fetch_references(
        self, into: str | os.PathLike[str] = ".", paths: Sequence[str] | None = None, glob: str | None = None
    ) -> list[str]:
        """Fetches what references of the Artifact name: ``http(s)``, ``file``, and what an installed fsspec knows.

        Size, ETag and digest are checked as far as they are recorded.

        Args:
            into: The directory that they go to, at their paths in the Artifact.
            paths: References, and directories with some; all by default.
            glob: Pattern of paths as `fnmatch` has it.

        Returns:
            Where the files are, sorted.

        Raises:
            NotFoundError: No reference is meant, or its target is not there.
            IntegrityError: The target is not what was recorded.
            TransferError: It cannot be fetched.
        """
        from t9k.em.transfer.references import fetch_references

        return fetch_references(self, path_text(into), paths, glob)

    def remember(self, transfer: dict[str, str]) -> None:
        """Appends a line to the remote history, in the directory too.

        Raises:
            StoreError: The metadata cannot be written.
        """
        self.remote.append(transfer)
        self._save_metadata()

    def _save_metadata(self) -> None:
        import json

        text = json.dumps(self._metadata(), indent=1, ensure_ascii=False) + "\n"
        with translated():
            _engine.write_metadata(self._directory(), text)

    def _directory(self) -> str:
        if not self.local:
            raise InvalidInputError(f"artifact {self.name!r} has no local directory", hint="use em.create_artifact")
        return self.local

    def _repr_html_(self) -> str:
        from t9k.em.notebook import MAX_ROWS, table

        count = size_bytes = 0
        listed: list[tuple[str, object]] = []
        for path, entry in self.entries():
            count += 1
            size_bytes += entry.get("size") or 0
            if count <= MAX_ROWS:
                listed.append((path, entry.get("uri") or entry.get("size") or entry.get("type") or ""))
        known = {"labels": ", ".join(self.labels), "description": self.description, "local": self.local}
        rows: list[tuple[str, object]] = [(key, value) for key, value in known.items() if value]
        rows += [("entries", count), ("size_bytes", size_bytes), *listed]
        return table(f"Artifact {self.alternative_name or self.name}", rows)

    def __repr__(self) -> str:
        return f"Artifact(name={self.name!r}, local={self.local!r})"


def target_path(source: str, obj_path: str | None) -> str:
    """Returns the path in the artifact: the source's own name, or below a path that ends in a slash."""
    name = os.path.basename(os.path.abspath(source)) if "://" not in source else source.rstrip("/").rpartition("/")[2]
    given = path_text(obj_path) if obj_path is not None else ""
    path = given if given and not given.endswith("/") else given + name
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"obj_path {path!a} is not UTF-8", hint="use another obj_path") from None
    return path


def create_artifact(name: str, labels: Sequence[str] | None = None, description: str = "") -> Artifact:
    """Creates and initializes a new Artifact.

    Its local directory is ``<parent>/<alternative_name>``, where the parent is
    EM_ARTIFACT_PARENT_DIR (default ``.em/artifacts``) and the alternative name
    is ``<name>_<YYMMDD>_<HHMMSS>_<6 random characters>``.

    Args:
        name: Name of the Artifact: 1 to 200 bytes of printable text without
            slashes. Names may be equal; alternative names are not.
        labels: Labels of the Artifact.
        description: Description of the Artifact.

    Returns:
        An Artifact instance without objects. Its directory is there; removing
        it deletes the Artifact, and `em gc` then reclaims what it alone had.

    Raises:
        InvalidInputError: The name cannot be part of a directory's name, or
            an argument has another type.
        StoreError: The directory cannot be made.

    Example:
        >>> from t9k import em
        >>> artifact = em.create_artifact(name="tensorboard_logs")
        >>> artifact.add_dir("logs/")
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    artifact = Artifact({"name": name, "labels": labels, "description": description, "created_timestamp": created})
    directory, artifact.alternative_name = make_run_dir(artifact_parent_dir(), artifact.name)
    artifact.local = os.path.abspath(directory)
    with translated():
        _engine.create_artifact(artifact.local)
    artifact._save_metadata()
    return artifact


def load_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Loads an Artifact from its local directory, else from the server.

    On the server ``name:alias`` and ``name@digest`` name a version; ``name``
    is the latest. It is put below EM_ARTIFACT_PARENT_DIR, where the same
    version is found again the next time. Only chunks that no file of the local
    store has are fetched, and each is verified. A call that was interrupted is
    continued by the next one.

    Args:
        path: Local directory of the Artifact, or path of the Artifact in
            server; without a leading ``/`` that is below ``/<current-user>/``.

    Returns:
        An Artifact instance loaded.

    Raises:
        NotFoundError: There is none at that path; it is a RuntimeError too.
        InvalidInputError: Its metadata cannot be read.
        StoreError: The disk is full, or the directory cannot be read.
        IntegrityError: The server's bytes are wrong, twice; none of them is
            kept.
        AuthError: The user may not see it.
        TransferError: The server cannot be reached.

    Example:
        >>> loaded = em.load_artifact(artifact.local)
    """
    from t9k.em.client.connection import connected, is_configured

    path = path_text(path)
    try:
        return load_local(path)
    except NotFoundError as error:
        if not is_configured():
            if error.hint is not None:
                raise
            hint = "no server was asked: nobody is logged in, or EM_MODE is offline"
            raise NotFoundError(str(error), hint=hint) from None
    from t9k.em.transfer.download import download_artifact

    return download_artifact(connected(), path)


def load_local(path: str) -> Artifact:
    """Loads an Artifact from its directory; what an interrupted add left there is undone first.

    Raises:
        NotFoundError: There is none at that path.
        InvalidInputError: Its metadata cannot be read.
    """
    import json

    metadata_path = os.path.join(path, METADATA)
    try:
        with open(metadata_path, "rb") as file:
            text = file.read(MAX_METADATA_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        is_run = os.path.isfile(os.path.join(path, "metadata.yaml"))
        hint = "that is a run: em.load_run loads it" if is_run else None
        raise NotFoundError(f"no artifact at {path!r}", hint=hint) from None
    try:
        metadata = json.loads(text)
        artifact = Artifact(metadata | {"local": os.path.abspath(path)})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidInputError(
            f"{metadata_path} is not the metadata of an artifact: {error}",
            hint='its entries are still there: write {"name": "…"} into it',
        ) from None
    with translated():
        _engine.recover(store_dir(), artifact.local)
    return artifact
