//! Files into objects, each byte read once.
//!
//! A file of at most one block is read whole by one worker: hashed, looked up, and written from the same
//! buffer if the store lacks it. A larger file is cut into blocks that all workers take in turn:
//!
//! ```text
//! worker:  read block ─ write it at its offset ─ hash it as a BLAKE3 subtree ─ candidates for cuts
//!          ─ wait for the block before ─ decide the cuts, hash the open chunk's end, pass it on ─ hash inner chunks
//! ```
//!
//! Only the short middle step runs in file order. The last worker out joins the subtrees into the object's
//! digest, compares the source's stat with the one of the scan, and publishes object and table. A byte of a
//! new large file is read once, hashed twice (object, chunk) and written once, all from one buffer.
//!
//! A large file that looks like one that is stored ([`Sketch`]) is hashed first, and read again to be written if it is
//! another one.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use crate::{
    Digest, Error, Kind, Result,
    buffer::Buffer,
    cancel::Progress,
    chunk::{Carry, Chunker, WHOLE_BYTES, format, table::TableWriter},
    parallel,
    scan::{Stat, Tree, is_executable},
    stat_cache::{Sketch, StatCache, now_ns},
    store::{
        Store,
        leases::Lease,
        link::reserve,
        objects::{Temp, hash_reader},
    },
};

mod objects;
mod subtrees;

pub use objects::Objects;
use subtrees::{Subtrees, chaining_value};

/// Bytes a worker reads at a time; a power of two, so that a block is a BLAKE3 subtree. 256 KiB to 1 MiB
/// measured alike (DESIGN section 4); larger blocks mean fewer hand-overs between workers.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// What one call works with.
pub struct Ingest<'a> {
    /// Where objects go.
    pub store: &'a Store,
    /// Answers for files that did not change.
    pub cache: &'a StatCache,
    /// Counts what is done and says when to stop.
    pub progress: &'a Progress,
    /// Directory that the files' paths are relative to.
    pub root: &'a Path,
    /// Handle of `root`.
    pub root_fd: &'a OwnedFd,
    /// What keeps `gc` away.
    pub lease: &'a Lease,
    /// Whether large files get chunk tables. Only benchmarks do without, to tell what the tables cost.
    pub chunk_tables: bool,
}

/// One file of the call.
#[derive(Clone, Copy)]
struct Job {
    index: usize,
    /// The source's stat that reading is checked against.
    stat: Stat,
    executable: bool,
    /// Whether it changed under the first reading.
    retried: bool,
    /// Whether the stat cache is asked; not if its answer was wrong.
    ask: bool,
}

/// A file of several blocks that workers share.
struct Large<'s> {
    job: Job,
    file: File,
    blocks: u64,
    next_block: AtomicU64,
    unfinished: AtomicU64,
    subtrees: Mutex<Subtrees>,
    sketch: Sketch,
    /// Not there if the bytes are probably in the store.
    target: Option<Target<'s>>,
    began_ns: i128,
}

/// Where the blocks of a new object go.
struct Target<'s> {
    object: Temp<&'s Store>,
    chunks: Option<Chunks<'s>>,
}

/// The chunk table that grows with a new object.
struct Chunks<'s> {
    table: Temp<&'s Store>,
    writer: TableWriter,
    chunker: Box<dyn Chunker>,
    chain: Mutex<Chain>,
    turn: Condvar,
}

/// What is passed from block to block in file order.
struct Chain {
    next_block: u64,
    carry: Carry,
    open_chunk: blake3::Hasher,
    open_bytes: u64,
    chunks: u64,
}

struct Queue<'s> {
    next_file: usize,
    retries: VecDeque<Job>,
    /// Files with blocks nobody took yet. Two workers may open one each at the same time.
    large: VecDeque<Arc<Large<'s>>>,
    /// Files taken and not finished: they may still come back as retries.
    in_work: usize,
}

enum Work<'s> {
    File(Job),
    Block(Arc<Large<'s>>, u64),
    Wait,
    Done,
}

