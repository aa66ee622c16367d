//! Chunks back into objects of the store.
//!
//! Chunks come in any order, from packs or from objects that the store has, by any number of threads. Each is
//! verified and written to every place that it has in the objects asked for. The one that completes an object
//! reads it once more for its digest, and only then does it appear, its chunk table first: who sent the table
//! need not be trusted. Tables wait in files of the store, and chunks are asked for in windows, so that memory does not
//! grow with an object.
//!
//! What an object of many chunks has got when the assembly ends is kept. The next assembly that is asked for the object,
//! in any process, goes on with that file: it looks for each chunk at its place, and takes what has the right digest.
//! So nothing is written down of what has come, and nothing that is found is trusted.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use rustix::{fs::SeekFrom, io::Errno};

use super::{
    codec::Decoder,
    reader::{Records, verified},
};
use crate::{
    Digest, Error, Result,
    cancel::Progress,
    chunk::{WHOLE_BYTES, table::TableReader},
    ingest::hash_open_file,
    store::{Store, leases::Lease, objects::Temp},
};

/// Chunks that are missing at once, which are 10 MB here; of one object more come when these are there.
pub const WINDOW_CHUNKS: usize = 1 << 16;

/// Places of these chunks: a sparse file has few chunks in many places.
const WINDOW_PLACES: usize = 1 << 19;

/// Chunks of a table that are read at once.
const BLOCK_CHUNKS: u64 = 1 << 12;

/// Objects that are being put together. Holds about 150 bytes for each chunk that is missing, and open files of
/// each object that has a chunk table or was begun. What is not complete when it is dropped leaves nothing behind but
/// parts of objects that have a table, and not even these once a write has failed: the disk may be full.
#[derive(Debug)]
pub struct Assembly {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Keeps `gc` away from objects that no manifest names yet.
    lease: Lease,
    window_chunks: usize,
    /// Parts that others have left when this began.
    parts: HashMap<Digest, String>,
    has_failed: AtomicBool,
    /// Of what threads do that hear no signal.
    progress: Progress,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Digest, Arc<Object>>,
    /// Tables of objects that are to be asked for.
    tables: HashMap<Digest, Temp<Arc<Store>>>,
    wanted: HashMap<Digest, Wanted>,
    /// Objects of whose chunks not all were wanted yet, in the order of asking.
    waiting: VecDeque<Waiting>,
    /// Chunks that were wanted since they were last looked for in the files that others have left.
    left: Vec<(Arc<Object>, u64, (Digest, u32))>,
    /// Completed, and no call answered it yet.
    done: Vec<Digest>,
}

/// An object, and the first of its chunks that was not wanted yet.
#[derive(Debug)]
struct Waiting {
    object: Arc<Object>,
    number: u64,
    offset: u64,
}

/// A chunk that is missing.
#[derive(Debug)]
struct Wanted {
    bytes: u32,
    places: Vec<(Arc<Object>, u64)>,
}

#[derive(Debug)]
struct Object {
    digest: Digest,
    size_bytes: u64,
    /// Its chunk table, if it has more than one chunk.
    table: Option<(Temp<Arc<Store>>, TableReader)>,
    /// Begun with its first chunk, or by an assembly before this one: `left` reads what that has written.
    file: Mutex<Option<Arc<Temp<Arc<Store>>>>>,
    left: Option<File>,
    /// Places that no chunk was written to yet.
    missing: AtomicU64,
}

