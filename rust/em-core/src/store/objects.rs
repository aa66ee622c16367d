//! Objects: presence, creation, damage.
//!
//! **The seal.** An object keeps the modification time of the file it came from, to the second; the
//! nanoseconds are a function of its digest, those seconds and the boot that stored it. Whoever writes to an object through a hard
//! link moves the time and breaks the seal, with a chance of 1 in 10⁹ to miss it. So no record beside the
//! object is needed to know that it was touched, and the seal moves with a copied store.
//!
//! **Power cuts.** Storing does not wait for the disk. An object sealed in an earlier boot may have lost bytes, so
//! it is hashed before its first use in this one, and then sealed as durable, which every boot trusts: what was
//! read back after a boot was on the disk.
//!
//! A file system that keeps coarser times breaks every seal: objects are then rehashed before each use,
//! which is slow and safe.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    ops::Deref,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};

use super::{
    Store,
    leases::{self, Lease},
    rename_noreplace, temp_name,
};
use crate::{
    Digest, Error, Kind, Result,
    buffer::Buffer,
    cancel::Progress,
    chunk::{WHOLE_BYTES, table::TableReader},
};

/// What the store knows of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Not there.
    Missing,
    /// There, of the right size, seal and mode intact.
    Sealed,
    /// There, but touched since it was stored: must be rehashed before use.
    Suspect,
}

/// `ab/cdef…` of a digest, the path below `objects/` and `chunks/`.
pub fn relative_path(digest: Digest) -> String {
    let hex = digest.to_string();
    format!("{}/{}", &hex[..2], &hex[2..])
}

/// Stands for every boot in the seal of an object whose bytes are on the disk.
const DURABLE: [u8; 16] = [0; 16];

/// The nanoseconds that seal an object whose modification time has these seconds, stored in `boot`; never zero.
fn seal_ns(digest: Digest, mtime_s: i64, boot: [u8; 16]) -> i64 {
    let mut bytes = [0; 56];
    bytes[..32].copy_from_slice(&digest.0);
    bytes[32..40].copy_from_slice(&mtime_s.to_le_bytes());
    bytes[40..].copy_from_slice(&boot);
    1 + (xxhash_rust::xxh3::xxh3_64(&bytes) % 999_999_999) as i64
}

impl Store {
    /// The path of an object, for messages and for readers.
    pub fn object_path(&self, digest: Digest) -> PathBuf {
        self.root().join("objects").join(relative_path(digest))
    }

    /// The path of an object's chunk table, which need not be there.
    pub fn table_path(&self, digest: Digest) -> PathBuf {
        self.root().join("chunks").join(relative_path(digest))
    }

