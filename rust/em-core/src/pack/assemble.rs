//! Chunks back into objects of the store.
//!
//! Chunks come in any order, from packs or from objects that the store has, by any number of threads. Each is
//! verified and written to every place that it has in the objects asked for. The one that completes an object
//! reads it once more for its digest, and only then does it appear, its chunk table first: who sent the table
//! need not be trusted.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::UNIX_EPOCH,
};

use super::{
    codec::Decoder,
    reader::{Records, verified},
};
use crate::{
    Digest, Error, Result,
    cancel::Progress,
    chunk::{WHOLE_BYTES, table::ChunkTable},
    ingest::hash_open_file,
    store::{Store, leases::Lease, objects::Temp},
};

/// Objects that are being put together. Holds about 150 bytes for each chunk that is missing, and an open file for
/// each object that was begun. What is not complete when it is dropped leaves nothing behind.
#[derive(Debug)]
pub struct Assembly {
    store: Arc<Store>,
    state: Mutex<State>,
    /// Keeps `gc` away from objects that no manifest names yet.
    lease: Lease,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Digest, Arc<Object>>,
    wanted: HashMap<Digest, Wanted>,
    /// Completed, and no call answered it yet.
    done: Vec<Digest>,
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
    /// The bytes of its chunk table, if it has more than one chunk.
    table: Option<Vec<u8>>,
    /// Begun with its first chunk.
    file: Mutex<Option<Arc<Temp<Arc<Store>>>>>,
    /// Places that no chunk was written to yet.
    missing: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Assembly {
    /// An assembly of no objects yet.
    pub fn new(store: Arc<Store>) -> Result<Self> {
        Ok(Self { lease: Lease::take(&store)?, store, state: Mutex::default() })
    }

    /// Asks for an object. `table` are the bytes of its chunk table; without one it is a single chunk. Answers
    /// whether the store has the object already; what that lacks is then in [`wanted`](Self::wanted).
    pub fn add(&self, digest: Digest, size_bytes: u64, table: Option<&[u8]>) -> Result<bool> {
        self.lease.renew();
        if self.store.usable(digest, size_bytes)? {
            return Ok(true);
        }
        let decoded = table.map(ChunkTable::decode).transpose()?;
        let chunks = match &decoded {
            Some(table) if table.object_size == size_bytes => &table.chunks[..],
            None if size_bytes == 0 => &[],
            None if size_bytes <= WHOLE_BYTES => &[(digest, size_bytes as u32)],
            _ => return Err(Error::integrity(format!("the chunk table of object {digest} is of another size"))),
        };
        let object = Arc::new(Object {
            digest,
            size_bytes,
            table: table.map(<[u8]>::to_vec),
            file: Mutex::new(None),
            missing: AtomicUsize::new(chunks.len()),
        });
        if chunks.is_empty() {
            self.finish(&object, 1)?;
            lock(&self.state).done.push(digest);
            return Ok(false);
        }
        let mut state = lock(&self.state);
        let other = |(chunk, bytes): &(Digest, u32)| state.wanted.get(chunk).is_some_and(|other| other.bytes != *bytes);
        if let Some((chunk, _)) = chunks.iter().find(|chunk| other(chunk)) {
            return Err(Error::integrity(format!("two chunk tables give chunk {chunk} different lengths")));
        }
        let Entry::Vacant(vacant) = state.objects.entry(digest) else { return Ok(false) };
        vacant.insert(Arc::clone(&object));
        let mut offset = 0;
        for &(chunk, bytes) in chunks {
            let wanted = state.wanted.entry(chunk).or_insert(Wanted { bytes, places: Vec::new() });
            wanted.places.push((Arc::clone(&object), offset));
            offset += u64::from(bytes);
        }
        Ok(false)
    }

    /// The chunks that are missing, with their lengths, in no order.
    pub fn wanted(&self) -> Vec<(Digest, u32)> {
        lock(&self.state).wanted.iter().map(|(digest, wanted)| (*digest, wanted.bytes)).collect()
    }

    /// Takes what chunks of `object`, which the store has, are wanted; answers their bytes. A chunk that is not as the
    /// table says is left to be fetched.
    pub fn take_from(&self, object: Digest, threads: usize) -> Result<u64> {
        let file = self.store.open_object(object)?;
        let (mut offset, mut taken, mut buffer) = (0, 0, Vec::new());
        for (digest, bytes) in self.store.chunks(object)? {
            self.lease.renew();
            let start = offset;
            offset += u64::from(bytes);
            let Some(wanted) = self.claim(digest) else { continue };
            buffer.resize(bytes as usize, 0);
            let right = file.read_exact_at(&mut buffer, start).is_ok() && Digest::of(&buffer) == digest;
            if right && bytes == wanted.bytes {
                taken += u64::from(bytes);
                self.place(digest, wanted, &buffer, threads)?;
            } else {
                self.give_back(digest, wanted);
            }
        }
        Ok(taken)
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
                Ok(chunk) => self.place(record.digest, wanted, chunk, threads)?,
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

    /// Writes a chunk to all its places and finishes the objects that lack no other. The error is the first of several:
    /// one wrong table does not keep other objects from being completed.
    fn place(&self, digest: Digest, wanted: Wanted, chunk: &[u8], threads: usize) -> Result<()> {
        let zeros = chunk.iter().all(|&byte| byte == 0);
        let written = wanted.places.iter().try_for_each(|(object, offset)| {
            let file = self.begun(object)?;
            // What was never written is a hole, and reads as zeros.
            let written = if zeros { Ok(()) } else { file.file().write_all_at(chunk, *offset) };
            written.map_err(|error| Error::io("write", &self.store.object_path(object.digest), error))
        });
        if let Err(error) = written {
            self.give_back(digest, wanted);
            return Err(error);
        }
        let mut finished = Ok(());
        for (object, _) in &wanted.places {
            if object.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                let result = self.finish(object, threads);
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
        let temp = self.store.new_object_in(object.digest)?;
        rustix::fs::ftruncate(temp.file(), object.size_bytes)
            .map_err(|error| Error::io("write", &self.store.object_path(object.digest), error))?;
        Ok(Arc::clone(file.insert(Arc::new(temp))))
    }

    /// Every chunk is written: publishes the object if they are what its digest says.
    fn finish(&self, object: &Object, threads: usize) -> Result<()> {
        let file = self.begun(object)?;
        let path = self.store.object_path(object.digest);
        if let Some(table) = &object.table {
            if hash_open_file(file.file(), &path, threads, &Progress::default())? != object.digest {
                let message =
                    format!("the chunks of object {} are not its bytes: its chunk table is wrong", object.digest);
                return Err(Error::integrity(message));
            }
            let written = self.store.new_table(Some(object.digest))?;
            written
                .file()
                .write_all_at(table, 0)
                .map_err(|error| Error::io("write the chunk table of", &path, error))?;
            written.publish_table(object.digest)?;
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
