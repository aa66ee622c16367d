//! The link ladder: reflink, else hardlink, else copy.
//!
//! A linked path is replaced by rename, never written through. Executable files and empty ones are copied, even where
//! hardlinks are forced: the objects' inodes are shared and read-only, and an empty object would run out of hard links.
//! So is an object that has as many as the file system allows.
//!
//! | the system says | what is done |
//! |---|---|
//! | the file systems cannot do it (`EOPNOTSUPP`, `EXDEV`, `EINVAL`, `ENOTTY`, `ENOSYS`, …) | the next rung, for all that is linked after it too |
//! | no hard link to this object (`EMLINK`: it has too many; `EPERM`, `EACCES`: somebody else's, or immutable) | a copy of this one |
//! | anything else (`ENOSPC`, `EIO`, `EROFS`, …) | an error; what was there stays |

use std::{
    cell::Cell,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

use rustix::{
    fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom, Stat, linkat, openat, renameat, seek, statat, unlinkat},
    io::Errno,
};

use super::{Store, objects::relative_path, open_dir, temp_name};
use crate::{Digest, Error, Result, cancel::Progress};

/// Bytes that are copied between two looks at whether to go on: a slow disk takes a tenth of a second for them.
const PIECE_BYTES: u64 = 1 << 20;

/// How an object came to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LinkMode {
    /// The file system shares the blocks until one side changes.
    Reflink = 0,
    /// A second name of the read-only object.
    Hardlink = 1,
    /// A copy of the bytes, of which the kernel may share the blocks.
    Copy = 2,
}

impl LinkMode {
    /// Reads `EM_LINK_MODE`'s values.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "reflink" => Ok(Self::Reflink),
            "hardlink" => Ok(Self::Hardlink),
            "copy" => Ok(Self::Copy),
            _ => Err(Error::invalid(format!("EM_LINK_MODE is {text:?}")).hint("use reflink, hardlink or copy")),
        }
    }
}

/// How many files came to their paths in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// Files that share the blocks of their objects.
    pub reflinks: u64,
    /// Files that are their objects.
    pub hardlinks: u64,
    /// Files that were copied.
    pub copies: u64,
    /// Their bytes, with the holes.
    pub copied_bytes: u64,
    /// Whether files were copied because these file systems allow nothing else.
    pub fell_to_copies: bool,
}

/// Links the objects of one store into one directory tree. Remembers the first mode that worked.
///
/// Holds a handle of the tree's root: the kernel then walks only the paths below it and below the store's objects,
/// not those of the two directories again for each file.
#[derive(Debug)]
pub struct Linker<'a> {
    store: &'a Store,
    root: &'a Path,
    root_fd: OwnedFd,
    /// Where temporary names go, relative to the root: on the file system of the targets. Otherwise beside each target.
    temp_dir: Option<&'a str>,
    mode: AtomicU8,
    is_forced: bool,
    /// Files by mode.
    linked: [AtomicU64; 3],
    copied_bytes: AtomicU64,
}

impl<'a> Linker<'a> {
    /// A mode that the store forces skips the ladder, and it is an error where that cannot be had; but see above what is
    /// never hardlinked.
    pub fn new(store: &'a Store, root: &'a Path, temp_dir: Option<&'a str>) -> Result<Self> {
        let mode = AtomicU8::new(store.link_mode.unwrap_or(LinkMode::Reflink) as u8);
        let (linked, is_forced) = (Default::default(), store.link_mode.is_some());
        let root_fd = open_dir(root)?;
        Ok(Self { store, root, root_fd, temp_dir, mode, is_forced, linked, copied_bytes: 0.into() })
    }

    /// The same for putting back what was there: where a forced mode cannot be had, the next one will do.
    pub(crate) fn of_what_was_there(store: &'a Store, root: &'a Path, temp_dir: Option<&'a str>) -> Result<Self> {
        Ok(Self { is_forced: false, ..Self::new(store, root, temp_dir)? })
    }

    /// Whether everything is copied, as far as is known by now.
    pub fn copies_all(&self) -> bool {
        self.mode.load(Relaxed) == LinkMode::Copy as u8
    }

    /// What it has done.
    pub fn linked(&self) -> Linked {
        let [reflinks, hardlinks, copies] = [0, 1, 2].map(|mode: usize| self.linked[mode].load(Relaxed));
        let (copied_bytes, fell_to_copies) = (self.copied_bytes.load(Relaxed), self.copies_all() && !self.is_forced);
        Linked { reflinks, hardlinks, copies, copied_bytes, fell_to_copies: fell_to_copies && copies > 0 }
    }

