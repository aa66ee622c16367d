//! The link ladder: reflink, else hardlink, else copy.
//!
//! A linked path is replaced by rename, never written through. Executable files and empty ones are copied, even where
//! hardlinks are forced: the objects' inodes are shared and read-only, and an empty object would run out of hard links.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::io::Errno;

use super::{Store, rename_noreplace, temp_name};
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

/// How an object was put at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linked {
    /// The rung of the ladder.
    pub mode: LinkMode,
    /// Nothing had been at the path.
    pub created: bool,
}

/// Links the objects of one store into one directory tree. Remembers the first mode that worked.
#[derive(Debug)]
pub struct Linker<'a> {
    store: &'a Store,
    /// Where temporary names go: on the file system of the targets.
    temp_dir: &'a Path,
    mode: AtomicU8,
    forced: bool,
}

impl<'a> Linker<'a> {
    /// `forced` skips the ladder and fails where that mode cannot be had; but see above what is never hardlinked.
    pub fn new(store: &'a Store, temp_dir: &'a Path, forced: Option<LinkMode>) -> Self {
        let mode = AtomicU8::new(forced.unwrap_or(LinkMode::Reflink) as u8);
        Self { store, temp_dir, mode, forced: forced.is_some() }
    }

    /// Puts the object at `target`, replacing a file there; answers how.
    pub fn link(&self, digest: Digest, size_bytes: u64, executable: bool, target: &Path) -> Result<Linked> {
        let object = self.store.object_path(digest);
        let own_inode = executable || size_bytes == 0;
        let mut mode = self.mode.load(Ordering::Relaxed);
        loop {
            let (done, next) = match mode {
                0 => (self.clone_to(&object, target, executable, LinkMode::Reflink), 1),
                1 if !own_inode => (self.hardlink(&object, target), 2),
                _ => (self.clone_to(&object, target, executable, LinkMode::Copy), u8::MAX),
            };
            match done {
                Ok(linked) => return Ok(linked),
                Err(error) if next != u8::MAX && !self.forced && falls_through(&error) => {
                    mode = next;
                    // One object with too many names says nothing of the others.
                    if error.raw_os_error() != Some(Errno::MLINK.raw_os_error()) {
                        self.mode.fetch_max(next, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(Error::io("link an object to", target, error)),
            }
        }
    }

    fn hardlink(&self, object: &Path, target: &Path) -> io::Result<Linked> {
        let mode = LinkMode::Hardlink;
        match fs::hard_link(object, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let temp = self.temp_dir.join(temp_name());
                fs::hard_link(object, &temp)?;
                let renamed = fs::rename(&temp, target);
                // Renaming one name of an inode over another is a no-op that leaves both.
                let _ = fs::remove_file(&temp);
                renamed.map(|()| Linked { mode, created: false })
            }
            linked => linked.map(|()| Linked { mode, created: true }),
        }
    }

    /// Copies the object under a temporary name, with a reflink sharing its blocks, and renames it to `target`.
    fn clone_to(&self, object: &Path, target: &Path, executable: bool, mode: LinkMode) -> io::Result<Linked> {
        let temp = self.temp_dir.join(temp_name());
        let cloned = (|| {
            let mut source = File::open(object)?;
            let mut file = File::create_new(&temp)?;
            if mode == LinkMode::Reflink {
                rustix::fs::ioctl_ficlone(&file, &source)?;
            } else {
                io::copy(&mut source, &mut file)?;
            }
            file.set_times(fs::FileTimes::new().set_modified(source.metadata()?.modified()?))?;
            file.set_permissions(Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
            match rename_noreplace(rustix::fs::CWD, &temp, target) {
                Err(Errno::EXIST) => fs::rename(&temp, target).map(|()| Linked { mode, created: false }),
                renamed => Ok(renamed.map(|()| Linked { mode, created: true })?),
            }
        })();
        if cloned.is_err() {
            let _ = fs::remove_file(&temp);
        }
        cloned
    }
}

/// Puts one object at `target`, whose directory is there, replacing a file. A touched object is rehashed first.
pub fn link_object(
    store: &Store,
    digest: Digest,
    executable: bool,
    target: &Path,
    forced: Option<LinkMode>,
) -> Result<Linked> {
    let size_bytes = store.size(digest)?;
    if !store.usable(digest, size_bytes)? {
        let path = store.object_path(digest);
        return Err(Error::integrity(format!("object {} was damaged and is now in trash/", path.display())));
    }
    let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Linker::new(store, directory, forced).link(digest, size_bytes, executable, target)
}

/// Errors that say "not here", after which the next rung is tried.
fn falls_through(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM | Errno::MLINK)
    )
}