    /// Whether something is at the path of an object's chunk table; one system call.
    pub fn has_table(&self, digest: Digest) -> bool {
        rustix::fs::statat(&self.chunks, relative_path(digest), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// What is said of an object that was found damaged, which has moved it to `trash/`.
    pub(crate) fn damaged(&self, digest: Digest) -> Error {
        let path = self.object_path(digest);
        Error::integrity(format!("object {} was damaged and is now in trash/", path.display())).hint(
            "add the file that it came from again, or load the artifact again; `em verify` names the files that it is",
        )
    }

    /// Whether the object is there and untouched; one system call, no byte is read.
    pub fn presence(&self, digest: Digest, size_bytes: u64) -> Result<Presence> {
        let stat = match rustix::fs::statat(&self.objects, relative_path(digest), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Presence::Missing),
            Err(error) => return Err(Error::io("stat", &self.object_path(digest), error)),
        };
        let seals = [self.boot.id, DURABLE].map(|boot| seal_ns(digest, stat.st_mtime as i64, boot));
        let sealed = stat.st_size as u64 == size_bytes
            && stat.st_mode & 0o170_222 == 0o100_000
            && seals.contains(&(stat.st_mtime_nsec as i64));
        Ok(if sealed { Presence::Sealed } else { Presence::Suspect })
    }

    /// Whether the object can be used: a touched one is rehashed, and moved to `trash/` if it is wrong.
    pub fn usable(&self, digest: Digest, size_bytes: u64) -> Result<bool> {
        self.usable_unless_cancelled(digest, size_bytes, &Progress::default())
    }

    /// The same, given up when `progress` is cancelled: rehashing a large object takes long.
    pub fn usable_unless_cancelled(&self, digest: Digest, size_bytes: u64, progress: &Progress) -> Result<bool> {
        match self.presence(digest, size_bytes)? {
            Presence::Missing => Ok(false),
            Presence::Sealed => Ok(true),
            // Its bytes may be right and the size that somebody states for them wrong.
            Presence::Suspect => {
                Ok(self.rehash(digest, progress)? && self.size(digest).is_ok_and(|size| size == size_bytes))
            }
        }
    }

    /// Reads an object whole. Right: it is sealed again. Wrong: it goes to `trash/`, and the answer is `false`.
    pub(crate) fn rehash(&self, digest: Digest, progress: &Progress) -> Result<bool> {
        let path = self.object_path(digest);
        let file = match self.open_object(digest) {
            Ok(file) => file,
            Err(error) if error.kind == Kind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata().map_err(|e| Error::io("stat", &path, e))?;
        let hash = || {
            let hashed = hash_reader(progress.reader(&file));
            hashed.map_err(|e| progress.read_error(e, |e| Error::io("read", &path, e)))
        };
        if metadata.is_file() && hash()? == digest {
            let boot = if metadata.ctime() < self.boot.began_s { DURABLE } else { self.boot.id };
            let changed = |metadata: &Metadata| (metadata.len(), metadata.ctime(), metadata.ctime_nsec());
            // Sealing is a convenience: without the right to do so the object is hashed again next time. So is one that
            // somebody wrote to behind the hash.
            if file.metadata().is_ok_and(|now| changed(&now) == changed(&metadata)) {
                let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444));
                let _ = seal(&file, digest, metadata.mtime(), boot);
            }
            return Ok(true);
        }
        let trash = self.root().join("trash").join(format!("{digest}-{}", &temp_name()[5..13]));
        match std::fs::rename(&path, &trash) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("move to trash", &path, error)),
            _ => Ok(false),
        }
    }

    /// Opens an object for reading. Says nothing of its bytes: see [`usable`](Self::usable).
    pub fn open_object(&self, digest: Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match rustix::fs::openat(&self.objects, relative_path(digest), flags, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(error) => Err(Error::io("open", &self.object_path(digest), error)),
        }
    }

    /// Bytes of an object that is there.
    pub fn size(&self, digest: Digest) -> Result<u64> {
        let stat = rustix::fs::statat(&self.objects, relative_path(digest), AtFlags::SYMLINK_NOFOLLOW);
        stat.map(|stat| stat.st_size as u64).map_err(|error| Error::io("stat", &self.object_path(digest), error))
    }

    /// At most `length` bytes of an object from `offset` on, fewer where it ends. It is rehashed first if it was touched.
    pub fn read_range(&self, digest: Digest, offset: u64, length: u64) -> Result<Vec<u8>> {
        let (path, size) = (self.object_path(digest), self.size(digest)?);
        if !self.usable(digest, size)? {
            return Err(self.damaged(digest));
        }
        let mut bytes = vec![0; length.min(size.saturating_sub(offset)) as usize];
        let read = self.open_object(digest)?.read_exact_at(&mut bytes, offset);
        read.map(|()| bytes).map_err(|error| Error::io("read", &path, error))
    }

    /// The chunk table of an object, checked and open to be read in parts, if it has one.
    pub fn open_table(&self, digest: Digest) -> Result<Option<(File, TableReader)>> {
        let path = self.table_path(digest);
        // What is there may be a pipe, which is not waited for.
        let flags = OFlags::NONBLOCK.bits() as i32;
        match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => match TableReader::check(&file) {
                Ok(table) => Ok(Some((file, table))),
                Err(error) => Err(wrong_table(&path, error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Bytes of an object that needs no chunk table, being one chunk or empty.
    pub fn size_without_table(&self, digest: Digest) -> Result<u64> {
        match self.size(digest)? {
            size @ 0..=WHOLE_BYTES => Ok(size),
            _ => Err(Error::new(Kind::NotFound, format!("{} has no chunk table", self.object_path(digest).display()))
                .hint("add the file again")),
        }
    }

    /// Starts an object in the directory of the digest if it is known, else in one picked by chance.
    pub fn new_object(&self, digest: Option<Digest>) -> Result<Temp<&Self>> {
        Temp::new(self, Place::Objects, digest)
    }

    /// Starts a chunk table.
    pub fn new_table(&self, digest: Option<Digest>) -> Result<Temp<&Self>> {
        Temp::new(self, Place::Chunks, digest)
    }

    /// [`new_object`](Self::new_object) for one that outlives the caller's borrow.
    pub fn new_object_in(self: &Arc<Self>, digest: Digest) -> Result<Temp<Arc<Self>>> {
        Temp::new(Arc::clone(self), Place::Objects, Some(digest))
    }

    /// [`new_table`](Self::new_table) for one that outlives the caller's borrow.
    pub fn new_table_in(self: &Arc<Self>, digest: Digest) -> Result<Temp<Arc<Self>>> {
        Temp::new(Arc::clone(self), Place::Chunks, Some(digest))
    }

    /// Starts an object that comes in parts. Dropped before it is published, it stays for whoever goes on with it once
    /// the lease has ended.
    pub fn new_part(self: &Arc<Self>, digest: Digest, lease: &Lease) -> Result<Temp<Arc<Self>>> {
        Temp::create(Arc::clone(self), Place::Objects, PARTS, &part_name(digest, lease), 0o644, true)
    }

    /// Parts whose receivers are gone: of which object, and their names. What cannot be read is left out.
    pub fn left_parts(&self) -> Vec<(Digest, String)> {
        let Ok(entries) = std::fs::read_dir(self.parts_path()) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let left = names.filter_map(|name| {
            let (digest, lease) = name.strip_prefix(".tmp-")?.split_once('-')?;
            leases::has_ended(self, lease).then_some((digest.parse().ok()?, name))
        });
        left.collect()
    }

    /// Goes on with a part, and opens it once more for reading; `None` if somebody else does so, or it cannot be used.
    pub fn adopt_part(self: &Arc<Self>, name: &str, digest: Digest, lease: &Lease) -> Option<(Temp<Arc<Self>>, File)> {
        let (left, mine) = (format!("{PARTS}/{name}"), format!("{PARTS}/{}", part_name(digest, lease)));
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            rustix::fs::openat(&self.objects, &left, flags, Mode::empty()).map(File::from)
        };
        let (file, reader) = (open(OFlags::RDWR).ok()?, open(OFlags::RDONLY).ok()?);
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.nlink() != 1 {
            return None;
        }
        rename_noreplace(&self.objects, &left, &mine).ok()?;
        let part = Temp { store: Arc::clone(self), place: Place::Objects, name: mine, file, stays: true.into() };
        Some((part, reader))
    }

    /// Where parts of objects are.
    pub(crate) fn parts_path(&self) -> PathBuf {
        self.root().join("objects").join(PARTS)
    }
}

/// BLAKE3 of what `reader` still has to give, in one pass of 1 MiB reads.
pub fn hash_reader(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Buffer::take();
    let block = buffer.part(1 << 20);
    loop {
        match reader.read(block) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
    }
}

fn seal(file: impl AsFd, digest: Digest, mtime_s: i64, boot: [u8; 16]) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: mtime_s, tv_nsec: seal_ns(digest, mtime_s, boot) as _ };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

fn wrong_table(path: &Path, error: Error) -> Error {
    Error {
        message: format!("{}: {}", path.display(), error.message),
        hint: error.hint.or_else(|| Some("remove it and add the file again".into())),
        ..error
    }
}

/// Beside `objects/`, by the handle of which they are reached.
const PARTS: &str = "../parts";

/// `gc` takes it for what it is: a file that is being written.
fn part_name(digest: Digest, lease: &Lease) -> String {
    format!(".tmp-{digest}-{}", lease.name())
}

/// A file of the store that nobody sees yet. Dropped without publishing, it is removed, unless it is a part; after a
/// crash it stays as `.tmp-…` and is reclaimed by `gc`.
#[derive(Debug)]
pub struct Temp<S: Deref<Target = Store>> {
    store: S,
    place: Place,
    name: String,
    file: File,
    /// Dropping it removes no file.
    stays: AtomicBool,
}

/// Which directory of the store a file is for.
#[derive(Clone, Copy, Debug)]
enum Place {
    Objects,
    Chunks,
}

impl Place {
    fn directory(self, store: &Store) -> &OwnedFd {
        match self {
            Self::Objects => &store.objects,
            Self::Chunks => &store.chunks,
        }
    }
}

impl<S: Deref<Target = Store>> Temp<S> {
    fn new(store: S, place: Place, digest: Option<Digest>) -> Result<Self> {
        let temp = temp_name();
        let fan = match digest {
            Some(digest) => digest.to_string()[..2].to_owned(),
            None => temp[5..7].to_owned(),
        };
        Self::create(store, place, &fan, &temp, 0o444, false)
    }

    fn create(store: S, place: Place, fan: &str, name: &str, mode: u32, stays: bool) -> Result<Self> {
        let directory = place.directory(&store);
        let name = format!("{fan}/{name}");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(mode));
        let opened = open().or_else(|error| match error {
            Errno::NOENT => match rustix::fs::mkdirat(directory, fan, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(error) => Err(error),
            },
            _ => Err(error),
        });
        let file = opened.map_err(|e| Error::io("create a file in", store.root(), e))?.into();
        Ok(Self { store, place, name, file, stays: stays.into() })
    }

    /// Says of a part that nobody is to go on with it.
    pub fn discard(&self) {
        self.stays.store(false, Ordering::Relaxed);
    }

    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes it visible as the object `digest`. An object that is already there and good wins.
    pub fn publish_object(&self, digest: Digest, size_bytes: u64, mtime_s: i64) -> Result<()> {
        let fail = |error| Error::io("store", &self.store.object_path(digest), error);
        if self.stays.swap(false, Ordering::Relaxed) {
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(0o444)).map_err(fail)?;
        }
        seal(&self.file, digest, mtime_s, self.store.boot.id).map_err(fail)?;
        let target = relative_path(digest);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match rename_noreplace(self.directory(), &self.name, &target) {
                Ok(()) => {
                    self.stays.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Errno::EXIST) if self.store.usable(digest, size_bytes)? => return Ok(()),
                // A wrong one has just been moved away, or `gc` took it.
                Err(Errno::EXIST) if attempts < 8 => {}
                Err(Errno::NOENT) if attempts == 1 => self.make_fan(&target).map_err(fail)?,
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Makes it visible as the chunk table of `digest`, replacing an older one.
    pub fn publish_table(&self, digest: Digest) -> Result<()> {
        let target = relative_path(digest);
        let rename = || rustix::fs::renameat(self.directory(), &self.name, self.directory(), &target);
        let renamed = rename().or_else(|error| match error {
            Errno::NOENT => self.make_fan(&target).and_then(|()| rename()),
            _ => Err(error),
        });
        renamed.map_err(|e| Error::io("store the chunk table of", &self.store.object_path(digest), e))?;
        self.stays.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn directory(&self) -> &OwnedFd {
        self.place.directory(&self.store)
    }

    fn make_fan(&self, target: &str) -> rustix::io::Result<()> {
        match rustix::fs::mkdirat(self.directory(), &target[..2], Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }
}

impl<S: Deref<Target = Store>> Drop for Temp<S> {
    fn drop(&mut self) {
        if !self.stays.load(Ordering::Relaxed) {
            let _ = rustix::fs::unlinkat(self.directory(), &self.name, AtFlags::empty());
        }
    }
}