    /// Puts the object at `target`, a path relative to the root, replacing a file there; answers how. `copied` hears of
    /// the bytes of each piece that was copied, and ends a copy with an error: then nothing has changed.
    pub fn link(
        &self,
        digest: Digest,
        size_bytes: u64,
        executable: bool,
        target: impl AsRef<Path>,
        copied: impl Fn(u64) -> Result<()>,
    ) -> Result<LinkMode> {
        let target = target.as_ref();
        let own_inode = executable || size_bytes == 0;
        let mut mode = self.mode.load(Relaxed);
        loop {
            let (done, next) = match mode {
                0 => (self.clone_to(digest, target, executable, None), 1),
                1 if !own_inode => (self.hardlink(digest, target), 2),
                _ => (self.clone_to(digest, target, executable, Some(&copied)), u8::MAX),
            };
            match done {
                Ok(done) => {
                    self.linked[done as usize].fetch_add(1, Relaxed);
                    return Ok(done);
                }
                Err(error) if next == u8::MAX || !falls_through(&error) => return Err(error),
                Err(error) if self.is_forced && !has_too_many_names(&error) => {
                    let hint =
                        "EM_LINK_MODE asks for what these file systems, or the owner of the object, do not allow";
                    return Err(error.hint(hint));
                }
                Err(error) => {
                    if mode == 0 || !is_of_one_object(&error) {
                        self.mode.fetch_max(next, Relaxed);
                    }
                    mode = next;
                }
            }
        }
    }

    /// The same, with the object's bytes counted as done, those of a copy while it goes on.
    pub fn link_counted(
        &self,
        digest: Digest,
        size_bytes: u64,
        executable: bool,
        target: impl AsRef<Path>,
        progress: &Progress,
    ) -> Result<LinkMode> {
        let counted = Cell::new(0);
        let count = |bytes| {
            counted.set(counted.get() + bytes);
            progress.bytes.fetch_add(bytes, Relaxed);
            progress.check()
        };
        let mode = self.link(digest, size_bytes, executable, target, count)?;
        progress.bytes.fetch_add(size_bytes.saturating_sub(counted.get()), Relaxed);
        progress.files.fetch_add(1, Relaxed);
        Ok(mode)
    }

    /// Whether the file at `target` is the object, or a copy that was made of it since the machine was started, of which no
    /// byte can be missing, and that was not written to: its time is the object's to the nanosecond.
    pub(crate) fn is_linked(&self, digest: Digest, executable: bool, target: impl AsRef<Path>) -> bool {
        let object = statat(&self.store.objects, relative_path(digest), AtFlags::SYMLINK_NOFOLLOW);
        let found = statat(&self.root_fd, target.as_ref(), AtFlags::SYMLINK_NOFOLLOW);
        let (Ok(object), Ok(found)) = (object, found) else { return false };
        let known = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if (object.st_dev, object.st_ino) == (found.st_dev, found.st_ino) {
            return !executable;
        }
        known(&object) == known(&found)
            && found.st_ctime > self.store.boot.began_s
            && found.st_mode & 0o170_000 == 0o100_000
            && (found.st_mode & 0o111 != 0) == executable
    }

    fn temp(&self, target: &Path) -> PathBuf {
        self.temp_dir
            .map_or_else(|| target.with_file_name(temp_name()), |directory| Path::new(directory).join(temp_name()))
    }

    fn error(&self, target: &Path, error: impl Into<io::Error>) -> Error {
        Error::io("link an object to", &self.root.join(target), error)
    }

    fn hardlink(&self, digest: Digest, target: &Path) -> Result<LinkMode> {
        let object = relative_path(digest);
        let link = |to: &Path| linkat(&self.store.objects, &object, &self.root_fd, to, AtFlags::empty());
        let linked = match link(target) {
            Err(Errno::EXIST) => {
                let temp = self.temp(target);
                link(&temp).and_then(|()| {
                    let renamed = renameat(&self.root_fd, &temp, &self.root_fd, target);
                    // Renaming one name of an inode over another is a no-op that leaves both.
                    let _ = unlinkat(&self.root_fd, &temp, AtFlags::empty());
                    renamed
                })
            }
            linked => linked,
        };
        linked.map(|()| LinkMode::Hardlink).map_err(|error| self.error(target, error))
    }

