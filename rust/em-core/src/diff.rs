//! What artifacts share: entry by entry, and chunk by chunk.

use std::{cmp::Ordering, iter::Peekable, sync::atomic::Ordering::Relaxed};

use crate::{
    Error, Kind, Result,
    cancel::Progress,
    manifest::{Entry, Manifest},
    store::Store,
    tally::{Counted, Sorted, Tally},
};

/// Chunks that are read of a table at a time.
const TABLE_PART: u64 = 4096;

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
pub fn shared(store: &Store, first: &Manifest<'_>, second: &Manifest<'_>, progress: &Progress) -> Result<Shared> {
    let (mut old, new) = (chunks(store, first, progress)?, chunks(store, second, progress)?);
    let mut shared = Shared::default();
    for counted in new.iter() {
        progress.check()?;
        let Counted { half, bytes } = counted?;
        shared.unique_bytes += bytes;
        shared.shared_bytes += if old.has_half(half)? { bytes } else { 0 };
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
    /// Bytes of those objects that no other artifact has; several have the rest of them.
    pub unique_bytes: u64,
}

/// Usage of each of the first `told` of some artifacts, and of these together; an object counts as unique if one of all
/// artifacts has it. `manifest` opens one, those that are told of twice; those that cannot be opened count nothing, and are
/// `None`, with an error at the end. What is much is kept in the store.
pub fn usage(
    store: &Store,
    told: usize,
    count: usize,
    manifest: impl Fn(usize) -> Result<Manifest<'static>>,
    progress: &Progress,
) -> Result<(Vec<Option<Usage>>, Usage, Vec<Error>)> {
    let mut several = Tally::new(store.room());
    let (mut each, mut errors) = (Vec::new(), Vec::new());
    for index in 0..count {
        let manifest = match manifest(index) {
            Err(error) if error.kind != Kind::Cancelled => {
                errors.push(error);
                each.extend((index < told).then_some(None));
                continue;
            }
            opened => opened?,
        };
        let (objects, apparent_bytes) = objects(store, &manifest, progress)?;
        let mut stored_bytes = 0;
        for counted in objects.iter() {
            progress.check()?;
            let counted = counted?;
            stored_bytes += counted.bytes;
            several.push(counted)?;
        }
        if index < told {
            each.push(Some(Usage { apparent_bytes, stored_bytes, unique_bytes: 0 }));
        }
    }
    let (mut several, mut shared) = (several.sorted(2, progress)?, Tally::new(store.room()));
    let mut total = Usage::default();
    for (index, usage) in each.iter_mut().enumerate() {
        let Some(usage) = usage else { continue };
        for counted in objects(store, &manifest(index)?, progress)?.0.iter() {
            progress.check()?;
            let counted = counted?;
            if several.has_half(counted.half)? {
                shared.push(counted)?;
            } else {
                usage.unique_bytes += counted.bytes;
            }
        }
        total.apparent_bytes += usage.apparent_bytes;
        total.unique_bytes += usage.unique_bytes;
    }
    total.stored_bytes = total.unique_bytes;
    for counted in shared.sorted(1, progress)?.iter() {
        progress.check()?;
        total.stored_bytes += counted?.bytes;
    }
    Ok((each, total, errors))
}

/// The distinct objects of an artifact, and the bytes of all its files.
fn objects(store: &Store, manifest: &Manifest<'_>, progress: &Progress) -> Result<(Sorted, u64)> {
    let (mut objects, mut apparent_bytes) = (Tally::new(store.room()), 0);
    for file in manifest.files() {
        progress.files.fetch_add(1, Relaxed);
        progress.check()?;
        let (_, bytes, digest, _) = file?;
        objects.add(digest, bytes)?;
        apparent_bytes += bytes;
    }
    Ok((objects.sorted(1, progress)?, apparent_bytes))
}

/// The distinct chunks of an artifact with their bytes. An object without a table is one chunk.
fn chunks(store: &Store, manifest: &Manifest<'_>, progress: &Progress) -> Result<Sorted> {
    let mut chunks = Tally::new(store.room());
    for file in manifest.files() {
        progress.files.fetch_add(1, Relaxed);
        progress.check()?;
        let (_, size, digest, _) = file?;
        let Some((file, table)) = store.open_table(digest)? else {
            chunks.add(digest, size)?;
            continue;
        };
        let mut first = 0;
        while first < table.count {
            progress.check()?;
            let part = table.chunks(&file, first, TABLE_PART)?;
            first += part.len() as u64;
            for (digest, bytes) in part {
                chunks.add(digest, u64::from(bytes))?;
            }
        }
    }
    chunks.sorted(1, progress)
}
