//! Manifests from bytes.

use std::{
    io::{BufReader, Read},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::{
    Entry, EntryKind, HEADER_BYTES, MAGIC, MAX_ENTRIES, MAX_TEXT_BYTES, Manifest, Reference, Source, TRAILER_BYTES,
    VERSION,
};
use crate::{
    Digest, Error, Result,
    cancel::Progress,
    names::{self, Sorted},
};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 16 << 10;

fn damaged(what: &str) -> Error {
    Error::integrity(format!("not a manifest: {what}"))
}

fn read_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => damaged("truncated"),
        _ => Error::io("read", Path::new("a manifest"), error),
    }
}

/// A manifest from canonical bytes; reads them three times at most, until `progress` is cancelled.
pub(super) fn checked<'a>(source: Source<'a>, size_bytes: u64, progress: &Progress) -> Result<Manifest<'a>> {
    let mut manifest = Manifest { source, size_bytes, count: 0, digest: Digest([0; 32]) };
    let body_bytes = size_bytes.checked_sub(TRAILER_BYTES).ok_or_else(|| match size_bytes {
        0 => damaged("it is empty, as files can be after a power cut"),
        _ => damaged("too short"),
    })?;
    (manifest.count, manifest.digest) = header_and_sums(manifest.reader(0), body_bytes, progress)?;

    let mut entries = manifest.entries();
    let mut sorted = Sorted::default();
    for entry in entries.by_ref() {
        progress.check()?;
        let Entry { path, kind } = entry?;
        names::check(&path).map_err(|error| damaged(&error.message))?;
        let mut gives_way = false;
        let pushed = sorted.push(&path, kind == EntryKind::Directory, |_| gives_way = true);
        pushed.map_err(|error| damaged(&error.message))?;
        if gives_way {
            return Err(damaged("an empty directory is not empty"));
        }
    }
    let entries_bytes = entries.read_bytes;
    drop(entries);
    if HEADER_BYTES + entries_bytes != body_bytes {
        return Err(damaged("bytes are left over"));
    }
    if let Some(mut suspects) = sorted.finish() {
        for entry in manifest.entries() {
            progress.check()?;
            suspects.push(&entry?.path).map_err(|error| damaged(&error.message))?;
        }
    }
    Ok(manifest)
}

/// The number of entries and the digest of all bytes, once magic, version and checksum are right.
fn header_and_sums(mut bytes: impl Read, body_bytes: u64, progress: &Progress) -> Result<(u64, Digest)> {
    let (mut sum, mut digest) = (Xxh3::new(), blake3::Hasher::new());
    let mut header = [0; HEADER_BYTES as usize];
    let known = body_bytes.min(HEADER_BYTES) as usize;
    bytes.read_exact(&mut header[..known]).map_err(read_error)?;
    if &header[..8] != MAGIC {
        return Err(damaged("wrong magic"));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version != VERSION {
        let message = format!("manifest version {version} is not known");
        return Err(Error::integrity(message).hint("upgrade the package"));
    }
    sum.update(&header[..known]);
    digest.update(&header[..known]);
    let mut left = body_bytes - known as u64;
    let mut block = vec![0; left.min(BLOCK_BYTES as u64) as usize];
    while left > 0 {
        progress.check()?;
        let length = left.min(block.len() as u64) as usize;
        let part = &mut block[..length];
        bytes.read_exact(part).map_err(read_error)?;
        sum.update(part);
        digest.update(part);
        left -= part.len() as u64;
    }
    let mut trailer = [0; TRAILER_BYTES as usize];
    bytes.read_exact(&mut trailer).map_err(read_error)?;
    digest.update(&trailer);
    if sum.digest().to_le_bytes() != trailer {
        return Err(damaged("checksum does not match"));
    }
    if known < header.len() {
        return Err(damaged("truncated"));
    }
    let count = header[12..].iter().rev().fold(0, |count, &byte| count << 8 | u64::from(byte));
    if count > MAX_ENTRIES {
        return Err(damaged("too many entries"));
    }
    Ok((count, digest.finalize().into()))
}

/// Entries that borrow nothing.
pub type OwnedEntries = Entries<'static>;

/// Reads entries one by one.
pub struct Entries<'m> {
    bytes: BufReader<Box<dyn Read + Send + Sync + 'm>>,
    left: u64,
    read_bytes: u64,
}

impl std::fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries", self.left)
    }
}

impl<'m> Entries<'m> {
    pub(super) fn new(bytes: Box<dyn Read + Send + Sync + 'm>, count: u64, size_bytes: u64) -> Self {
        let capacity = size_bytes.min(BLOCK_BYTES as u64) as usize;
        Self { bytes: BufReader::with_capacity(capacity, bytes), left: count, read_bytes: 0 }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.bytes.read_exact(&mut array).map_err(read_error)?;
        self.read_bytes += N as u64;
        Ok(array)
    }

    fn text(&mut self, cap: usize) -> Result<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > cap {
            return Err(damaged("a text is too long"));
        }
        let mut text = vec![0; length];
        self.bytes.read_exact(&mut text).map_err(read_error)?;
        self.read_bytes += length as u64;
        String::from_utf8(text).map_err(|_| damaged("a text is not UTF-8"))
    }

    fn entry(&mut self) -> Result<Entry> {
        let [tag] = self.array()?;
        let path = self.text(names::MAX_PATH_BYTES)?;
        let kind = match tag {
            0 | 1 => EntryKind::File {
                size: u64::from_le_bytes(self.array()?),
                digest: Digest(self.array()?),
                executable: tag == 1,
            },
            2 => EntryKind::Directory,
            3 => {
                let [known] = self.array()?;
                let uri = self.text(MAX_TEXT_BYTES)?;
                if uri.is_empty() || known > 7 {
                    return Err(damaged("bad reference"));
                }
                let size = if known & 1 != 0 { Some(u64::from_le_bytes(self.array()?)) } else { None };
                let etag = if known & 2 != 0 { Some(self.text(MAX_TEXT_BYTES)?) } else { None };
                let digest = if known & 4 != 0 { Some(Digest(self.array()?)) } else { None };
                EntryKind::Reference(Box::new(Reference { uri, size, etag, digest }))
            }
            _ => return Err(damaged("unknown kind of entry")),
        };
        Ok(Entry { path, kind })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.entry();
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}