    /// Copies the object under a temporary name, without `copied` by a reflink, and renames it to `target`.
    fn clone_to(
        &self,
        digest: Digest,
        target: &Path,
        executable: bool,
        copied: Option<&dyn Fn(u64) -> Result<()>>,
    ) -> Result<LinkMode> {
        let (root, temp) = (&self.root_fd, self.temp(target));
        let fail = |error: io::Error| self.error(target, error);
        let source = self.store.open_object(digest)?;
        let metadata = source.metadata().map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(root, &temp, flags, Mode::from_raw_mode(0o666)).map_err(|error| fail(error.into()))?;
        let file = File::from(file);
        let cloned = (|| {
            match copied {
                None => rustix::fs::ioctl_ficlone(&file, &source).map_err(|error| fail(error.into()))?,
                Some(copied) => copy(&source, &metadata, &file, copied, fail)?,
            }
            let named = (|| {
                file.set_times(fs::FileTimes::new().set_modified(metadata.modified()?))?;
                file.set_permissions(Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
                Ok(renameat(root, &temp, root, target)?)
            })();
            named.map_err(fail)
        })();
        if cloned.is_err() {
            let _ = unlinkat(root, &temp, AtFlags::empty());
        }
        cloned?;
        if copied.is_none() {
            return Ok(LinkMode::Reflink);
        }
        self.copied_bytes.fetch_add(metadata.len(), Relaxed);
        Ok(LinkMode::Copy)
    }
}

/// Copies what is no hole, in pieces: by `copy_file_range` where the kernel has it for these files.
fn copy(
    source: &File,
    metadata: &fs::Metadata,
    target: &File,
    copied: impl Fn(u64) -> Result<()>,
    fail: impl Fn(io::Error) -> Error,
) -> Result<()> {
    let size = metadata.len();
    let is_sparse = metadata.blocks().saturating_mul(512) < size;
    if is_sparse || size > PIECE_BYTES {
        reserve(target, size, is_sparse).map_err(|error| fail(error.into()))?;
    }
    let (mut at, mut end) = (0, if is_sparse { 0 } else { size });
    while at < size {
        if at == end {
            let data = data_from(source, at, size).map_err(|error| fail(error.into()))?;
            seek(target, SeekFrom::Start(data.start)).map_err(|error| fail(error.into()))?;
            copied(data.start - at)?;
            (at, end) = (data.start, data.end);
            continue;
        }
        let piece = (end - at).min(PIECE_BYTES);
        if io::copy(&mut source.take(piece), &mut &*target).map_err(&fail)? != piece {
            return Err(fail(io::ErrorKind::UnexpectedEof.into()));
        }
        at += piece;
        copied(piece)?;
    }
    Ok(())
}

/// The first bytes from `at` on that are no hole, where `file` is then read; nothing at `size` if there are none.
fn data_from(file: &File, at: u64, size: u64) -> rustix::io::Result<std::ops::Range<u64>> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => size,
        // The file system knows of no holes.
        Err(Errno::INVAL) => at,
        found => found?,
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Err(Errno::INVAL | Errno::NXIO) => size,
        found => found?,
    };
    seek(file, SeekFrom::Start(start))?;
    Ok(start.min(size)..end.min(size))
}

/// Gives an empty file its size: with the room for it on the disk, or as one hole.
pub(crate) fn reserve(file: &File, size_bytes: u64, is_sparse: bool) -> rustix::io::Result<()> {
    if is_sparse {
        return rustix::fs::ftruncate(file, size_bytes);
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size_bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::ftruncate(file, size_bytes),
        done => done,
    }
}

/// Whether an error says "not here", after which the next rung is tried. Containers and security modules refuse what they
/// do not know with `EPERM` or `EACCES`; where those mean the directory, the copy meets them too.
fn falls_through(error: &Error) -> bool {
    let errno = error.errno.map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(
            Errno::OPNOTSUPP
                | Errno::XDEV
                | Errno::INVAL
                | Errno::NOTTY
                | Errno::NOSYS
                | Errno::BADF
                | Errno::TXTBSY
                | Errno::PERM
                | Errno::ACCESS
                | Errno::MLINK
        )
    )
}

fn has_too_many_names(error: &Error) -> bool {
    error.errno == Some(Errno::MLINK.raw_os_error())
}

/// Whether no hard link to one object says nothing of the others: it has too many names, or belongs to somebody else.
fn is_of_one_object(error: &Error) -> bool {
    let errno = error.errno.map(Errno::from_raw_os_error);
    has_too_many_names(error) || matches!(errno, Some(Errno::PERM | Errno::ACCESS))
}
