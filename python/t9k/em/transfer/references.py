"""What references of an artifact name, fetched by an explicit call only: nothing else opens a URI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

from t9k.em import _engine
from t9k.em.errors import ConflictError, IntegrityError, NotFoundError, StoreError, TransferError, translated
from t9k.em.transfer.select import make_directories, select

if TYPE_CHECKING:
    from t9k.em.artifact import Artifact

TIMEOUT_S = (10.0, 60.0)
_BLOCK_BYTES = 1 << 20


def fetch_references(artifact: Artifact, into: str, paths: Sequence[str] | None, glob: str | None) -> list[str]:
    """See `Artifact.fetch_references`."""
    known = {path: entry for path, entry in artifact.to_dict()["objects"].items() if entry["type"] == "reference"}
    chosen = select(known, paths, glob, f"reference in {artifact.alternative_name}")
    return [_fetch(known[path], make_directories(into, path)) for path in chosen]


def _fetch(entry: dict[str, Any], target: str) -> str:
    uri, size, digest = entry["uri"], entry.get("size"), entry.get("digest")
    if os.path.lexists(target):
        with translated():
            if digest and os.path.isfile(target) and _engine.hash_file(target) == digest:
                return target
        raise ConflictError(f"{target} is there already", hint="remove it, or choose another directory")
    temporary = f"{target}.tmp-{os.urandom(8).hex()}"
    try:
        with open(temporary, "xb") as file, _opened(uri, entry.get("etag")) as source:
            _copy(source, file, uri, size)
        with translated():
            if digest and _engine.hash_file(temporary) != digest:
                raise IntegrityError(f"{uri} has not the digest that was recorded, {digest}")
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, TransferError | NotFoundError | StoreError):
            raise
        raise StoreError(f"cannot fetch {uri} to {target}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return target


def _copy(source: IO[bytes], target: IO[bytes], uri: str, size: int | None) -> None:
    """At most a block more than was recorded: what is at a URI today may never end."""
    found = 0
    while (size is None or found <= size) and (block := source.read(_BLOCK_BYTES)):
        found += target.write(block)
    if size is not None and found != size:
        than = "more" if found > size else "fewer"
        raise IntegrityError(f"{uri} has {than} bytes than the {size} that were recorded")


@contextlib.contextmanager
def _opened(uri: str, etag: str | None) -> Iterator[IO[bytes]]:
    scheme = urlsplit(uri).scheme.lower()
    if scheme in ("http", "https"):
        with _http(uri, etag) as source:
            yield source
    elif scheme in ("file", ""):
        path = unquote(urlsplit(uri).path) if scheme else uri
        try:
            source = open(path, "rb")  # noqa: SIM115 - closed below, when it could be opened
        except FileNotFoundError:
            raise NotFoundError(f"there is no file {path}") from None
        with source:
            yield source
    else:
        with _fsspec(uri, scheme) as source:
            yield source


@contextlib.contextmanager
def _http(uri: str, etag: str | None) -> Iterator[IO[bytes]]:
    import requests
    import urllib3

    try:
        # A request of its own: the key of the server goes nowhere else.
        with requests.get(uri, stream=True, timeout=TIMEOUT_S, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code == 404:
                raise NotFoundError(f"there is nothing at {uri}")
            if response.status_code != 200:
                raise TransferError(f"cannot fetch {uri}: status {response.status_code}")
            found = response.headers.get("ETag")
            if etag and found and found.removeprefix("W/") != etag.removeprefix("W/"):
                raise IntegrityError(f"{uri} has the ETag {found}, and {etag} was recorded: it has changed")
            response.raw.enforce_content_length = True  # urllib3 1.26 takes a body that is cut off for whole
            yield cast(IO[bytes], response.raw)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransferError(f"cannot fetch {uri}: {error}") from None


@contextlib.contextmanager
def _fsspec(uri: str, scheme: str) -> Iterator[IO[bytes]]:
    try:
        import fsspec
    except ImportError:
        raise TransferError(f"cannot fetch {uri}: nothing here knows {scheme}", hint="pip install fsspec") from None
    try:
        opened = fsspec.open(uri, "rb")
    except (ValueError, ImportError) as error:
        raise TransferError(f"cannot fetch {uri}: {error}") from None
    try:
        with opened as source:
            yield source
    except FileNotFoundError:
        raise NotFoundError(f"there is nothing at {uri}") from None
