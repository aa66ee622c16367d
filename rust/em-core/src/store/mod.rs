//! The local store: one read-only file per object, one table per chunked object.
//!
//! ```text
//! store/
//!   VERSION               format version
//!   objects/ab/cdef…      the bytes of an object, mode 0444; being written: objects/ab/.tmp-…
//!   chunks/ab/cdef…       its chunk table, when it has more than one chunk
//!   parts/                objects of which a download has some chunks, as .tmp-<digest>-<lease>
//!   roots/                one file per artifact directory outside ../artifacts
//!   leases/               one file per add in flight
//!   trash/                damaged objects; gc-…/ the condemned ones
//! ```
//!
//! Files appear by rename or link, never by writing in place, so readers on any host see an object whole or
//! not at all. Nothing is locked: two processes that store the same object race to one rename, and the loser
//! drops its copy.

pub mod leases;
pub mod link;
pub mod objects;

use std::{
    fs::{self, File},
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};

use crate::{Error, Kind, Result, spool::Room};
use link::LinkMode;

/// Version of the layout above. A store with a newer one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// One run of the machine from boot to power-off. What it stored was perhaps never written to the disk.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// The kernel's random id of this boot; zero where it has none.
    pub id: [u8; 16],
    /// When it began, in seconds since 1970.
    pub began_s: i64,
}

impl Boot {
    /// The boot that this process runs in.
    pub fn current() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id = u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or_default().to_be_bytes();
        let now_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() as i64);
        Self { id, began_s: now_s - rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec }
    }
}

/// A store directory, opened. Cheap to open; holds two directory handles and no other state.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    boot: Boot,
    pub(crate) objects: OwnedFd,
    pub(crate) chunks: OwnedFd,
    room: Room,
    link_mode: Option<LinkMode>,
}

impl Store {
    /// Opens the store at `root`, creating it if there is none.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_in(root, Boot::current())
    }

    /// The same in a given boot, so that a power cut can be played in a test.
    pub fn open_in(root: &Path, boot: Boot) -> Result<Self> {
        for directory in ["objects", "chunks", "roots", "leases", "trash"] {
            let path = root.join(directory);
            // Nearly always there: this is called for single objects too.
            if !path.is_dir() {
                fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
            }
        }
        check_version(root)?;
        Ok(Self {
            objects: open_dir(&root.join("objects"))?,
            chunks: open_dir(&root.join("chunks"))?,
            room: Room::new(root),
            root: root.into(),
            boot,
            link_mode: None,
        })
    }

    /// The same with other limits on what its calls hold in memory.
    pub fn with_held_bytes(self, held_bytes: usize) -> Self {
        Self { room: Room::of_bytes(&self.root, held_bytes), ..self }
    }

    /// The same with the only link mode to use, instead of the ladder.
    pub fn with_link_mode(self, link_mode: Option<LinkMode>) -> Self {
        Self { link_mode, ..self }
    }

    /// Where calls keep what they cannot hold in memory.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The directory it was opened at.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Opens a directory to be used as the base of `*at` calls.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", path, e))
}

/// The paths of what is in a directory, sorted.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed: std::io::Result<Vec<_>> =
        fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths = listed.map_err(|e| Error::io("list", directory, e))?;
    paths.sort();
    Ok(paths)
}

fn check_version(root: &Path) -> Result<()> {
    let path = root.join("VERSION");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return write_atomic(&path, format!("{FORMAT_VERSION}\n").as_bytes());
        }
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    match text.trim_end().parse::<u32>() {
        Ok(version) if version == FORMAT_VERSION => Ok(()),
        Ok(version) => Err(Error::new(
            Kind::Store,
            format!("{} has store format {version}, this version reads {FORMAT_VERSION}", root.display()),
        )
        .hint("upgrade the package, or point EM_STORE_DIR at another directory")),
        Err(_) => Err(Error::integrity(format!("{} is not a store's version file", path.display())).hint(format!(
            "if it was lost with the power, write {FORMAT_VERSION} into it; or point EM_STORE_DIR at another directory"
        ))),
    }
}

/// A name for a temporary file that no other process, thread or host picks: 128 random bits, which a forked child
/// does not share.
pub(crate) fn temp_name() -> String {
    let mut random = [0; 16];
    if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()) != Ok(random.len()) {
        // Before the kernel's generator is ready: time and process are as good, names are created exclusively.
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        random = (time << 32 | u128::from(std::process::id())).to_le_bytes();
    }
    format!(".tmp-{:032x}", u128::from_le_bytes(random))
}

/// What is being written. It counts as nothing yet.
pub(crate) fn is_temp(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".tmp-"))
}

/// Replaces `path` by a file with `bytes`: readers see the old or the new content, never a part, also after a power cut.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_by(path, |temp| {
        let mut file = File::create_new(temp)?;
        file.write_all(bytes)?;
        write_out(&file)
    })
}

/// Replaces `path` by a file that `create` makes under a temporary name, perhaps twice.
pub(crate) fn write_atomic_by<T>(path: &Path, mut create: impl FnMut(&Path) -> std::io::Result<T>) -> Result<T> {
    let mut write = || {
        let temp = path.with_file_name(temp_name());
        create(&temp).and_then(|made| fs::rename(&temp, path).map(|()| made)).inspect_err(|_| {
            let _ = fs::remove_file(&temp);
        })
    };
    let written = write().or_else(|error| match error.kind() {
        // A `gc` without a grace period took the temporary file for a leftover.
        std::io::ErrorKind::NotFound => write(),
        _ => Err(error),
    });
    written.map_err(|error| Error::io("write", path, error))
}

/// `EXT4_SUPER_MAGIC` and `XFS_SUPER_MAGIC`, as `statfs` answers them.
#[cfg(target_os = "linux")]
const EXT4_MAGIC: rustix::fs::FsWord = 0xEF53;
#[cfg(target_os = "linux")]
const XFS_MAGIC: rustix::fs::FsWord = 0x5846_5342;

/// Brings the bytes of a new file to the disk before it gets its name: after a power cut it has them, or not the name.
///
/// On ext4 and XFS, it waits for these bytes alone. `fdatasync` also commits the file system's journal, with what others have
/// changed, and empties the disk's own cache; what renames the file goes through both later, and after the bytes. Other file
/// systems promise no such order.
pub(crate) fn write_out(file: &File) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let is_ordered = rustix::fs::fstatfs(file).is_ok_and(|found| matches!(found.f_type, EXT4_MAGIC | XFS_MAGIC));
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: the descriptor is open as long as `file` is, and no memory is passed.
        if is_ordered && unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } == 0 {
            return Ok(());
        }
    }
    file.sync_data()
}

/// Renames unless `to` is taken: `RENAME_NOREPLACE`, or link and unlink where the file system has none (NFS answers
/// EINVAL).
pub(crate) fn rename_noreplace(
    directory: impl AsFd,
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
) -> rustix::io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    match rustix::fs::renameat_with(&directory, from, &directory, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(&directory, from, &directory, to, AtFlags::empty())?;
            rustix::fs::unlinkat(&directory, from, AtFlags::empty())
        }
        renamed => renamed,
    }
}