struct Call<'f, 's> {
    ingest: &'s Ingest<'s>,
    tree: &'f Tree,
    queue: Mutex<Queue<'s>>,
    objects: Mutex<Objects>,
    error: Mutex<Option<Error>>,
    stopped: AtomicBool,
    /// Held while the index of a large file is read: together they would need too much memory.
    indexing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Ingest<'a> {
    /// Stores the bytes of the files of `tree`; answers by their numbers. Stops at the first error, with what was stored
    /// before left in the store for the next try.
    pub fn run(&self, tree: &Tree, threads: usize) -> Result<Objects> {
        let queue = Queue { next_file: 0, retries: VecDeque::new(), large: VecDeque::new(), in_work: 0 };
        let call = Call {
            ingest: self,
            tree,
            queue: Mutex::new(queue),
            objects: Mutex::new(Objects::known(tree, self.cache, self.progress)?),
            error: Mutex::new(None),
            stopped: AtomicBool::new(false),
            indexing: Mutex::new(()),
        };
        let small = tree.len() <= 1 && (0..tree.len()).all(|index| tree.stat(index).size <= BLOCK_BYTES);
        let workers = if small { 1 } else { threads.max(1) };
        // A worker that stops on a defect leaves files undone.
        let _ = parallel::each(
            workers,
            workers,
            || Ok(()),
            |(), _| {
                call.work();
                Ok(())
            },
        );
        let error = lock(&call.error).take();
        let objects = call.objects.into_inner().unwrap_or_else(PoisonError::into_inner);
        objects.remember(tree, self.cache, self.progress);
        match error {
            Some(error) => Err(error),
            None if objects.are_all_done() => Ok(objects),
            None => Err(Error::new(Kind::Store, "a worker stopped early")),
        }
    }
}

