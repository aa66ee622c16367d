"""The Rust engine. See `rust/em-core` for how it works.

Digests are 32 bytes, several of them one behind the other in one `bytes`; other columns are little-endian integers in
the same manner, for `array`, `memoryview.cast` and `numpy.frombuffer`. Any contiguous buffer is taken where one is
read, without a copy; nobody may write to it meanwhile. Long calls detach the GIL.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, final

from typing_extensions import Buffer

from t9k.em.linked import Added, Linked

_Progress = Callable[[int, int, int, int], object] | None

_Entry = tuple[str, str, int | None, str | None, bool, str | None]

class EngineError(Exception):
    """A failure of the engine; `kind` says which."""

    kind: str
    message: str
    hint: str | None
    errno: int | None

ERROR_KINDS: tuple[str, ...]
"""Every `kind`, and `cancelled`, which is raised as KeyboardInterrupt."""

# Directories of artifacts and their manifests.

def create_artifact(artifact_dir: str) -> None:
    """Make an artifact's directory with an empty manifest."""

def write_metadata(artifact_dir: str, text: str) -> None:
    """Replace the metadata file of an artifact's directory, at once."""

@final
class Entries:
    """Entries of an artifact's manifest, read while they are asked for."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> _Entry: ...

def read_entries(artifact_dir: str) -> Entries:
    """Read the entries of an artifact's manifest, sorted by path."""

def manifest_digest(artifact_dir: str) -> str:
    """Digest of an artifact's manifest: its version identity."""

def read_manifest(artifact_dir: str) -> bytes:
    """Read the canonical bytes of an artifact's manifest."""

def parse_manifest(data: Buffer) -> list[_Entry]:
    """Check the bytes of a manifest from anywhere and decode their entries, as `read_entries` gives them."""

def manifest_objects(data: Buffer) -> tuple[bytes, bytes]:
    """The objects that the bytes of a manifest name, each once: digests, and sizes as u64."""

def manifest_references(data: Buffer) -> list[tuple[str, str, int | None, str | None, bytes | None]]:
    """The references of a manifest: path, URI, and what is known of each.

    That is its size in bytes, its HTTP entity tag and its digest; None stands for what is not known.
    """

def materialize(
    store: str | Store, artifact_dir: str, manifest: Buffer, metadata: Buffer | None = None, progress: _Progress = None
) -> Linked:
    """Make an artifact's directory from a manifest whose objects the store has; it appears whole or not at all.

    `metadata` becomes `.artifact/metadata.json`. A directory that is there must be empty, or an artifact with the
    same entries, which is left as it is; otherwise the kind is `conflict`. It is `not_found` if the store lacks an
    object, which it then names. Every link is made in a directory of this call's own, so no symbolic link is
    followed. Answers how the files came there.
    """

def recover(store: str, artifact_dir: str | None = None) -> None:
    """Undo what interrupted adds left in an artifact's directory, or in those of all artifacts of the store."""

# Adding to an artifact.

def add_dir(store: str, artifact_dir: str, source: str, obj_path: str, progress: _Progress = None) -> Added:
    """Add all files below a directory."""

def add_file(store: str, artifact_dir: str, source: str, obj_path: str, progress: _Progress = None) -> Added:
    """Add one file."""

def add_reference(
    artifact_dir: str,
    obj_path: str,
    uri: str,
    size: int | None = None,
    etag: str | None = None,
    digest: bytes | None = None,
) -> Added:
    """Record a URI as an entry; nothing is fetched."""

# What a store holds.

@final
class Problems:
    """Problems that a verification found, read while they are asked for.

    They are sorted by path. Each has kind (missing, damaged, stray, unreadable), thing (object, table, manifest,
    artifact, file of an artifact, other), path, bytes, reason and file. That is None, but a problem of an object is
    followed by one for each file of an artifact that it is, with the artifact's directory and the path in it.
    """

    def __iter__(self) -> Self: ...
    def __next__(self) -> dict[str, Any]: ...

def verify(store: str, artifact_dir: str | None = None, progress: _Progress = None) -> dict[str, Any]:
    """Hash every object of the store, or every file and object of one artifact, and report what is wrong.

    Changes nothing. The keys are objects and bytes, which tell what was hashed; missing, damaged, stray and unreadable,
    each with files and bytes; and problems, as `Problems`.
    """

def gc(
    store: str,
    older_than_s: int,
    dry_run: bool,
    progress: _Progress = None,
    planned: Callable[[dict[str, int]], object] | None = None,
) -> dict[str, int]:
    """Reclaim objects that no artifact reaches and that were condemned at least `older_than_s` seconds ago.

    `planned` is called with what a dry run returns before anything is deleted; what it raises ends the call.
    """

def diff(store: str, first: str, second: str, progress: _Progress = None) -> tuple[int, int]:
    """Compare two artifacts: bytes of the chunks that both have, and of all chunks of the second."""

