//! Remembers the digests of files by what `stat` says, so that unchanged files are not read again.
//!
//! ```text
//! <dir>/files/00 … ff    rows by (device, inode)
//! <dir>/hints/00 … ff    rows by XXH3-128 of (size, samples of the bytes): content hints
//! shard = magic[8] version:u32 row_bytes:u32, rows sorted by key, XXH3-64 of all before; little-endian
//! row   = key[16] size:u64 mtime_ns:i64 ctime_ns:i64 digest[32] flags:u32 last_used_day:u32
//! ```
//!
//! The cache may be deleted at any time and is never a reason to fail: an input/output error, a
//! damaged shard or one of another version count as empty. A shard is read on first use and written
//! by [`StatCache::flush`] through a temporary file and a rename, merged with what is there by then;
//! of two flushes in the same instant one may lose its rows, which costs only a second hashing.
//! When many rows are held, the shards used first are flushed and dropped: who asks for many files asks in the
//! order of [`shard_of`].
//!
//! The locks live in the value: there is no global state, so a forked child can open its own.

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{Digest, scan::Stat};

/// Start of the names of files being written.
const TEMPORARY: &str = ".tmp-";
/// Age at which a temporary file belongs to a process that died; writing one takes milliseconds.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
const MAGIC: &[u8; 8] = b"EMSTATS\n";
const VERSION: u32 = 2;
const SHARDS: usize = 256;
const HEADER_BYTES: usize = 16;
const ROW_BYTES: usize = 80;
const KEY_BYTES: usize = 16;
const TRAILER_BYTES: usize = 8;
/// Files of several contents look alike in all samples.
const FLAG_AMBIGUOUS: u32 = 1;

/// Most rows of a shard; the ones unused for longest go first. 256 full shards hold 2.1 million
/// files in 168 MB of disk.
pub const MAX_ROWS: usize = 8192;

/// Rows of one table that are held in memory, give or take a shard: some 3 MB.
const MAX_HELD_ROWS: usize = 32_768;

/// Bytes at the start and at the end of a file that a content hint looks at: the index of most tensor files, and the
/// directory of a zip file, which has a checksum of each of its members.
pub const EDGE_BYTES: usize = 64 * 1024;

/// What it looks at in between: a page in each MiB, and in at most 64 places. They cost less than a thousandth of
/// reading the file if that is long, and one in 256 bytes if it is short.
pub const SAMPLE_BYTES: usize = 4096;
const SAMPLES: u64 = 64;
const LEAST_STEP_BYTES: u64 = 1 << 20;

/// How much older than the start of hashing a file's newest time has to be, in nanoseconds.
///
/// A later write is seen only if it changes the times, so the write before must lie at least one
/// step of the file system's clock back: 10 ms (a kernel tick at 100 Hz) on local disks, 1 s on
/// ext3, HFS+ and old NFS servers, 2 s on FAT, and a network server's clock may be off by as much. Two
/// seconds cover all of these, and cost one more hashing of files that were added right after they
/// were written.
pub const SLACK_NS: i128 = 2_000_000_000;

/// The directory of this user and host: `$XDG_CACHE_HOME/em/stat-<host>`, else below `~/.cache`.
///
/// The host is in the name because home directories are shared and device numbers are not.
pub fn default_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let name = rustix::system::uname();
    let host = name.nodename().to_string_lossy().replace('/', "_");
    Some(base.join("em").join(format!("stat-{host}")))
}

/// Now, as [`StatCache::record`] wants it: nanoseconds since 1970.
pub fn now_ns() -> i128 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
    }
}

/// Digests by file state, shared by the threads of a call. Dropping it does not flush.
#[derive(Debug)]
pub struct StatCache {
    files: Shards,
    hints: Shards,
    today: u32,
}

impl StatCache {
    /// A cache in `dir`, which need not exist; reads nothing yet.
    pub fn open(dir: &Path) -> Self {
        let day = now_ns() / (24 * 3600 * 1_000_000_000);
        Self {
            files: Shards::new(dir.join("files")),
            hints: Shards::new(dir.join("hints")),
            today: u32::try_from(day).unwrap_or(0),
        }
    }

    /// The digest of the file if it was not touched since it was recorded.
    pub fn lookup(&self, stat: &Stat) -> Option<Digest> {
        let row = self.files.get(file_key(stat), self.today)?;
        let then = (row.size, row.mtime_ns, row.ctime_ns);
        (then == (stat.size, stat.mtime_ns, stat.ctime_ns)).then_some(row.digest)
    }

    /// Whether `stat` cannot vouch for bytes that were read after `hashing_began_ns`.
    pub fn is_racy(stat: &Stat, hashing_began_ns: i128) -> bool {
        i128::from(stat.mtime_ns.max(stat.ctime_ns)) >= hashing_began_ns.saturating_sub(SLACK_NS)
    }

    /// Remembers that the file in this state, which is not racy, has `digest`.
    ///
    /// `stat` must be from before the first read and equal to the state after the last one.
    pub fn record(&self, stat: &Stat, digest: Digest) {
        let (size, mtime_ns, ctime_ns) = (stat.size, stat.mtime_ns, stat.ctime_ns);
        let row = Row { size, mtime_ns, ctime_ns, digest, flags: 0, day: self.today, changed: true };
        self.files.put(file_key(stat), |_| row);
    }

