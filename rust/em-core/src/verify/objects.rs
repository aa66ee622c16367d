//! Objects of the store, their chunks and chunk tables.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::io::Errno;

use super::{Check, Finding, ProblemKind, Thing, lock, name};
use crate::{
    Digest, Error, Kind, Result,
    buffer::Buffer,
    cancel::Progress,
    chunk::{WHOLE_BYTES, table::TableReader},
    gc::is_condemned,
    ingest::BLOCK_BYTES,
    parallel,
    spool::{Pile, Record, Room, Spool, array, get_all, put_all},
};

/// Files from this size on are hashed by all workers together, smaller ones by one each.
pub(super) const LARGE_BYTES: u64 = 16 << 20;

/// Directories of objects, `00` to `ff`.
const FANS: usize = 256;

/// Chunks that are read of a table at a time.
const TABLE_PART: u64 = 64;

/// The two digits that name a directory of objects.
pub(super) struct Fan;

impl FromStr for Fan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        format!("{text}{:062}", 0).parse::<Digest>().map(|_| Self)
    }
}

/// An object and its bytes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

const RECORD_BYTES: u64 = 40;

impl Record for Object {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.digest.0);
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn get(input: &mut impl Read) -> io::Result<Self> {
        Ok(Self { digest: Digest(array(input)?), bytes: u64::from_le_bytes(array(input)?) })
    }
}

/// The objects that manifests name, sorted, each once.
pub(super) struct Named {
    room: Room,
    spool: Spool,
    /// How many come before each directory, and after the last.
    before: [u64; FANS + 1],
    pub(super) bytes: u64,
}

impl Named {
    pub(super) fn of(mut objects: Pile<Object>, room: &Room, progress: &Progress) -> Result<Self> {
        let (mut before, mut bytes) = ([0; FANS + 1], 0);
        let (mut failed, mut last) = (None, None);
        let sorted = objects.sorted()?.take_while(|_| progress.check().is_ok());
        let sorted = sorted.map_while(|object| object.map_err(|error| failed = Some(error)).ok());
        // Manifests may say different sizes of one: that is found where the file is.
        let each = sorted.filter(|object| last.replace(object.digest) != Some(object.digest)).inspect(|object| {
            before[usize::from(object.digest.0[0]) + 1] += 1;
            bytes += object.bytes;
        });
        let mut spool = room.spool();
        let written = put_all(&mut spool, each);
        failed.map_or_else(|| progress.check(), Err)?;
        written.map_err(|error| room.error(error))?;
        for fan in 0..FANS {
            before[fan + 1] += before[fan];
        }
        Ok(Self { room: room.clone(), spool, before, bytes })
    }

    pub(super) fn count(&self) -> u64 {
        self.before[FANS]
    }

    /// Those of one directory.
    fn of_fan(&self, fan: usize) -> impl Iterator<Item = Result<Object>> {
        let (first, end) = (self.before[fan], self.before[fan + 1]);
        let objects = get_all(&self.spool, first * RECORD_BYTES, end - first);
        objects.map(|object| object.map_err(|error| self.room.error(error)))
    }
}

