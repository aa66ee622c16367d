//! Manifests from manifests and entries that are added.

use std::{
    io::{self, Write},
    iter::Peekable,
};

use xxhash_rust::xxh3::Xxh3;

use super::{Entry, EntryKind, MAGIC, MAX_ENTRIES, Manifest, Reference, VERSION, check_reference};
use crate::{
    Error, Result,
    cancel::Progress,
    names::{self, Sorted},
};

/// What a manifest becomes by entries that are added to it, ready to be written. Both ends when `progress` is cancelled.
///
/// They replace files by files. An empty directory gives way to what is put into it. A file where a directory is, or the
/// reverse, is an `InvalidInput`.
#[derive(Debug)]
pub struct Change<'m, F> {
    base: &'m Manifest<'m>,
    added: F,
    progress: &'m Progress,
    /// Numbers of the merged entries that give way, sorted.
    given_way: Vec<u32>,
    count: u64,
}

impl<'m, F, I> Change<'m, F>
where
    F: Fn() -> I,
    I: Iterator<Item = Result<Entry>>,
{
    /// `added` gives the same entries each time, sorted by their paths, each once.
    pub fn new(base: &'m Manifest<'m>, added: F, progress: &'m Progress) -> Result<Self> {
        let mut change = Self { base, added, progress, given_way: Vec::new(), count: 0 };
        let (mut sorted, mut count, mut given_way) = (Sorted::default(), 0, Vec::new());
        for merged in change.merged() {
            let Entry { path, kind } = merged?;
            sorted.push(&path, kind == EntryKind::Directory, |number| given_way.push(number as u32))?;
            count += 1;
        }
        if let Some(mut suspects) = sorted.finish() {
            for merged in change.merged() {
                suspects.push(&merged?.path)?;
            }
        }
        given_way.sort_unstable();
        change.count = count - given_way.len() as u64;
        change.given_way = given_way;
        if change.count > MAX_ENTRIES {
            return Err(Error::invalid(format!("an artifact has at most {MAX_ENTRIES} entries")));
        }
        Ok(change)
    }

    fn merged(&self) -> Merged<'_, impl Iterator<Item = Result<Entry>>, I> {
        Merged { base: self.base.entries().peekable(), added: (self.added)().peekable(), progress: self.progress }
    }

    /// Writes the canonical bytes, in small pieces.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut out = Summed { out, sum: Xxh3::new() };
        put_header(&mut out, self.count)?;
        let mut given_way = self.given_way.iter().copied().peekable();
        let mut bytes = Vec::new();
        for (number, merged) in self.merged().enumerate() {
            let entry = merged.map_err(io::Error::other)?;
            if given_way.next_if_eq(&(number as u32)).is_none() {
                bytes.clear();
                put_entry(&mut bytes, &entry);
                out.write_all(&bytes)?;
            }
        }
        out.finish()
    }
}

/// The entries of both, sorted; those that are added replace those of one path.
struct Merged<'p, B: Iterator<Item = Result<Entry>>, A: Iterator<Item = Result<Entry>>> {
    base: Peekable<B>,
    added: Peekable<A>,
    progress: &'p Progress,
}

impl<B: Iterator<Item = Result<Entry>>, A: Iterator<Item = Result<Entry>>> Merged<'_, B, A> {
    /// The next entry that is added.
    fn next_added(&mut self) -> Option<Result<Entry>> {
        let entry = match self.added.next()? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let checked = names::check(&entry.path).and_then(|()| match &entry.kind {
            EntryKind::Reference(reference) => check_reference(reference),
            _ => Ok(()),
        });
        Some(checked.map(|()| entry))
    }
}

impl<B: Iterator<Item = Result<Entry>>, A: Iterator<Item = Result<Entry>>> Iterator for Merged<'_, B, A> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(cancelled) = self.progress.check() {
            return Some(Err(cancelled));
        }
        match (self.base.peek(), self.added.peek()) {
            (Some(Ok(base)), Some(Ok(added))) if base.path == added.path => {
                let is_directory = |entry: &Entry| entry.kind == EntryKind::Directory;
                if is_directory(base) != is_directory(added) {
                    let message = format!("{:?}: there would be a file and a directory of one name", added.path);
                    return Some(Err(Error::invalid(message).hint("use another obj_path")));
                }
                self.base.next();
                self.next_added()
            }
            (Some(Ok(base)), Some(Ok(added))) if base.path > added.path => self.next_added(),
            (_, Some(Err(_))) => self.next_added(),
            (Some(_), _) => self.base.next(),
            (None, _) => self.next_added(),
        }
    }
}

/// The canonical bytes of no entries.
pub(super) fn empty() -> Vec<u8> {
    let mut bytes = Vec::new();
    // A vector takes all bytes.
    let mut out = Summed { out: &mut bytes, sum: Xxh3::new() };
    let _ = put_header(&mut out, 0).and_then(|()| out.finish());
    bytes
}

/// Sums up what is written, for the trailer.
struct Summed<W> {
    out: W,
    sum: Xxh3,
}

impl<W: Write> Summed<W> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&self.sum.digest().to_le_bytes())
    }
}

fn put_header(out: &mut Summed<impl Write>, count: u64) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&count.to_le_bytes())
}

pub(super) fn put_entry(bytes: &mut Vec<u8>, Entry { path, kind }: &Entry) {
    let tag = match kind {
        EntryKind::File { executable, .. } => u8::from(*executable),
        EntryKind::Directory => 2,
        EntryKind::Reference(_) => 3,
    };
    bytes.push(tag);
    put_text(bytes, path);
    match kind {
        EntryKind::File { size, digest, .. } => {
            bytes.extend_from_slice(&size.to_le_bytes());
            bytes.extend_from_slice(&digest.0);
        }
        EntryKind::Directory => {}
        EntryKind::Reference(reference) => {
            let Reference { uri, size, etag, digest } = &**reference;
            let known = [size.is_some(), etag.is_some(), digest.is_some()];
            bytes.push(known.iter().enumerate().map(|(bit, &set)| u8::from(set) << bit).sum());
            put_text(bytes, uri);
            bytes.extend(size.iter().flat_map(|size| size.to_le_bytes()));
            if let Some(etag) = etag {
                put_text(bytes, etag);
            }
            bytes.extend(digest.iter().flat_map(|digest| digest.0));
        }
    }
}

/// Length as u16 (all texts are capped below it), then the bytes.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}
