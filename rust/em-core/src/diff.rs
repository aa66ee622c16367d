//! What artifacts share: entry by entry, and chunk by chunk.

use std::{cmp::Ordering, iter::Peekable};

use crate::{
    Digest, Result,
    manifest::{Entry, Manifest},
    store::Store,
};

/// How a path differs in the second of two manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, with another content.
    Changed,
}

impl Difference {
    /// The name in JSON and Python.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// The paths that differ, sorted, found while both manifests are read.
#[derive(Debug)]
pub struct Differences<E: Iterator<Item = Result<Entry>>> {
    first: Peekable<E>,
    second: Peekable<E>,
}

impl<E: Iterator<Item = Result<Entry>>> Differences<E> {
    /// Compares the entries of two manifests.
    pub fn new(first: E, second: E) -> Self {
        Self { first: first.peekable(), second: second.peekable() }
    }

    fn step(&mut self) -> Option<Result<Option<(Difference, String)>>> {
        let order = match (self.first.peek(), self.second.peek()) {
            (None, None) => return None,
            (Some(Ok(old)), Some(Ok(new))) => old.path.cmp(&new.path),
            (Some(_), None) | (Some(Err(_)), _) => Ordering::Less,
            (None, Some(_)) | (_, Some(Err(_))) => Ordering::Greater,
        };
        let old = if order.is_le() { self.first.next() } else { None };
        let new = if order.is_ge() { self.second.next() } else { None };
        Some(match (old.transpose(), new.transpose()) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(Some(Entry { path, kind })), Ok(Some(new))) => {
                Ok((kind != new.kind).then_some((Difference::Changed, path)))
            }
            (Ok(Some(old)), Ok(None)) => Ok(Some((Difference::Removed, old.path))),
            (Ok(None), Ok(new)) => Ok(new.map(|new| (Difference::Added, new.path))),
        })
    }
}

impl<E: Iterator<Item = Result<Entry>>> Iterator for Differences<E> {
    type Item = Result<(Difference, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// What two artifacts have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Bytes of the second's distinct chunks that the first has too.
    pub shared_bytes: u64,
    /// Bytes of the second's distinct chunks.
    pub unique_bytes: u64,
}

/// Compares the chunks of two manifests; reads the chunk tables of both from the store.
pub fn shared(store: &Store, first: &Manifest<'_>, second: &Manifest<'_>) -> Result<Shared> {
    let (old, new) = (chunks(store, first)?, chunks(store, second)?);
    let mut shared = Shared::default();
    for &(digest, bytes) in &new.rows {
        shared.unique_bytes += bytes;
        shared.shared_bytes += if old.bytes(digest).is_some() { bytes } else { 0 };
    }
    Ok(shared)
}

/// What an artifact occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all its files.
    pub apparent_bytes: u64,
    /// Bytes of its distinct objects: what the store keeps for it.
    pub stored_bytes: u64,
    /// Bytes of those objects that no other of the artifacts has.
    pub unique_bytes: u64,
}

/// Usage of each of some artifacts, and of all of them together. `manifest` opens one, each twice.
pub fn usage(count: usize, manifest: impl Fn(usize) -> Result<Manifest<'static>>) -> Result<(Vec<Usage>, Usage)> {
    let (mut once, mut more) = (Sizes::default(), Sizes::default());
    let (mut each, mut total) = (Vec::new(), Usage::default());
    for index in 0..count {
        let (objects, apparent_bytes) = objects(&manifest(index)?)?;
        let stored_bytes = objects.rows.iter().map(|(_, bytes)| bytes).sum();
        each.push(Usage { apparent_bytes, stored_bytes, unique_bytes: 0 });
        total.apparent_bytes += apparent_bytes;
        for (half, bytes) in objects.rows {
            let list = if once.bytes(half).is_some() { &mut more } else { &mut once };
            list.late.push((half, bytes));
        }
        once.sort();
        more.sort();
    }
    for (index, usage) in each.iter_mut().enumerate() {
        let (objects, _) = objects(&manifest(index)?)?;
        usage.unique_bytes =
            objects.rows.iter().filter(|(half, _)| more.bytes(*half).is_none()).map(|(_, bytes)| bytes).sum();
    }
    total.stored_bytes = once.rows.iter().map(|(_, bytes)| bytes).sum();
    total.unique_bytes = total.stored_bytes;
    Ok((each, total))
}

/// Sizes by the first half of a digest, which is enough for counting: 32 bytes for each, each once.
#[derive(Default)]
struct Sizes {
    /// Sorted.
    rows: Vec<(u128, u64)>,
    /// Not sorted in yet.
    late: Vec<(u128, u64)>,
}

impl Sizes {
    fn add(&mut self, digest: Digest, bytes: u64) {
        self.rows.push((half(digest), bytes));
        // Those that are there twice are dropped each time the rows would move.
        if self.rows.len() == self.rows.capacity() {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.rows.append(&mut self.late);
        self.late = Vec::new();
        self.rows.sort_unstable();
        self.rows.dedup_by_key(|(half, _)| *half);
    }

    /// Once they are sorted.
    fn bytes(&self, half: u128) -> Option<u64> {
        let found = self.rows.binary_search_by_key(&half, |(half, _)| *half);
        found.ok().map(|index| self.rows[index].1)
    }
}

fn half(digest: Digest) -> u128 {
    digest.0.first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

/// The distinct objects of an artifact, and the bytes of all its files.
fn objects(manifest: &Manifest<'_>) -> Result<(Sizes, u64)> {
    let (mut objects, mut apparent_bytes) = (Sizes::default(), 0);
    for file in manifest.files() {
        let (_, bytes, digest, _) = file?;
        objects.add(digest, bytes);
        apparent_bytes += bytes;
    }
    objects.sort();
    Ok((objects, apparent_bytes))
}

/// The distinct chunks of an artifact with their bytes. An object without a table is one chunk.
fn chunks(store: &Store, manifest: &Manifest<'_>) -> Result<Sizes> {
    let mut chunks = Sizes::default();
    for file in manifest.files() {
        let (_, size, digest, _) = file?;
        match store.chunk_table(digest)? {
            Some(table) => table.chunks.iter().for_each(|(digest, bytes)| chunks.add(*digest, u64::from(*bytes))),
            None => chunks.add(digest, size),
        }
    }
    chunks.sort();
    Ok(chunks)
}
