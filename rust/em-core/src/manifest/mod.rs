//! The manifest: the canonical list of an artifact's entries. Its BLAKE3 is the artifact's version identity.
//!
//! `docs/formats.md` has the bytes. Decoding accepts the canonical form only, so equal content has one encoding.
//!
//! A manifest is never a tree of entries in memory: its canonical bytes are read from front to back, from a file or a
//! buffer, and a new one is written while two sorted streams of entries are merged. What is held is in proportion to
//! the longest path and, while paths are checked, eight bytes for each entry.

mod change;
mod list;
mod read;

use std::{borrow::Cow, fs::File, io::Read, os::unix::fs::FileExt, sync::Arc};

use crate::{Digest, Error, Result, cancel::Progress};

pub use change::Change;
pub(crate) use list::EntryList;
pub use read::{Entries, OwnedEntries};

const MAGIC: &[u8; 8] = b"EMMANIF\0";
const VERSION: u32 = 1;

/// Most entries of one manifest.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// Longest URI or ETag of a reference, in bytes.
pub const MAX_TEXT_BYTES: usize = 8192;

/// One path of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, normalized, `/`-separated.
    pub path: String,
    /// What is there.
    pub kind: EntryKind,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Its object.
        digest: Digest,
        /// Whether its owner may run it.
        executable: bool,
    },
    /// An empty directory.
    Directory,
    /// Something elsewhere.
    Reference(Box<Reference>),
}

/// A URI and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it is.
    pub uri: String,
    /// Bytes, if known.
    pub size: Option<u64>,
    /// HTTP entity tag, if known.
    pub etag: Option<String>,
    /// BLAKE3 of the content, if known.
    pub digest: Option<Digest>,
}

/// Bytes before the first entry.
const HEADER_BYTES: u64 = 20;
const TRAILER_BYTES: u64 = 8;

/// Files up to this size are read at once, so that what happens to them later does not matter.
const SMALL_BYTES: u64 = 1 << 20;

/// Entries sorted by the bytes of their paths, checked, to be read from front to back.
#[derive(Clone, Debug)]
pub struct Manifest<'a> {
    source: Source<'a>,
    size_bytes: u64,
    count: u64,
    digest: Digest,
}

/// Where the canonical bytes are.
#[derive(Clone, Debug)]
enum Source<'a> {
    Memory(Cow<'a, [u8]>),
    File(Arc<File>),
}

impl PartialEq for Manifest<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Manifest<'_> {}

impl Default for Manifest<'_> {
    fn default() -> Self {
        let bytes = change::empty();
        let (size_bytes, digest) = (bytes.len() as u64, Digest::of(&bytes));
        Self { source: Source::Memory(bytes.into()), size_bytes, count: 0, digest }
    }
}

