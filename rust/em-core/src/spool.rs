//! What a call has to remember of many files: in memory while it is little, then in a file without a name.
//!
//! ```text
//! Spool      bytes written once, from front to back, and read several times
//! Runs       sorted runs of records in a spool, read merged
//! Pile       records in any order, read sorted
//! ```
//!
//! The file is in the directory of the [`Room`], which is the store's: on a disk that has room for the objects themselves. It
//! loses its name as soon as it is made, so it ends with the process.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, ErrorKind, Read, Write},
    iter,
    marker::PhantomData,
    ops::Deref,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{Error, Result, store::temp_name};

/// Bytes of the largest list that a call holds: 150,000 files with names of eight bytes.
const HELD_BYTES: usize = 8 << 20;

/// Bytes of a spool in memory, of its largest list.
const SPOOL_PART: usize = 4;

/// Bytes read from a run at a time.
const BLOCK_BYTES: usize = 16 << 10;

/// How much a call may hold of each list, and where the rest goes.
#[derive(Clone, Debug)]
pub struct Room {
    directory: PathBuf,
    held_bytes: usize,
}

impl Room {
    /// What is enough for most trees, and little beside a Python interpreter.
    pub fn new(directory: &Path) -> Self {
        Self::of_bytes(directory, HELD_BYTES)
    }

    /// Another size, for tests.
    pub fn of_bytes(directory: &Path, held_bytes: usize) -> Self {
        Self { directory: directory.into(), held_bytes }
    }

    /// Bytes of one list.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(crate) fn spool(&self) -> Spool {
        let limit = self.held_bytes / SPOOL_PART;
        Spool { directory: self.directory.clone(), limit, memory: Vec::new(), file: None, filed: 0 }
    }

    /// What went wrong with a spool.
    pub(crate) fn error(&self, error: io::Error) -> Error {
        Error::io("keep a list in", &self.directory, error)
    }
}

/// Bytes that are appended and read from any offset.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    limit: usize,
    /// Those that are not in the file yet.
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    filed: u64,
}

impl Spool {
    pub(crate) fn len(&self) -> u64 {
        self.filed + self.memory.len() as u64
    }

    /// The bytes from `offset` on.
    pub(crate) fn reader(&self, offset: u64) -> SpoolReader<&Self> {
        SpoolReader { spool: self, offset }
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let path = self.directory.join(temp_name());
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    fs::remove_file(&path)?;
                    self.file = Some(file);
                }
                // Who may only read the store can still look at what is in it.
                Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
                    self.limit = usize::MAX;
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = &self.file {
            file.write_all_at(&self.memory, self.filed)?;
            self.filed += self.memory.len() as u64;
            self.memory.clear();
        }
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.memory.len() + bytes.len() > self.limit {
            self.write_out()?;
        }
        self.memory.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a spool from a position of its own.
#[derive(Debug)]
pub(crate) struct SpoolReader<S> {
    pub(crate) spool: S,
    pub(crate) offset: u64,
}

impl<S: Deref<Target = Spool>> Read for SpoolReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Spool { memory, file, filed, .. } = &*self.spool;
        let count = match file {
            Some(file) if self.offset < *filed => {
                let most = (filed - self.offset).min(buffer.len() as u64) as usize;
                file.read_at(&mut buffer[..most], self.offset)?
            }
            _ => memory.get((self.offset - filed) as usize..).unwrap_or_default().read(buffer)?,
        };
        self.offset += count as u64;
        Ok(count)
    }
}

/// What can be kept in a spool, in the order that it is sorted by.
pub(crate) trait Record: Ord + Sized {
    /// Appends its bytes.
    fn put(&self, bytes: &mut Vec<u8>);

    /// Reads what [`put`](Self::put) wrote.
    fn get(input: &mut impl Read) -> io::Result<Self>;
}

/// Reads `N` bytes of a record.
pub(crate) fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map(|()| bytes)
}