/// Where a chunk lies: in an object of the store, or in the file that others have left of `part`.
#[derive(Clone, Copy)]
struct Found<'a> {
    file: &'a File,
    offset: u64,
    part: Option<&'a Arc<Object>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Assembly {
    /// An assembly of no objects yet.
    pub fn new(store: Arc<Store>) -> Result<Self> {
        Self::with_window(store, WINDOW_CHUNKS)
    }

    /// [`new`](Self::new) with another window than [`WINDOW_CHUNKS`].
    pub fn with_window(store: Arc<Store>, window_chunks: usize) -> Result<Self> {
        let (lease, parts) = (Lease::take(&store)?, store.left_parts().into_iter().collect());
        let (has_failed, progress) = (AtomicBool::new(false), Progress::default());
        Ok(Self { store, state: Mutex::default(), lease, window_chunks, parts, has_failed, progress })
    }

    /// Takes the next bytes of the chunk table of an object that will be asked for.
    pub fn push_table(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        self.lease.renew();
        let mut state = lock(&self.state);
        let table = match state.tables.entry(digest) {
            Entry::Occupied(table) => table.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(self.store.new_table_in(digest)?),
        };
        let written = table.file().write_all(bytes);
        written.map_err(|error| Error::io("write the chunk table of", &self.store.object_path(digest), error))
    }

    /// Asks for an object, whose chunk table was pushed or is `table`; without one it is a single chunk. Answers
    /// whether the store has the object already; what that lacks is then in [`wanted`](Self::wanted), or will be.
    pub fn add(&self, digest: Digest, size_bytes: u64, table: Option<&[u8]>) -> Result<bool> {
        self.lease.renew();
        if let Some(bytes) = table {
            self.push_table(digest, bytes)?;
        }
        let pushed = lock(&self.state).tables.remove(&digest);
        if self.store.usable(digest, size_bytes)? {
            return Ok(true);
        }
        let table = match pushed {
            Some(temp) => Some(TableReader::check(temp.file()).map(|reader| (temp, reader))?),
            None => None,
        };
        let count = match &table {
            Some((_, reader)) if reader.object_size == size_bytes => reader.count,
            None if size_bytes == 0 => 0,
            None if size_bytes <= WHOLE_BYTES => 1,
            _ => return Err(Error::integrity(format!("the chunk table of object {digest} is of another size"))),
        };
        let part = match (&table, self.parts.get(&digest)) {
            (Some(_), Some(name)) => self.store.adopt_part(name, digest, &self.lease),
            _ => None,
        };
        let (file, left) = match part {
            Some((file, left)) => {
                self.set_size(&file, digest, size_bytes)?;
                (Some(Arc::new(file)), Some(left))
            }
            None => (None, None),
        };
        let (file, missing) = (Mutex::new(file), AtomicU64::new(count));
        let object = Arc::new(Object { digest, size_bytes, table, file, left, missing });
        if count == 0 {
            self.finish(&object, 1, &Progress::default())?;
            lock(&self.state).done.push(digest);
            return Ok(false);
        }
        let mut state = lock(&self.state);
        match state.objects.entry(digest) {
            Entry::Vacant(vacant) => drop(vacant.insert(Arc::clone(&object))),
            Entry::Occupied(asked) if asked.get().size_bytes == size_bytes => return Ok(false),
            Entry::Occupied(_) => return Err(Error::integrity(format!("object {digest} is asked for in two sizes"))),
        }
        state.waiting.push_back(Waiting { object, number: 0, offset: 0 });
        state.fill(self.window_chunks)?;
        Ok(false)
    }

    /// Asks for the next chunks of large objects once none is missing; whether any is missing then.
    pub fn want_more(&self) -> Result<bool> {
        self.lease.renew();
        let mut state = lock(&self.state);
        if state.wanted.is_empty() {
            state.fill(self.window_chunks)?;
        }
        Ok(!state.wanted.is_empty())
    }

    /// The chunks that are missing, with their lengths, in no order.
    pub fn wanted(&self) -> Vec<(Digest, u32)> {
        lock(&self.state).wanted.iter().map(|(digest, wanted)| (*digest, wanted.bytes)).collect()
    }

    /// Takes what chunks of `object`, which the store has, are wanted; answers their bytes. A chunk that is not as the
    /// table says is left to be fetched.
    pub fn take_from(&self, object: Digest, threads: usize, progress: &Progress) -> Result<u64> {
        let file = self.store.open_object(object)?;
        let Some((table, reader)) = self.store.open_table(object)? else {
            let size_bytes = self.store.size(object)?;
            let whole = u32::try_from(size_bytes).ok().filter(|&bytes| u64::from(bytes) <= WHOLE_BYTES);
            let mut buffer = Vec::new();
            let found = Found { file: &file, offset: 0, part: None };
            return whole
                .map_or(Ok(0), |bytes| self.take_chunk(found, (object, bytes), &mut buffer, threads, progress));
        };
        let (mut first, mut offset, mut taken, mut buffer) = (0, 0, 0, Vec::new());
        while first < reader.count {
            self.lease.renew();
            let chunks = reader.chunks(&table, first, BLOCK_CHUNKS)?;
            first += chunks.len() as u64;
            for chunk in chunks {
                let found = Found { file: &file, offset, part: None };
                taken += self.take_chunk(found, chunk, &mut buffer, threads, progress)?;
                offset += u64::from(chunk.1);
            }
        }
        Ok(taken)
    }

    /// Ends what calls of [`take_records`](Self::take_records) still do, which may be hashing a whole object.
    pub fn cancel(&self) {
        self.progress.cancel();
    }

    /// Takes the chunks that an assembly before this one has left in its files; answers their bytes.
    pub fn take_left(&self, threads: usize, progress: &Progress) -> Result<u64> {
        let left = std::mem::take(&mut lock(&self.state).left);
        let (mut taken, mut buffer) = (0, Vec::new());
        for (object, offset, chunk) in left {
            let Some(file) = object.left.as_ref().filter(|file| has_data(file, offset, chunk.1)) else { continue };
            let found = Found { file, offset, part: Some(&object) };
            taken += self.take_chunk(found, chunk, &mut buffer, threads, progress)?;
        }
        Ok(taken)
    }

    /// Takes a chunk where it was found.
    fn take_chunk(
        &self,
        found: Found<'_>,
        (digest, bytes): (Digest, u32),
        buffer: &mut Vec<u8>,
        threads: usize,
        progress: &Progress,
    ) -> Result<u64> {
        progress.check()?;
        let Some(wanted) = self.claim(digest) else { return Ok(0) };
        self.lease.renew();
        buffer.resize(bytes as usize, 0);
        let right = found.file.read_exact_at(buffer, found.offset).is_ok() && Digest::of(buffer) == digest;
        if !right || bytes != wanted.bytes {
            self.give_back(digest, wanted);
            return Ok(0);
        }
        self.place(digest, wanted, buffer, Some(found), threads, progress)?;
        Ok(u64::from(bytes))
    }

    /// Takes what chunks of a run of whole records of a pack are wanted. After an error everything that was not taken
    /// is still wanted.
    pub fn take_records(&self, bytes: &[u8], threads: usize) -> Result<()> {
        let (mut records, mut decoder) = (Records::new(bytes), Decoder::new()?);
        while let Some((record, stored)) = records.next_record()? {
            let Some(wanted) = self.claim(record.digest) else { continue };
            self.lease.renew();
            let chunk =
                verified(&mut decoder, &record, stored).and_then(|chunk| match record.raw_bytes == wanted.bytes {
                    true => Ok(chunk),
                    false => Err(Error::integrity(format!("chunk {} has another length", record.digest))),
                });
            match chunk {
                Ok(chunk) => self.place(record.digest, wanted, chunk, None, threads, &self.progress)?,
                Err(error) => {
                    self.give_back(record.digest, wanted);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The objects that were completed since the last call, each once: the store has them.
    pub fn completed(&self) -> Vec<Digest> {
        std::mem::take(&mut lock(&self.state).done)
    }

    /// Says that the download goes on, as all calls but `wanted` and `completed` do: at least once in a few minutes,
    /// however long the network takes. Whether the lease was held all the time does not matter here, since
    /// [`materialize`](crate::materialize) looks at every object under a lease of its own.
    pub fn renew(&self) {
        self.lease.renew();
    }

    /// A wanted chunk, which no other thread then places too.
    fn claim(&self, digest: Digest) -> Option<Wanted> {
        lock(&self.state).wanted.remove(&digest)
    }

    fn give_back(&self, digest: Digest, wanted: Wanted) {
        let mut state = lock(&self.state);
        match state.wanted.entry(digest) {
            // An object that was added meanwhile wants it too.
            Entry::Occupied(mut other) => other.get_mut().places.extend(wanted.places),
            Entry::Vacant(vacant) => drop(vacant.insert(wanted)),
        }
    }

    /// Writes a chunk to all its places but the one where it was found, and finishes the objects that lack no other. The
    /// error is the first of several: one wrong table does not keep other objects from being completed.
    fn place(
        &self,
        digest: Digest,
        wanted: Wanted,
        chunk: &[u8],
        found: Option<Found<'_>>,
        threads: usize,
        progress: &Progress,
    ) -> Result<()> {
        let zeros = chunk.iter().all(|&byte| byte == 0);
        let is_part = |object, found: Found<'_>| found.part.is_some_and(|part| Arc::ptr_eq(part, object));
        let is_there = |object, at| found.is_some_and(|found| is_part(object, found) && found.offset == at);
        let mut places = wanted.places.iter().filter(|(object, offset)| !is_there(object, *offset));
        let written = places.try_for_each(|(object, offset)| {
            let file = self.begun(object)?;
            // What was never written is a hole, and reads as zeros.
            let is_hole = || object.left.as_ref().is_none_or(|left| !has_data(left, *offset, chunk.len() as u32));
            let written = if zeros && is_hole() { Ok(()) } else { file.file().write_all_at(chunk, *offset) };
            written.map_err(|error| Error::io("write", &self.store.object_path(object.digest), error))
        });
        if let Err(error) = written {
            self.has_failed.store(true, Ordering::Relaxed);
            self.give_back(digest, wanted);
            return Err(error);
        }
        let mut finished = Ok(());
        for (object, _) in &wanted.places {
            if object.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                let result = self.finish(object, threads, progress);
                let mut state = lock(&self.state);
                state.objects.remove(&object.digest);
                if result.is_ok() {
                    state.done.push(object.digest);
                }
                finished = finished.and(result);
            }
        }
        finished
    }

    /// The file of an object, in its full size from the first chunk on.
    fn begun(&self, object: &Object) -> Result<Arc<Temp<Arc<Store>>>> {
        let mut file = lock(&object.file);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let temp = match object.table {
            Some(_) => self.store.new_part(object.digest, &self.lease)?,
            None => self.store.new_object_in(object.digest)?,
        };
        self.set_size(&temp, object.digest, object.size_bytes)?;
        Ok(Arc::clone(file.insert(Arc::new(temp))))
    }

    fn set_size(&self, temp: &Temp<Arc<Store>>, digest: Digest, size_bytes: u64) -> Result<()> {
        rustix::fs::ftruncate(temp.file(), size_bytes).map_err(|error| {
            temp.discard();
            Error::io("write", &self.store.object_path(digest), error)
        })
    }

    /// Every chunk is written: publishes the object if they are what its digest says.
    fn finish(&self, object: &Object, threads: usize, progress: &Progress) -> Result<()> {
        let file = self.begun(object)?;
        let path = self.store.object_path(object.digest);
        if let Some((table, _)) = &object.table {
            if hash_open_file(file.file(), &path, threads, progress)? != object.digest {
                file.discard();
                let message =
                    format!("the chunks of object {} are not its bytes: its chunk table is wrong", object.digest);
                return Err(Error::integrity(message));
            }
            table.publish_table(object.digest)?;
        } else if object.size_bytes == 0 && object.digest != Digest::of(&[]) {
            return Err(Error::integrity(format!("object {} is not empty", object.digest)));
        }
        let now_s = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() as i64);
        file.publish_object(object.digest, object.size_bytes, now_s)?;
        // Closes it, and with that the last name of an object that somebody else published first.
        lock(&object.file).take();
        Ok(())
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        if self.has_failed.load(Ordering::Relaxed) {
            for object in lock(&self.state).objects.values() {
                if let Some(file) = &*lock(&object.file) {
                    file.discard();
                }
            }
        }
    }
}

/// Whether one of the bytes was ever written, as far as the file system tells.
fn has_data(file: &File, offset: u64, bytes: u32) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data < offset + u64::from(bytes),
        Err(error) => error != Errno::NXIO,
    }
}