impl<'f, 's> Call<'f, 's> {
    /// One worker: takes files and blocks until there are none or one failed.
    fn work(&self) {
        let mut buffer = Vec::new();
        loop {
            let outcome = self.check().and_then(|()| match self.take() {
                Work::File(job) => self.file(job, &mut buffer).map(|()| true),
                Work::Block(large, block) => self.block(&large, block, &mut buffer).map(|()| true),
                Work::Wait => {
                    std::thread::sleep(Duration::from_micros(200));
                    Ok(true)
                }
                Work::Done => Ok(false),
            });
            match outcome {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    // In this order, or a worker that notices the stop could report that instead.
                    lock(&self.error).get_or_insert(error);
                    self.stopped.store(true, Ordering::Release);
                    return;
                }
            }
        }
    }

    fn check(&self) -> Result<()> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Cancelled, "another worker failed"));
        }
        self.ingest.lease.renew();
        self.ingest.progress.check()
    }

    fn take(&self) -> Work<'s> {
        let mut queue = lock(&self.queue);
        while let Some(large) = queue.large.front() {
            let block = large.next_block.fetch_add(1, Ordering::Relaxed);
            if block < large.blocks {
                return Work::Block(Arc::clone(large), block);
            }
            queue.large.pop_front();
        }
        if let Some(job) = queue.retries.pop_front() {
            queue.in_work += 1;
            return Work::File(job);
        }
        while queue.next_file < self.tree.len() && self.tree.is_directory(queue.next_file) {
            queue.next_file += 1;
        }
        let index = queue.next_file;
        if index < self.tree.len() {
            queue.next_file += 1;
            queue.in_work += 1;
            let (stat, executable) = (self.tree.stat(index), self.tree.is_executable(index));
            Work::File(Job { index, stat, executable, retried: false, ask: true })
        } else if queue.in_work > 0 {
            Work::Wait
        } else {
            Work::Done
        }
    }

    /// `began_ns` is when its bytes were begun to be hashed, if they were.
    fn finish(&self, job: &Job, digest: Digest, new: bool, began_ns: Option<i128>) {
        // One that has changed meanwhile is not remembered: its times could not vouch for it.
        let vouched = !job.retried && began_ns.is_some_and(|began_ns| !StatCache::is_racy(&job.stat, began_ns));
        let mut objects = lock(&self.objects);
        objects.done(job.index, digest, new, vouched);
        if job.retried {
            objects.changed(job.index, job.stat.size, job.executable);
        }
        drop(objects);
        self.ingest.progress.files.fetch_add(1, Ordering::Relaxed);
        lock(&self.queue).in_work -= 1;
    }

    /// Queues a file once more; the bytes of it that were counted as done are not any more.
    fn again(&self, job: Job, counted: u64) {
        self.ingest.progress.bytes.fetch_sub(counted, Ordering::Relaxed);
        let mut queue = lock(&self.queue);
        queue.in_work -= 1;
        queue.retries.push_back(job);
    }

    /// Whether the store has the object and its chunk table; an object that was touched is rehashed.
    fn usable(&self, digest: Digest, size_bytes: u64) -> Result<bool> {
        let store = self.ingest.store;
        let has_table = || !self.ingest.chunk_tables || size_bytes <= WHOLE_BYTES || store.has_table(digest);
        Ok(store.usable_unless_cancelled(digest, size_bytes, self.ingest.progress)? && has_table())
    }

    fn path(&self, job: &Job) -> PathBuf {
        self.ingest.root.join(self.tree.path(job.index))
    }

    /// Answers a file from the cache, reads a small one, or opens a large one for all workers.
    fn file(&self, mut job: Job, buffer: &mut Vec<u8>) -> Result<()> {
        let ingest = self.ingest;
        let known = if job.ask { lock(&self.objects).asked(job.index) } else { None };
        if let Some(digest) = known
            && self.usable(digest, job.stat.size)?
        {
            ingest.progress.bytes.fetch_add(job.stat.size, Ordering::Relaxed);
            self.finish(&job, digest, false, None);
            return Ok(());
        }
        let began_ns = now_ns();
        let file = self.open(&job)?;
        if job.retried {
            job = self.as_it_is_now(job, &file)?;
        }
        if job.stat.size <= BLOCK_BYTES {
            self.small(job, &file, buffer, began_ns)
        } else {
            self.large(job, file, began_ns)
        }
    }

    fn open(&self, job: &Job) -> Result<File> {
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if !self.tree.is_via_link(job.index) {
            flags |= OFlags::NOFOLLOW;
        }
        let opened = rustix::fs::openat(self.ingest.root_fd, self.tree.path(job.index), flags, Mode::empty());
        opened.map(File::from).map_err(|error| match error {
            Errno::LOOP => {
                let message = format!("{} became a symbolic link while it was added", self.path(job).display());
                Error::new(Kind::Conflict, message).hint("add it when nothing writes to it any more")
            }
            _ => Error::io("open", &self.path(job), error),
        })
    }

    /// What is to be read once more. It may be another file of that name than the one that was read.
    fn as_it_is_now(&self, job: Job, file: &File) -> Result<Job> {
        let stat = rustix::fs::fstat(file).map_err(|e| Error::io("stat", &self.path(&job), e))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            let message = format!("{} became a special file while it was added", self.path(&job).display());
            return Err(Error::new(Kind::Conflict, message));
        }
        Ok(Job { stat: Stat::from(&stat), executable: is_executable(&stat), ..job })
    }

    /// Whether the source is still as it was; if not, queues it once more.
    fn unchanged(&self, job: Job, file: &File, counted: u64) -> Result<Option<Job>> {
        if Stat::of(file)? == job.stat {
            return Ok(Some(job));
        }
        if job.retried {
            let message = format!("{} changed while it was read, twice", self.path(&job).display());
            return Err(Error::new(Kind::Conflict, message).hint("add it when nothing writes to it any more"));
        }
        self.again(Job { retried: true, ask: false, ..job }, counted);
        Ok(None)
    }

    fn small(&self, job: Job, file: &File, buffer: &mut Vec<u8>, began_ns: i128) -> Result<()> {
        let size = job.stat.size as usize;
        buffer.resize(size, 0);
        let count = read_full(file, buffer, 0).map_err(|e| Error::io("read", &self.path(&job), e))?;
        let Some(job) = self.unchanged(job, file, 0)? else { return Ok(()) };
        if count != size {
            return Err(Error::new(Kind::Conflict, format!("{} shrank while it was read", self.path(&job).display())));
        }
        let store = self.ingest.store;
        let digest = Digest::of(buffer);
        let new = !self.usable(digest, job.stat.size)?;
        if new {
            let object = store.new_object(Some(digest))?;
            object.file().write_all_at(buffer, 0).map_err(|e| self.write_error(&job, e))?;
            if self.ingest.chunk_tables && job.stat.size > WHOLE_BYTES {
                self.small_table(&job, file, buffer, digest)?;
            }
            object.publish_object(digest, job.stat.size, job.stat.mtime_ns.div_euclid(1_000_000_000))?;
        }
        self.ingest.progress.bytes.fetch_add(job.stat.size, Ordering::Relaxed);
        self.finish(&job, digest, new, Some(began_ns));
        Ok(())
    }

    fn small_table(&self, job: &Job, file: &File, bytes: &[u8], digest: Digest) -> Result<()> {
        let chunker = format::chunker_for(file, job.stat.size);
        let mut cuts = Vec::new();
        chunker.cuts(&mut Carry::default(), 0, bytes, &chunker.candidates(bytes), true, &mut cuts);
        let mut start = 0;
        let chunks: Vec<_> = cuts
            .iter()
            .map(|&end| {
                let chunk = &bytes[start as usize..end as usize];
                start = end;
                (Digest::of(chunk), chunk.len() as u32)
            })
            .collect();
        let table = self.ingest.store.new_table(Some(digest))?;
        let writer = TableWriter::new(chunker.id(), job.stat.size);
        let written = writer.put(table.file(), 0, &chunks);
        written
            .and_then(|()| writer.finish(table.file(), chunks.len() as u64))
            .map_err(|e| self.write_error(job, e))?;
        table.publish_table(digest)
    }

    fn write_error(&self, job: &Job, error: io::Error) -> Error {
        Error::io("store", &self.path(job), error)
    }

    fn large(&self, job: Job, file: File, began_ns: i128) -> Result<()> {
        let store = self.ingest.store;
        let size = job.stat.size;
        let sketch = Sketch::of(size, |buffer, offset| read_full(&file, buffer, offset))
            .map_err(|e| Error::io("read", &self.path(&job), e))?;
        let hint = if job.ask { self.ingest.cache.hint(&sketch) } else { None };
        let is_stored = hint.map(|digest| self.usable(digest, size)).transpose()?;
        let target = if is_stored == Some(true) {
            None
        } else {
            let object = store.new_object(None)?;
            let reserved = reserve(object.file(), size, job.stat.sparse);
            reserved.map_err(|e| self.write_error(&job, e.into()))?;
            let chunks = if self.ingest.chunk_tables {
                let _one = lock(&self.indexing);
                Some(Chunks::new(store, &file, size)?)
            } else {
                None
            };
            Some(Target { object, chunks })
        };
        let blocks = size.div_ceil(BLOCK_BYTES);
        lock(&self.queue).large.push_back(Arc::new(Large {
            job,
            file,
            blocks,
            next_block: AtomicU64::new(0),
            unfinished: AtomicU64::new(blocks),
            subtrees: Mutex::new(Subtrees::new(blocks)),
            sketch,
            target,
            began_ns,
        }));
        Ok(())
    }

    /// One block of a large file, from reading to its chunks.
    fn block(&self, large: &Arc<Large<'s>>, block: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let offset = block * BLOCK_BYTES;
        let length = (large.job.stat.size - offset).min(BLOCK_BYTES) as usize;
        buffer.resize(length, 0);
        let count = read_full(&large.file, buffer, offset).map_err(|e| Error::io("read", &self.path(&large.job), e))?;
        // A file that shrank is found by the comparison of stats at the end; until then it reads as zeros.
        buffer[count..].fill(0);
        if let Some(target) = &large.target {
            write_block(target.object.file(), buffer, offset, large.job.stat.sparse)
                .map_err(|e| self.write_error(&large.job, e))?;
        }
        let value = chaining_value(buffer, offset);
        lock(&large.subtrees).add(block, value);
        if let Some(chunks) = large.target.as_ref().and_then(|target| target.chunks.as_ref()) {
            self.chunks(large, chunks, block, buffer)?;
        }
        self.ingest.progress.bytes.fetch_add(length as u64, Ordering::Relaxed);
        if large.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 { self.complete(large) } else { Ok(()) }
    }

    /// Decides the cuts of a block in file order, then digests the chunks that lie inside it.
    fn chunks(&self, large: &Large<'s>, target: &Chunks<'s>, block: u64, bytes: &[u8]) -> Result<()> {
        let offset = block * BLOCK_BYTES;
        let candidates = target.chunker.candidates(bytes);
        let mut cuts = Vec::new();
        let mut chain = lock(&target.chain);
        while chain.next_block != block {
            let (guard, _) =
                target.turn.wait_timeout(chain, Duration::from_millis(50)).unwrap_or_else(PoisonError::into_inner);
            chain = guard;
            self.check()?;
        }
        target.chunker.cuts(&mut chain.carry, offset, bytes, &candidates, block + 1 == large.blocks, &mut cuts);
        let index = chain.chunks;
        let mut records = Vec::with_capacity(cuts.len());
        let first = cuts.first().map_or(bytes.len(), |&cut| (cut - offset) as usize);
        chain.open_chunk.update(&bytes[..first]);
        chain.open_bytes += first as u64;
        if let Some(&last) = cuts.last() {
            records.push((chain.open_chunk.finalize().into(), chain.open_bytes as u32));
            let tail = &bytes[(last - offset) as usize..];
            chain.open_chunk.reset();
            chain.open_chunk.update(tail);
            chain.open_bytes = tail.len() as u64;
        }
        chain.chunks += cuts.len() as u64;
        chain.next_block += 1;
        drop(chain);
        target.turn.notify_all();
        for pair in cuts.windows(2) {
            let chunk = &bytes[(pair[0] - offset) as usize..(pair[1] - offset) as usize];
            records.push((Digest::of(chunk), chunk.len() as u32));
        }
        if records.is_empty() {
            return Ok(());
        }
        let put = target.writer.put(target.table.file(), index, &records);
        put.map_err(|e| self.write_error(&large.job, e))
    }

    /// The last block is done: join the digest, check the source, publish.
    fn complete(&self, large: &Arc<Large<'s>>) -> Result<()> {
        let digest = lock(&large.subtrees).digest();
        let Some(job) = self.unchanged(large.job, &large.file, large.job.stat.size)? else { return Ok(()) };
        let usable = self.usable(digest, job.stat.size)?;
        match &large.target {
            None if !usable => {
                self.again(Job { ask: false, ..job }, job.stat.size);
                return Ok(());
            }
            Some(target) if !usable => {
                // The table first: a crash in between must not leave an object that looks like one chunk.
                if let Some(chunks) = &target.chunks {
                    let finished = chunks.writer.finish(chunks.table.file(), lock(&chunks.chain).chunks);
                    finished.map_err(|e| self.write_error(&job, e))?;
                    chunks.table.publish_table(digest)?;
                }
                target.object.publish_object(digest, job.stat.size, job.stat.mtime_ns.div_euclid(1_000_000_000))?;
            }
            _ => {}
        }
        self.ingest.cache.record_hint(&large.sketch, digest);
        self.finish(&job, digest, large.target.is_some() && !usable, Some(large.began_ns));
        Ok(())
    }
}