    /// The digest that a file with this sketch had before: a guess, so that the bytes of a touched or copied file are
    /// hashed before any is written. None where it would have been wrong once.
    pub fn hint(&self, sketch: &Sketch) -> Option<Digest> {
        let row = self.hints.get(sketch.key, self.today)?;
        (row.size == sketch.size && row.flags & FLAG_AMBIGUOUS == 0).then_some(row.digest)
    }

    /// Remembers a digest for [`hint`](Self::hint).
    pub fn record_hint(&self, sketch: &Sketch, digest: Digest) {
        let row = Row { size: sketch.size, mtime_ns: 0, ctime_ns: 0, digest, flags: 0, day: self.today, changed: true };
        self.hints.put(sketch.key, |before| match before {
            Some(before) if before.digest != digest => Row { flags: FLAG_AMBIGUOUS, ..row },
            Some(before) => Row { flags: before.flags, ..row },
            None => row,
        });
    }

    /// Writes the shards that changed; each appears whole or stays as it was. Not synced to disk.
    pub fn flush(&self) {
        self.files.flush();
        self.hints.flush();
    }
}

/// Which of the shards, of which a few are held at a time, has the file.
pub fn shard_of(stat: &Stat) -> u8 {
    shard_index(&file_key(stat)) as u8
}

fn shard_index(key: &Key) -> usize {
    (xxh3_64(key) % SHARDS as u64) as usize
}

type Key = [u8; KEY_BYTES];

fn file_key(stat: &Stat) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&stat.dev.to_le_bytes());
    key[8..].copy_from_slice(&stat.ino.to_le_bytes());
    key
}

/// What a file looks like from its size and a few of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch {
    size: u64,
    key: Key,
}

impl Sketch {
    /// Of a file of this size, by at most 66 reads of 384 KiB in sum. `read` fills a buffer from an offset on, and
    /// answers how many bytes there were.
    pub fn of(size: u64, mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<Self> {
        let mut hash = Xxh3::new();
        hash.update(&size.to_le_bytes());
        let mut buffer = vec![0; EDGE_BYTES];
        for (offset, length) in places(size) {
            let count = read(&mut buffer[..length], offset)?;
            hash.update(&buffer[..count]);
        }
        Ok(Self { size, key: hash.digest128().to_le_bytes() })
    }
}

/// Offsets and lengths of what a sketch looks at.
fn places(size: u64) -> impl Iterator<Item = (u64, usize)> {
    let samples = (size / LEAST_STEP_BYTES).min(SAMPLES);
    let step = size / (samples + 1);
    let page = SAMPLE_BYTES as u64;
    let inner = (1..=samples).map(move |number| (number * step / page * page, SAMPLE_BYTES));
    let edges = [0, size.saturating_sub(EDGE_BYTES as u64)].map(|offset| (offset, EDGE_BYTES));
    edges.into_iter().chain(inner)
}

#[derive(Clone, Copy, Debug)]
struct Row {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    digest: Digest,
    flags: u32,
    day: u32,
    /// Newer than the file; not stored.
    changed: bool,
}

type Rows = HashMap<Key, Row>;

/// 256 tables in one directory, each behind its own lock.
#[derive(Debug)]
struct Shards {
    dir: PathBuf,
    shards: Vec<Mutex<Option<Rows>>>,
    /// Shards that are held, in the order of their first use.
    held: Mutex<VecDeque<usize>>,
    held_rows: AtomicUsize,
}

impl Shards {
    fn new(dir: PathBuf) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(None)).collect();
        Self { dir, shards, held: Mutex::default(), held_rows: AtomicUsize::new(0) }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{index:02x}"))
    }

    /// Runs `with` on the rows of the shard that holds `key`, read from disk the first time.
    fn with<T>(&self, key: Key, with: impl FnOnce(&mut Rows) -> T) -> Option<T> {
        let index = shard_index(&key);
        let mut shard = lock(self.shards.get(index)?);
        let before = shard.as_ref().map_or(0, Rows::len);
        if shard.is_none() {
            lock(&self.held).push_back(index);
        }
        let rows = shard.get_or_insert_with(|| read_shard(&self.path(index)));
        let done = with(rows);
        self.count(before, rows.len());
        drop(shard);
        self.drop_first(index);
        Some(done)
    }

    /// Notes that a shard's rows have become more or fewer.
    fn count(&self, before: usize, after: usize) {
        self.held_rows.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// Writes and forgets the shards used first while too much is held; `last` stays.
    fn drop_first(&self, last: usize) {
        while self.held_rows.load(Relaxed) > MAX_HELD_ROWS {
            let first = {
                let mut held = lock(&self.held);
                match held.front() {
                    Some(&first) if first != last => held.pop_front(),
                    _ => None,
                }
            };
            let Some(first) = first else { return };
            let mut shard = lock(&self.shards[first]);
            self.flush_shard(first, &mut shard);
            self.count(shard.take().map_or(0, |rows| rows.len()), 0);
        }
    }

    fn get(&self, key: Key, today: u32) -> Option<Row> {
        self.with(key, |rows| {
            let row = rows.get_mut(&key)?;
            if row.day != today {
                // At most once a day, so that a cache that only answers is rarely written.
                row.day = today;
                row.changed = true;
            }
            Some(*row)
        })?
    }

    fn put(&self, key: Key, row: impl FnOnce(Option<&Row>) -> Row) {
        self.with(key, |rows| {
            let row = row(rows.get(&key));
            rows.insert(key, row);
            if rows.len() > 2 * MAX_ROWS {
                drop_oldest(rows);
            }
        });
    }

    fn flush(&self) {
        let mut wrote = false;
        for (index, shard) in self.shards.iter().enumerate() {
            wrote |= self.flush_shard(index, &mut lock(shard));
        }
        if wrote {
            remove_leftovers(&self.dir);
        }
    }

    /// Writes what changed in a shard; whether it did.
    fn flush_shard(&self, index: usize, shard: &mut Option<Rows>) -> bool {
        let Some(rows) = shard.as_mut().filter(|rows| rows.values().any(|row| row.changed)) else { return false };
        let path = self.path(index);
        let mut merged = read_shard(&path);
        merged.extend(rows.iter().filter(|(_, row)| row.changed).map(|(key, row)| (*key, *row)));
        drop_oldest(&mut merged);
        let written = write_shard(&path, &merged).is_ok();
        if written {
            merged.values_mut().for_each(|row| row.changed = false);
            self.count(rows.len(), merged.len());
            *rows = merged;
        }
        written
    }
}