/// Appends records; answers how many.
pub(crate) fn put_all<R: Record>(spool: &mut Spool, records: impl Iterator<Item = R>) -> io::Result<u64> {
    let (mut count, mut bytes) = (0, Vec::new());
    for record in records {
        bytes.clear();
        record.put(&mut bytes);
        spool.write_all(&bytes)?;
        count += 1;
    }
    Ok(count)
}

/// Reads so many records from `offset` on.
pub(crate) fn get_all<R: Record>(spool: &Spool, offset: u64, count: u64) -> impl Iterator<Item = io::Result<R>> {
    let mut reader = BufReader::with_capacity(BLOCK_BYTES, spool.reader(offset));
    (0..count).map(move |_| R::get(&mut reader))
}

/// Sorted runs of records.
#[derive(Debug)]
pub(crate) struct Runs<R> {
    spool: Spool,
    /// Where each begins, and its records.
    runs: Vec<(u64, u64)>,
    of: PhantomData<fn() -> R>,
}

impl<R: Record> Runs<R> {
    pub(crate) fn new(room: &Room) -> Self {
        Self { spool: room.spool(), runs: Vec::new(), of: PhantomData }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds a run of sorted records.
    pub(crate) fn add(&mut self, records: impl Iterator<Item = R>) -> io::Result<()> {
        let offset = self.spool.len();
        let count = put_all(&mut self.spool, records)?;
        self.runs.push((offset, count));
        Ok(())
    }

    /// All records, sorted, also those that are equal.
    pub(crate) fn merged(&self) -> impl Iterator<Item = io::Result<R>> {
        let mut runs: Vec<_> =
            self.runs.iter().map(|&(offset, count)| get_all::<R>(&self.spool, offset, count)).collect();
        let mut failed = None;
        let mut first = BinaryHeap::new();
        for (number, run) in runs.iter_mut().enumerate() {
            match run.next().transpose() {
                Ok(record) => first.extend(record.map(|record| Reverse((record, number)))),
                Err(error) => failed = Some(error),
            }
        }
        iter::from_fn(move || {
            if let Some(error) = failed.take() {
                first.clear();
                return Some(Err(error));
            }
            let Reverse((record, number)) = first.pop()?;
            match runs.get_mut(number)?.next().transpose() {
                Ok(next) => first.extend(next.map(|next| Reverse((next, number)))),
                Err(error) => failed = Some(error),
            }
            Some(Ok(record))
        })
    }
}

/// Records in any order, to be read sorted.
#[derive(Debug)]
pub(crate) struct Pile<R> {
    room: Room,
    held: Vec<R>,
    held_bytes: usize,
    runs: Runs<R>,
}

impl<R: Record> Pile<R> {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), held: Vec::new(), held_bytes: 0, runs: Runs::new(room) }
    }

    /// Adds a record that holds so many `bytes` beside itself.
    pub(crate) fn push(&mut self, record: R, bytes: usize) -> Result<()> {
        self.held.push(record);
        self.held_bytes += size_of::<R>() + bytes;
        if self.held_bytes >= self.room.held_bytes() { self.keep() } else { Ok(()) }
    }

    fn keep(&mut self) -> Result<()> {
        self.held.sort_unstable();
        self.held_bytes = 0;
        let kept = self.runs.add(self.held.drain(..));
        kept.map_err(|error| self.room.error(error))
    }

    /// All of them, sorted, each equal one once.
    pub(crate) fn sorted(&mut self) -> Result<impl Iterator<Item = Result<R>>> {
        self.keep()?;
        self.held = Vec::new();
        let mut records = self.runs.merged().peekable();
        let room = &self.room;
        Ok(iter::from_fn(move || {
            let record = records.next()?;
            while record
                .as_ref()
                .is_ok_and(|record| records.next_if(|next| next.as_ref().is_ok_and(|n| n == record)).is_some())
            {
            }
            Some(record.map_err(|error| room.error(error)))
        }))
    }
}