impl<'a> Manifest<'a> {
    /// Reads the canonical bytes; anything else is an `Integrity` error.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        Self::decode_unless_cancelled(bytes, &Progress::default())
    }

    /// The same, given up when `progress` is cancelled.
    pub fn decode_unless_cancelled(bytes: &'a [u8], progress: &Progress) -> Result<Self> {
        read::checked(Source::Memory(bytes.into()), bytes.len() as u64, progress)
    }

    /// The same of a file that nobody writes to. A large one is left where it is, and read once more each time.
    pub fn of_file(mut file: File, progress: &Progress) -> Result<Manifest<'static>> {
        let fail = |error| Error::io("read", std::path::Path::new("a manifest"), error);
        let size_bytes = file.metadata().map_err(fail)?.len();
        if size_bytes > SMALL_BYTES {
            return read::checked(Source::File(Arc::new(file)), size_bytes, progress);
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        file.read_to_end(&mut bytes).map_err(fail)?;
        let size_bytes = bytes.len() as u64;
        read::checked(Source::Memory(bytes.into()), size_bytes, progress)
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length of the canonical bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The version identity.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// All entries, sorted. An item is an error only if the file cannot be read.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(self.reader(HEADER_BYTES), self.count, self.size_bytes)
    }

    /// The same, with the manifest inside.
    pub fn into_entries(self) -> Entries<'a> {
        let (count, size_bytes) = (self.count, self.size_bytes);
        Entries::new(self.into_reader(HEADER_BYTES), count, size_bytes)
    }

    /// The entries that are files: path, size, digest, whether it is executable.
    pub fn files(&self) -> impl Iterator<Item = Result<(String, u64, Digest, bool)>> {
        self.entries().filter_map(|entry| match entry {
            Ok(Entry { path, kind: EntryKind::File { size, digest, executable } }) => {
                Some(Ok((path, size, digest, executable)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// The entry at a path; reads on the average half of the entries.
    pub fn get(&self, path: &str) -> Result<Option<EntryKind>> {
        for entry in self.entries() {
            let entry = entry?;
            if entry.path.as_str() >= path {
                return Ok((entry.path == path).then_some(entry.kind));
            }
        }
        Ok(None)
    }

    /// The manifest with `added`, by the rules of [`Change`]; of several entries for one path the last counts.
    pub fn with(&self, added: impl IntoIterator<Item = Entry>) -> Result<Manifest<'static>> {
        let mut entries: Vec<Entry> = added.into_iter().collect();
        entries.reverse();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|later, kept| later.path == kept.path);
        let mut bytes = Vec::new();
        let progress = Progress::default();
        let change = Change::new(self, || entries.iter().cloned().map(Ok), &progress)?;
        change.write(&mut bytes).map_err(|error| Error::io("write", std::path::Path::new("a manifest"), error))?;
        let size_bytes = bytes.len() as u64;
        read::checked(Source::Memory(bytes.into()), size_bytes, &progress)
    }

    /// Fills `buffer`, which has [`size_bytes`](Self::size_bytes) bytes, with the canonical bytes.
    pub fn read_into(&self, buffer: &mut [u8]) -> Result<()> {
        let read = self.reader(0).read_exact(buffer);
        read.map_err(|error| Error::io("read", std::path::Path::new("a manifest"), error))
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size_bytes as usize];
        self.read_into(&mut bytes).map(|()| bytes)
    }

    /// The objects of its files with their sizes, each once, in the order of the paths. One that has two sizes is an
    /// `Integrity` error.
    pub fn objects(&self, progress: &Progress) -> Result<Vec<(Digest, u64)>> {
        let mut objects = Vec::new();
        for file in self.files() {
            progress.check()?;
            let (_, size, digest, _) = file?;
            objects.push((digest, size));
        }
        let mut order: Vec<u32> = (0..objects.len() as u32).collect();
        order.sort_unstable_by_key(|&number| (&objects[number as usize].0, number));
        let mut repeated = vec![false; objects.len()];
        for pair in order.windows(2) {
            let [(digest, size), (other, other_size)] = [pair[0], pair[1]].map(|number| objects[number as usize]);
            if digest == other {
                if size != other_size {
                    let message = format!("object {digest} has {size} bytes and elsewhere {other_size}");
                    return Err(Error::integrity(message));
                }
                repeated[pair[1] as usize] = true;
            }
        }
        drop(order);
        let mut repeated = repeated.into_iter();
        objects.retain(|_| repeated.next() == Some(false));
        Ok(objects)
    }

    /// The bytes from `offset` on.
    fn into_reader(self, offset: u64) -> Box<dyn Read + Send + Sync + 'a> {
        match self.source {
            Source::Memory(bytes) => {
                let mut bytes = std::io::Cursor::new(bytes);
                bytes.set_position(offset);
                Box::new(bytes)
            }
            Source::File(file) => Box::new(At { file, offset }),
        }
    }

    /// The bytes from `offset` on.
    fn reader(&self, offset: u64) -> Box<dyn Read + Send + Sync + '_> {
        match &self.source {
            Source::Memory(bytes) => Box::new(bytes.get(offset as usize..).unwrap_or_default()),
            Source::File(file) => Box::new(At { file: file.clone(), offset }),
        }
    }
}

/// Reads a file from a position of its own.
pub(crate) struct At {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn check_reference(reference: &Reference) -> Result<()> {
    if reference.uri.is_empty() || reference.uri.len() > MAX_TEXT_BYTES {
        return Err(Error::invalid(format!("the URI of a reference has 1 to {MAX_TEXT_BYTES} bytes")));
    }
    if reference.etag.as_ref().is_some_and(|etag| etag.len() > MAX_TEXT_BYTES) {
        return Err(Error::invalid(format!("the ETag of a reference has at most {MAX_TEXT_BYTES} bytes")));
    }
    Ok(())
}