/// The rows stay usable after a panic elsewhere: each change is one map operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the [`MAX_ROWS`] rows used last; among those of one day, the ones of this call.
fn drop_oldest(rows: &mut Rows) {
    if rows.len() > MAX_ROWS {
        let mut keys: Vec<_> = rows.iter().map(|(key, row)| ((row.day, row.changed), *key)).collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in keys.split_off(MAX_ROWS) {
            rows.remove(&key);
        }
    }
}

fn read_shard(path: &Path) -> Rows {
    let most = (HEADER_BYTES + MAX_ROWS * ROW_BYTES + TRAILER_BYTES) as u64;
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)) {
        Ok(read) if read as u64 <= most => decode(&bytes).unwrap_or_default(),
        _ => Rows::new(),
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&(ROW_BYTES as u32).to_le_bytes());
    header
}

/// `None` if a single bit is off, or if [`encode`] would have written other bytes.
fn decode(bytes: &[u8]) -> Option<Rows> {
    let (content, trailer) = bytes.split_last_chunk::<TRAILER_BYTES>()?;
    let rows = content.strip_prefix(&header())?;
    let whole = rows.len() % ROW_BYTES == 0 && xxh3_64(content) == u64::from_le_bytes(*trailer);
    let rows = rows.chunks_exact(ROW_BYTES);
    if !whole || !rows.clone().map(|row| row.first_chunk::<KEY_BYTES>()).is_sorted_by(|a, b| a < b) {
        return None;
    }
    rows.map(decode_row).collect()
}

fn decode_row(bytes: &[u8]) -> Option<(Key, Row)> {
    let (key, rest) = bytes.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (mtime, rest) = rest.split_first_chunk()?;
    let (ctime, rest) = rest.split_first_chunk()?;
    let (digest, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (day, _) = rest.split_first_chunk()?;
    let row = Row {
        size: u64::from_le_bytes(*size),
        mtime_ns: i64::from_le_bytes(*mtime),
        ctime_ns: i64::from_le_bytes(*ctime),
        digest: Digest(*digest),
        flags: u32::from_le_bytes(*flags),
        day: u32::from_le_bytes(*day),
        changed: false,
    };
    Some((*key, row))
}

fn encode(rows: &Rows) -> Vec<u8> {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| **key);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + sorted.len() * ROW_BYTES + TRAILER_BYTES);
    bytes.extend_from_slice(&header());
    for (key, row) in sorted {
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&row.size.to_le_bytes());
        bytes.extend_from_slice(&row.mtime_ns.to_le_bytes());
        bytes.extend_from_slice(&row.ctime_ns.to_le_bytes());
        bytes.extend_from_slice(&row.digest.0);
        bytes.extend_from_slice(&row.flags.to_le_bytes());
        bytes.extend_from_slice(&row.day.to_le_bytes());
    }
    let sum = xxh3_64(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

fn write_shard(path: &Path, rows: &Rows) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or("shard");
    // Unique among processes by id, among values of one process by the address of these rows.
    let temporary = dir.join(format!("{TEMPORARY}{name}-{}-{:x}", std::process::id(), std::ptr::from_ref(rows).addr()));
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&encode(rows)))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Nothing more can be done about a cache that cannot be written.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in
        entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()))
    {
        let age = entry.metadata().and_then(|data| data.modified()).map(|time| time.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > LEFTOVER_AGE) {
            // Another process may have removed it first; either is fine.
            let _ = fs::remove_file(entry.path());
        }
    }
}