impl State {
    /// Wants chunks of the objects that wait, up to a window of them. An object whose table contradicts another's is
    /// given up.
    fn fill(&mut self, window_chunks: usize) -> Result<()> {
        let (block, mut places) = (BLOCK_CHUNKS.min(window_chunks as u64), 0);
        while self.wanted.len() < window_chunks && places < WINDOW_PLACES {
            let Some(waiting) = self.waiting.front() else { break };
            let (object, number, mut offset) = (Arc::clone(&waiting.object), waiting.number, waiting.offset);
            let (chunks, is_last) = match &object.table {
                Some((table, reader)) => {
                    let chunks = reader.chunks(table.file(), number, block)?;
                    let is_last = number + chunks.len() as u64 >= reader.count;
                    (chunks, is_last)
                }
                None => (vec![(object.digest, object.size_bytes as u32)], true),
            };
            let other =
                |(chunk, bytes): &&(Digest, u32)| self.wanted.get(chunk).is_some_and(|other| other.bytes != *bytes);
            if let Some((chunk, _)) = chunks.iter().find(other) {
                let error = Error::integrity(format!("two chunk tables give chunk {chunk} different lengths"));
                self.waiting.pop_front();
                self.objects.remove(&object.digest);
                return Err(error);
            }
            for (chunk, bytes) in &chunks {
                let wanted = self.wanted.entry(*chunk).or_insert(Wanted { bytes: *bytes, places: Vec::new() });
                wanted.places.push((Arc::clone(&object), offset));
                if object.left.is_some() {
                    self.left.push((Arc::clone(&object), offset, (*chunk, *bytes)));
                }
                offset += u64::from(*bytes);
            }
            places += chunks.len();
            match self.waiting.front_mut() {
                Some(waiting) if !is_last => (waiting.number, waiting.offset) = (number + chunks.len() as u64, offset),
                _ => drop(self.waiting.pop_front()),
            }
        }
        Ok(())
    }
}
