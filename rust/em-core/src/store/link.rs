//! The link ladder: reflink, else hardlink, else copy.
//!
//! A linked path is replaced by rename, never written through. Executable files and empty ones are copied, even where
//! hardlinks are forced: the objects' inodes are shared and read-only, and an empty object would run out of hard links.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, linkat, openat, renameat, unlinkat},
    io::Errno,
};

use super::{Store, objects::relative_path, open_dir, temp_name};
use crate::{Digest, Error, Result};

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

/// Links the objects of one store into one directory tree. Remembers the first mode that worked.
///
/// Holds a handle of the tree's root: the kernel then walks only the paths below it and below the store's objects,
/// not those of the two directories again for each file.
#[derive(Debug)]
pub struct Linker<'a> {
    store: &'a Store,
    root: &'a Path,
    root_fd: OwnedFd,
    /// Where temporary names go, relative to the root: on the file system of the targets.
    temp_dir: &'a str,
    mode: AtomicU8,
    forced: bool,
}

impl<'a> Linker<'a> {
    /// A link mode of the store skips the ladder and fails where it cannot be had; but see above what is never hardlinked.
    pub fn new(store: &'a Store, root: &'a Path, temp_dir: &'a str) -> Result<Self> {
        let forced = store.link_mode;
        let mode = AtomicU8::new(forced.unwrap_or(LinkMode::Reflink) as u8);
        Ok(Self { store, root, root_fd: open_dir(root)?, temp_dir, mode, forced: forced.is_some() })
    }

    /// Puts the object at `target`, a path relative to the root, replacing a file there; answers how.
    pub fn link(
        &self,
        digest: Digest,
        size_bytes: u64,
        executable: bool,
        target: impl AsRef<Path>,
    ) -> Result<LinkMode> {
        let (object, target) = (relative_path(digest), target.as_ref());
        let own_inode = executable || size_bytes == 0;
        let mut mode = self.mode.load(Ordering::Relaxed);
        loop {
            let (done, next) = match mode {
                0 => (self.clone_to(digest, target, executable, LinkMode::Reflink), 1),
                1 if !own_inode => (self.hardlink(&object, target), 2),
                _ => (self.clone_to(digest, target, executable, LinkMode::Copy), u8::MAX),
            };
            match done {
                Ok(mode) => return Ok(mode),
                Err(error) if next != u8::MAX && !self.forced && falls_through(&error) => {
                    mode = next;
                    // One object with too many names says nothing of the others.
                    if error.raw_os_error() != Some(Errno::MLINK.raw_os_error()) {
                        self.mode.fetch_max(next, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(Error::io("link an object to", &self.root.join(target), error)),
            }
        }
    }

    fn temp(&self) -> PathBuf {
        Path::new(self.temp_dir).join(temp_name())
    }

    fn hardlink(&self, object: &str, target: &Path) -> io::Result<LinkMode> {
        let link = |to: &Path| linkat(&self.store.objects, object, &self.root_fd, to, AtFlags::empty());
        match link(target) {
            Err(Errno::EXIST) => {
                let temp = self.temp();
                link(&temp)?;
                let renamed = renameat(&self.root_fd, &temp, &self.root_fd, target);
                // Renaming one name of an inode over another is a no-op that leaves both.
                let _ = unlinkat(&self.root_fd, &temp, AtFlags::empty());
                renamed?;
            }
            linked => linked?,
        }
        Ok(LinkMode::Hardlink)
    }

    /// Copies the object under a temporary name, with a reflink sharing its blocks, and renames it to `target`.
    fn clone_to(&self, digest: Digest, target: &Path, executable: bool, mode: LinkMode) -> io::Result<LinkMode> {
        let (root, temp) = (&self.root_fd, self.temp());
        let cloned = (|| {
            let mut source = File::open(self.store.object_path(digest))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = File::from(openat(root, &temp, flags, Mode::from_raw_mode(0o666))?);
            if mode == LinkMode::Reflink {
                rustix::fs::ioctl_ficlone(&file, &source)?;
            } else {
                io::copy(&mut source, &mut file)?;
            }
            file.set_times(fs::FileTimes::new().set_modified(source.metadata()?.modified()?))?;
            file.set_permissions(Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
            renameat(root, &temp, root, target)?;
            Ok(mode)
        })();
        if cloned.is_err() {
            let _ = unlinkat(root, &temp, AtFlags::empty());
        }
        cloned
    }
}

/// Puts one object at `target`, whose directory is there, replacing a file. A touched object is rehashed first.
pub fn link_object(store: &Store, digest: Digest, executable: bool, target: &Path) -> Result<LinkMode> {
    let size_bytes = store.size(digest)?;
    if !store.usable(digest, size_bytes)? {
        return Err(store.damaged(digest));
    }
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().ok_or_else(|| Error::invalid(format!("{} names no file", target.display())))?;
    Linker::new(store, directory, "")?.link(digest, size_bytes, executable, name)
}

/// Errors that say "not here", after which the next rung is tried.
fn falls_through(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM | Errno::MLINK)
    )
}