impl<'s> Chunks<'s> {
    fn new(store: &'s Store, source: &File, size_bytes: u64) -> Result<Self> {
        let chunker = format::chunker_for(source, size_bytes);
        let open_chunk = blake3::Hasher::new();
        let chain = Chain { next_block: 0, carry: Carry::default(), open_chunk, open_bytes: 0, chunks: 0 };
        Ok(Self {
            table: store.new_table(None)?,
            writer: TableWriter::new(chunker.id(), size_bytes),
            chunker,
            chain: Mutex::new(chain),
            turn: Condvar::new(),
        })
    }
}

/// Reads until `buffer` is full or the file ends; answers the bytes read.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes a block; in a sparse file, pages of zeros stay holes.
fn write_block(file: &File, block: &[u8], offset: u64, sparse: bool) -> io::Result<()> {
    const PAGE: usize = 4096;
    if !sparse {
        return file.write_all_at(block, offset);
    }
    let zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
    let mut start = 0;
    while start < block.len() {
        let is_zero = zero(&block[start..(start + PAGE).min(block.len())]);
        let mut end = start;
        while end < block.len() && zero(&block[end..(end + PAGE).min(block.len())]) == is_zero {
            end = (end + PAGE).min(block.len());
        }
        if !is_zero {
            file.write_all_at(&block[start..end], offset + start as u64)?;
        }
        start = end;
    }
    Ok(())
}