@final
class Differences:
    """Paths that differ, found while they are asked for."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> tuple[str, str]: ...

def differences(first: str, second: str) -> Differences:
    """The paths that differ between two artifacts, sorted: "added", "removed" or "changed", and the path."""

def usage(
    store: str, artifact_dirs: list[str], others: list[str] = ..., progress: _Progress = None
) -> tuple[list[tuple[int, int, int] | None], list[EngineError]]:
    """Apparent, stored and unique bytes of each artifact, then of these together; and why some cannot be read.

    Unique are objects that one artifact alone has, of these and the `others`. What cannot be read is None, and not
    counted.
    """

# Single objects.

@final
class Store:
    """A store that is open, to be given in place of its path where many single objects are asked for.

    Opening it takes some 20 system calls, asking for an object one to four. It holds two directory handles; a directory
    that is removed and made again meanwhile must be opened again.
    """

    def __new__(cls, path: str) -> Self: ...
    @property
    def path(self) -> str:
        """The directory it was opened at."""

def hash_file(path: str, progress: _Progress = None) -> str:
    """BLAKE3 digest of a file, the value that `b3sum` prints."""

def digest(data: Buffer) -> bytes:
    """BLAKE3 digest of bytes."""

def usable(store: str | Store, digest: bytes, size: int) -> bool:
    """Whether the store has an object of this size; one that was touched is rehashed, and moved away if it is wrong."""

@final
class ChunkTable:
    """The chunks of an object of the store, read in parts; an object without a table is a single chunk, or none.

    The table is read once for its checksum when this is made, and is not held in memory.
    """

    def __new__(cls, store: str | Store, digest: bytes) -> Self: ...
    def __len__(self) -> int: ...
    def chunks(self, first: int, most: int) -> tuple[bytes, bytes]:
        """At most `most` chunks from number `first` on: digests, and lengths as u32."""

    @property
    def table_bytes(self) -> int:
        """Bytes of the table itself; 0 without one."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes of the table from `offset` on."""

def parse_chunk_table(data: Buffer) -> tuple[int, bytes, bytes]:
    """Check the bytes of a chunk table from anywhere: size of the object, digests, and lengths as u32."""

def read_object_range(store: str | Store, digest: bytes, offset: int, length: int) -> bytes:
    """Read at most `length` bytes of an object from `offset` on; it is rehashed first if it was touched."""

def link_entries(
    store: str | Store, root: str, entries: list[tuple[str, bytes, bool]], progress: _Progress = None
) -> Linked:
    """Put objects at paths below a directory by reflink, else hardlink, else copy, replacing files there; answers how.

    An entry is a path, which is checked as that of any entry is, a digest, and whether the file is executable.
    Directories are made and no symbolic link on the way is followed; one at the path itself is replaced. Objects are
    rehashed first if they were touched.
    """