impl Check<'_> {
    /// Objects that are there, and those that are named and are not.
    pub(super) fn stored_objects(&self, named: &Named) -> Result<()> {
        self.each_fan(|fan| {
            let Some(there) = self.fan("objects", fan)? else { return Ok(()) };
            let (mut there, mut wanted) = (there.into_iter().peekable(), named.of_fan(fan).peekable());
            loop {
                self.verify.progress.check()?;
                let first = match (there.peek(), wanted.peek()) {
                    (_, Some(Err(_))) => None,
                    (there, Some(Ok(object))) => Some(there.map_or(object.digest, |&there| there.min(object.digest))),
                    (Some(&there), None) => Some(there),
                    (None, None) => return Ok(()),
                };
                let is_there = there.next_if(|&digest| Some(digest) == first).is_some();
                let object = wanted.next_if(|object| object.as_ref().map_or(true, |one| Some(one.digest) == first));
                let bytes = object.transpose()?.map(|object| object.bytes);
                match (is_there, first, bytes) {
                    (true, Some(digest), _) => self.object(digest, bytes, false, 1)?,
                    (false, Some(digest), Some(bytes)) => self.lacks(digest, bytes)?,
                    _ => {}
                }
            }
        })?;
        self.large_objects()
    }

    /// Objects that are named, and nothing else.
    pub(super) fn named_objects(&self, named: &Named) -> Result<()> {
        self.each_fan(|fan| {
            for object in named.of_fan(fan) {
                self.verify.progress.check()?;
                let Object { digest, bytes } = object?;
                self.object(digest, Some(bytes), true, 1)?;
            }
            Ok(())
        })?;
        self.large_objects()
    }

    fn each_fan(&self, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        parallel::each(self.verify.threads, FANS, || Ok(()), |(), fan| work(fan))
    }

    fn large_objects(&self) -> Result<()> {
        let large = lock(&self.large);
        large.iter().try_for_each(|digest| self.object(digest?, None, false, self.verify.threads))
    }

    /// What is named by digests in a directory, sorted; the rest are strays. `None` if it cannot be read.
    fn fan(&self, of: &str, fan: usize) -> Result<Option<Vec<Digest>>> {
        let path = self.verify.store.root().join(of).join(format!("{fan:02x}"));
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // A file of this name is a stray.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Some(Vec::new()));
            }
            Err(error) => {
                return self.unreadable(Thing::Other, &path, Error::io("list", &path, error)).map(|()| None);
            }
        };
        let mut digests = Vec::new();
        for entry in entries {
            self.verify.progress.check()?;
            let entry = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    return self.unreadable(Thing::Other, &path, Error::io("list", &path, error)).map(|()| None);
                }
            };
            match format!("{fan:02x}{}", name(&entry)).parse() {
                Ok(digest) => digests.push(digest),
                Err(_) => self.stray(&entry)?,
            }
        }
        digests.sort_unstable();
        Ok(Some(digests))
    }

    fn lacks(&self, digest: Digest, bytes: u64) -> Result<()> {
        let progress = self.verify.progress;
        progress.total_files.fetch_sub(1, Relaxed);
        progress.total_bytes.fetch_sub(bytes, Relaxed);
        let is_condemned = self.is_condemned(digest);
        let reason = if is_condemned { "set aside by `em gc`, which puts it back when it is run again" } else { "" };
        self.wrong(ProblemKind::Missing, digest, bytes, reason)
    }

    fn wrong(&self, kind: ProblemKind, digest: Digest, bytes: u64, reason: &str) -> Result<()> {
        lock(&self.wrong).add(digest, 0)?;
        let path = self.verify.store.object_path(digest);
        self.find(Finding::new(kind, Thing::Object, &path, bytes, reason.into()))
    }

    /// Hashes an object and its chunks, looking for `any_table` that it need not have. A large one is left for when all
    /// `threads` are given.
    fn object(&self, digest: Digest, named: Option<u64>, any_table: bool, threads: usize) -> Result<()> {
        let store = self.verify.store;
        let opened = store.open_object(digest).and_then(|file| {
            let metadata = file.metadata().map_err(|e| Error::io("stat", &store.object_path(digest), e))?;
            Ok((file, metadata))
        });
        let no_file = [Errno::LOOP, Errno::NXIO].map(|errno| Some(errno.raw_os_error()));
        let (file, size) = match opened {
            Ok((file, metadata)) if metadata.is_file() => (file, metadata.len()),
            Ok(_) => return self.wrong(ProblemKind::Damaged, digest, 0, NO_FILE),
            Err(error) if no_file.contains(&error.errno) => {
                return self.wrong(ProblemKind::Damaged, digest, 0, NO_FILE);
            }
            Err(error) if error.kind == Kind::NotFound => {
                // Taken by `gc` since it was listed, if nothing names it.
                return named.map_or(Ok(()), |bytes| self.lacks(digest, bytes));
            }
            Err(error) => return self.unreadable(Thing::Object, &store.object_path(digest), error),
        };
        if threads == 1 {
            self.expect(named, size);
            if self.verify.threads > 1 && size >= LARGE_BYTES {
                return lock(&self.large).push(digest);
            }
        }
        let has_table = size > WHOLE_BYTES || any_table && store.has_table(digest);
        let table = if has_table { self.table_of(digest, true)? } else { None };
        let path = store.object_path(digest);
        let hashed = self.hash(Thing::Object, &path, &file, size, threads, |offset, bytes| match &table {
            Some(table) => table.check(&file, offset, bytes),
            None => Ok(()),
        })?;
        match hashed {
            Some(found) if found != digest => {
                self.wrong(ProblemKind::Damaged, digest, size, "its bytes are not those of its name")
            }
            Some(_) => match table {
                Some(Chunks { table: TableReader { object_size, .. }, .. }) if object_size != size => {
                    let reason = format!("it is of an object of {object_size} bytes, and this has {size}");
                    self.table(ProblemKind::Damaged, digest, &reason)
                }
                Some(Chunks { is_wrong, .. }) if is_wrong.load(Relaxed) => {
                    self.table(ProblemKind::Damaged, digest, "its chunks are not those of its object")
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Counts what is to be done for an object, which is counted already with the size that it is `named` with.
    fn expect(&self, named: Option<u64>, size: u64) {
        let progress = self.verify.progress;
        if named.is_none() {
            progress.total_files.fetch_add(1, Relaxed);
        }
        progress.total_bytes.fetch_add(size.wrapping_sub(named.unwrap_or(0)), Relaxed);
    }

    /// The chunk table of an object, which perhaps must have one, if it is right as far as it can be without the object.
    fn table_of(&self, digest: Digest, is_needed: bool) -> Result<Option<Chunks>> {
        let damaged = |reason: &str| self.table(ProblemKind::Damaged, digest, reason).map(|()| None);
        match self.verify.store.open_table(digest) {
            Ok(None) if !is_needed => Ok(None),
            Ok(None) => self.table(ProblemKind::Missing, digest, "").map(|()| None),
            Ok(Some((file, table))) => Chunks::new(file, table).map(Some),
            Err(error) if error.kind == Kind::Integrity => damaged(&reason_of(&error)),
            // A table that is a directory cannot be read either.
            Err(error) => match fs::symlink_metadata(self.verify.store.table_path(digest)) {
                Ok(metadata) if !metadata.is_file() => damaged(NO_FILE),
                _ => self.unreadable(Thing::Table, &self.verify.store.table_path(digest), error).map(|()| None),
            },
        }
    }

    fn table(&self, kind: ProblemKind, digest: Digest, reason: &str) -> Result<()> {
        let path = self.verify.store.table_path(digest);
        let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        self.find(Finding::new(kind, Thing::Table, &path, bytes, reason.into()))
    }

    /// Chunk tables that are there.
    pub(super) fn stored_tables(&self, named: &Named) -> Result<()> {
        self.each_fan(|fan| {
            let Some(there) = self.fan("chunks", fan)? else { return Ok(()) };
            let mut wanted = named.of_fan(fan).peekable();
            for digest in there {
                self.verify.progress.check()?;
                while wanted.next_if(|object| object.as_ref().is_ok_and(|object| object.digest < digest)).is_some() {}
                let is_named = wanted.peek().is_some_and(|one| one.as_ref().is_ok_and(|one| one.digest == digest));
                self.stored_table(digest, is_named)?;
            }
            Ok(())
        })
    }

    /// A chunk table that is there, unless it has been read with its object.
    fn stored_table(&self, digest: Digest, is_named: bool) -> Result<()> {
        match self.verify.store.size(digest) {
            Ok(size) if size > WHOLE_BYTES => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind == Kind::NotFound => {
                // One of an object that is named is wanted again.
                if self.table_of(digest, false)?.is_none() || is_named {
                    return Ok(());
                }
                let path = self.verify.store.table_path(digest);
                let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(()) };
                let reason = "its object is not there; `em gc` removes it".to_owned();
                return self.suspect(Finding::new(ProblemKind::Stray, Thing::Table, &path, metadata.len(), reason));
            }
            // It is said of the object.
            Err(_) => return Ok(()),
        }
        self.table_of(digest, false).map(drop)
    }

    /// Whether the object of a table is neither there nor where `gc` puts it back from.
    pub(super) fn is_orphan(&self, table: &Path) -> bool {
        let fan = table.parent().map(name).unwrap_or_default();
        let digest = format!("{fan}{}", name(table)).parse();
        digest.is_ok_and(|digest| !self.verify.store.object_path(digest).exists() && !self.is_condemned(digest))
    }

    fn is_condemned(&self, digest: Digest) -> bool {
        is_condemned(&self.condemned, &digest.to_string())
    }
}

pub(super) const NO_FILE: &str = "not a regular file";

/// Without the path that the finding has, too.
fn reason_of(error: &Error) -> String {
    error.message.rsplit_once(": not a ").map_or_else(|| error.message.clone(), |(_, what)| format!("not a {what}"))
}

/// The chunks of an object, compared with its blocks in any order.
struct Chunks {
    file: File,
    table: TableReader,
    /// Of each block, the first chunk that begins in it or behind it: its number and offset.
    firsts: Vec<(u64, u64)>,
    is_wrong: AtomicBool,
}

impl Chunks {
    fn new(file: File, table: TableReader) -> Result<Self> {
        let (mut firsts, mut number, mut offset) = (Vec::new(), 0, 0);
        while number < table.count {
            for (_, bytes) in table.chunks(&file, number, TABLE_PART)? {
                while firsts.len() as u64 * BLOCK_BYTES <= offset {
                    firsts.push((number, offset));
                }
                number += 1;
                offset += u64::from(bytes);
            }
        }
        Ok(Self { file, table, firsts, is_wrong: AtomicBool::new(false) })
    }

    /// Compares the chunks that begin in a block of `object`.
    fn check(&self, object: &File, block: u64, bytes: &[u8]) -> Result<()> {
        let Some(&(mut number, mut start)) = self.firsts.get((block / BLOCK_BYTES) as usize) else { return Ok(()) };
        let end = block + bytes.len() as u64;
        while start < end {
            let part = self.table.chunks(&self.file, number, TABLE_PART)?;
            if part.is_empty() {
                break;
            }
            for (digest, length) in part {
                if start >= end {
                    break;
                }
                let inside = &bytes[(start - block) as usize..];
                let found = match inside.get(..length as usize) {
                    Some(chunk) => Digest::of(chunk),
                    None => {
                        let mut buffer = Buffer::take();
                        let rest = buffer.part(length as usize - inside.len());
                        // A file that is shorter is not the object anyway.
                        let _ = object.read_exact_at(rest, end);
                        blake3::Hasher::new().update(inside).update(rest).finalize().into()
                    }
                };
                if found != digest {
                    self.is_wrong.store(true, Relaxed);
                }
                number += 1;
                start += u64::from(length);
            }
        }
        Ok(())
    }
}