/// BLAKE3 of a file, read once by `threads` workers.
pub fn hash_file(path: &Path, threads: usize, progress: &Progress) -> Result<Digest> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    hash_open_file(&file, path, threads, progress)
}

/// The same of an open file; `path` is for messages.
pub fn hash_open_file(file: &File, path: &Path, threads: usize, progress: &Progress) -> Result<Digest> {
    let fail = |operation: &str, error: io::Error| Error::io(operation, path, error);
    let size = file.metadata().map_err(|e| fail("stat", e))?.len();
    progress.total_files.fetch_add(1, Ordering::Relaxed);
    progress.total_bytes.fetch_add(size, Ordering::Relaxed);
    if size <= BLOCK_BYTES {
        // Also pipes and files of `/proc`, whose size says nothing.
        let hashed = hash_reader(progress.reader(file));
        return hashed.map_err(|e| progress.read_error(e, |e| fail("read", e)));
    }
    hash_blocks(file, size, path, threads, progress, |_, _| Ok(()))
}

/// BLAKE3 of the first `size` bytes of an open file; `path` is for messages. Each block is also given to `each`, with its
/// offset, by the worker that has read it. It is a `Conflict` if the file has fewer bytes.
pub(crate) fn hash_blocks(
    file: &File,
    size: u64,
    path: &Path,
    threads: usize,
    progress: &Progress,
    each: impl Fn(u64, &[u8]) -> Result<()> + Sync,
) -> Result<Digest> {
    let read = |buffer: &mut [u8], offset| {
        progress.check()?;
        if read_full(file, buffer, offset).map_err(|e| Error::io("read", path, e))? != buffer.len() {
            return Err(Error::new(Kind::Conflict, format!("{} shrank while it was read", path.display())));
        }
        each(offset, buffer)?;
        progress.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    if size <= BLOCK_BYTES {
        let mut buffer = Buffer::take();
        let block = buffer.part(size as usize);
        return read(block, 0).map(|()| Digest::of(block));
    }
    let blocks = size.div_ceil(BLOCK_BYTES);
    let subtrees = Mutex::new(Subtrees::new(blocks));
    parallel::each(
        threads,
        blocks as usize,
        || Ok(Buffer::take()),
        |buffer, block| {
            let offset = block as u64 * BLOCK_BYTES;
            let bytes = buffer.part((size - offset).min(BLOCK_BYTES) as usize);
            read(bytes, offset)?;
            let value = chaining_value(bytes, offset);
            lock(&subtrees).add(block as u64, value);
            Ok(())
        },
    )?;
    Ok(lock(&subtrees).digest())
}