@final
class Lease:
    """Keeps `gc` from deleting what a call in flight has seen in the store.

    To be taken before the first look into the store. It is released at the end of a `with` block, and does not
    outlive its process.
    """

    def __new__(cls, store: str | Store) -> Self: ...
    def renew(self) -> None:
        """Say that the work goes on, at least every few minutes; cheap enough for each step."""

    def is_held(self) -> bool:
        """Whether it is still held: not released, and by nobody taken for stale."""

    def release(self) -> None:
        """End it. Once more does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

# Metrics of runs.

@final
class MetricsFile:
    """A metrics file that is open for appending; safe between threads.

    Each line is one system call. A line that found the disk half full is taken back.
    """

    def __new__(cls, path: str) -> Self: ...
    def append(self, line: Buffer) -> None:
        """Write one line."""

    def append_point(self, metrics: object, step: object, epoch: object, time_ns: int) -> bool:
        """Write the line of a log call if its names are plain and values floats and ints; tells whether it is there.

        It is not, without a word why, if a name is no ASCII or has quotes, a value is of another class or beyond 64
        bits, or the system refused.
        """

    def close(self) -> None:
        """Close the file, once who writes to it has done so; later calls do nothing."""

# Packs on the client.

@final
class PackPlan:
    """The packs of some chunks of a store's objects, built one by one, by any threads.

    `wanted` are objects and offset, digest and length of chunks of each, as their tables say. No pack has more than
    `limit_bytes` (2 MiB and a little to 64 MiB), even if nothing compresses; above 32 MiB the C library gives memory
    back after each pack, and touching it anew doubles the time. Which chunk is in which pack is decided here, so
    building one again gives the same bytes. Memory is the pack for each thread that builds one. Hold a `Lease` until
    the last is built.
    """

    def __new__(
        cls,
        store: str | Store,
        wanted: Sequence[tuple[bytes, Sequence[tuple[int, bytes, int]]]],
        limit_bytes: int = 16777216,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def build(self, index: int) -> tuple[memoryview, bytes, int]:
        """Build one pack: its bytes, the digests of its chunks, and how many bytes these have.

        Every chunk is hashed from the buffer that is packed. An object that is wrong is moved to `trash/`, and the
        kind is `integrity`.
        """

@final
class Assembly:
    """Objects that are being put together in a store from chunks that come in any order, by any threads.

    Holds a lease, which every call renews, about 150 bytes for each chunk that is missing, and open files of each
    object that has a chunk table or was begun. Of large objects only so many chunks are missing at once as take 10 MB.
    Objects appear in the store whole and verified, their chunk tables first. What one of many chunks has got is kept
    for the next assembly that is asked for it, unless a write has failed, until `gc` removes it. Whether `gc` took
    one away again after a pause of more than an hour is seen by `materialize`.
    """

    def __new__(cls, store: str | Store) -> Self: ...
    def push_table(self, digest: bytes, data: Buffer) -> None:
        """Take the next bytes of the chunk table of an object that will be asked for."""

    def add(self, digest: bytes, size: int, table: Buffer | None = None) -> bool:
        """Ask for an object, with its chunk table if that was not pushed; whether the store has it already."""

    def want_more(self) -> bool:
        """Ask for the next chunks of large objects once none is missing; whether any is missing then."""

    def wanted(self) -> tuple[bytes, bytes]:
        """The chunks that are missing, in no order: digests, and lengths as u32."""

    def take_from(self, digest: bytes) -> int:
        """Take what chunks of an object of the store are wanted; answers their bytes.

        Ctrl-C ends it at the next chunk.
        """

    def take_left(self) -> int:
        """Take the wanted chunks that an assembly before this one has got of the same objects; answers their bytes.

        Ctrl-C ends it at the next chunk.
        """

    def take_records(self, data: Buffer) -> None:
        """Take what chunks of a run of whole records of a pack are wanted.

        After an error everything that was not taken is still wanted, unless an object's chunks are all there and are
        not its bytes: then its table was wrong, and it must be asked for again.
        """

    def cancel(self) -> None:
        """End what `take_records` still does on other threads, with an error there."""

    def completed(self) -> bytes:
        """Digests of the objects that were completed since the last call; the store has them."""

    def renew(self) -> None:
        """Say that the download goes on, at least every few minutes without another call."""

    def close(self) -> None:
        """End it: of what is not complete only parts of large objects stay. Once more does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

# Packs on the server, and single records.

def verify_pack(data: Buffer, threads: int = 1) -> tuple[bytes, bytes]:
    """Check a pack from anywhere whole, every chunk too: its digest, and a row for each record.

    A row has 48 bytes, `struct` format `<32sQII`: digest of the chunk, offset of the record in the pack, bytes of the
    record, bytes of the chunk. Rows are in the order of the pack, and no chunk is there twice.
    """

def pack_digest(data: Buffer) -> bytes:
    """The digest that names a pack: that of its footer, which is checked; the chunks are not.

    It tells every chunk with its place and length, so packs of one name are interchangeable even if they were
    compressed otherwise. `verify_pack` answers the same.
    """

def list_records(data: Buffer) -> bytes:
    """A row for each record of a run of whole records; the chunks are not checked.

    Rows are as `verify_pack` gives them, with offsets in `data`.
    """

def decode_record(data: Buffer, offset: int = 0) -> tuple[bytes, bytes]:
    """Decode the record at an offset and check its chunk: the chunk's digest and bytes.

    What lies behind the record does not matter. The digest is the one that the record names: compare it with the
    wanted one.
    """

@final
class ObjectHasher:
    """Hashes an object from its chunks in order, wherever they are stored."""

    def __new__(cls) -> Self: ...
    def push_records(self, data: Buffer, offsets: Sequence[int]) -> None:
        """Append the chunks of the records at these offsets of `data`, in this order, each checked.

        A record's chunk is checked against the digest that the record names. After an error the hash is of no use.
        """

    @property
    def size(self) -> int:
        """Bytes so far."""

    def digest(self) -> bytes:
        """BLAKE3 digest of the bytes so far."""

@final
class PackCopier:
    """Makes a pack of chunks that lie in other packs, as they are stored there.

    Args:
        capacity_bytes: What the pack will have, about: its memory is taken at once.
    """

    def __new__(cls, capacity_bytes: int) -> Self: ...
    def push_records(self, data: Buffer, offsets: Sequence[int]) -> list[tuple[int, str]]:
        """Append the records at these offsets of `data`, in this order, each checked; answers what is damaged.

        Those are left out, and told by their offsets with what is wrong. A chunk that the pack has already is not added
        twice. One that does not fit is `invalid_input`.
        """

    def finish(self) -> tuple[memoryview, bytes, bytes]:
        """End the pack: its bytes, its digest, and a row for each record.

        Rows are as `verify_pack` gives them. A pack without a chunk is `invalid_input`.
        """
