//! Lists a tree: every file with its [`Stat`], and the directories that hold nothing.
//!
//! Symbolic links are followed, to files and to directories, as `shutil.copytree` does. Whatever
//! cannot be stored (a dangling link, a loop of links, a socket, a name that is not UTF-8, an entry
//! that cannot be read) fails the whole scan, so that nothing is added by halves.
//!
//! Work is a shared stack of small tasks, so depth costs no thread stack. A task names a directory and holds no
//! open file: each worker has at most three directories open, however wide or deep the tree is. A directory that waits
//! for its turn costs its name; what is found is sorted in parts and kept in a file when it is much (`spool.rs`).
//! Paths are opened relative to the root in pieces, so they may be longer than `PATH_MAX`.

use std::{
    ffi::{CStr, CString},
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    thread,
};

use rustix::{
    fs::{Access, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{Error, Kind, Result, cancel::Progress, names::MAX_PATH_BYTES, spool::Room};

mod tree;

use tree::{Collected, Found};
pub use tree::{Listing, Row, Tree};

/// Entries that one worker looks up before another may help with the same directory.
const BATCH: usize = 512;
/// Batches that may wait for a worker, so that a large directory is not held whole.
const MAX_BATCHES: usize = 32;
/// Longest path, in bytes, given to one system call; below Linux's 4,096 and macOS's 1,024.
const PIECE: usize = 1000;

/// What the file system says about a file; equal only if the file was not touched in between.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stat {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the bytes, in nanoseconds since 1970 (saturating).
    pub mtime_ns: i64,
    /// Last change of the bytes or the inode, in nanoseconds since 1970 (saturating).
    pub ctime_ns: i64,
    /// Fewer blocks are allocated than the length needs: holes, or a compressing file system.
    pub sparse: bool,
}

impl PartialEq for Stat {
    /// Compares device, inode, size and both times; `sparse` may change by itself (delayed allocation).
    fn eq(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.size, self.mtime_ns, self.ctime_ns)
            == (other.dev, other.ino, other.size, other.mtime_ns, other.ctime_ns)
    }
}

impl Eq for Stat {}

impl Stat {
    /// The state of an open file.
    pub fn of(file: &File) -> Result<Self> {
        match rustix::fs::fstat(file) {
            Ok(stat) => Ok(Self::from(&stat)),
            Err(error) => Err(Error::io("stat", Path::new("an open file"), error)),
        }
    }
}

impl From<&rustix::fs::Stat> for Stat {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between platforms")]
    fn from(stat: &rustix::fs::Stat) -> Self {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size,
            mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            sparse: blocks.saturating_mul(512) < size,
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// A regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFound {
    /// Relative to the root, with `/`; from [`stat_file`], the file's name.
    pub path: String,
    /// Its state when it was found.
    pub stat: Stat,
    /// The owner may execute it.
    pub executable: bool,
    /// The last component of the path is a symbolic link.
    pub via_link: bool,
}

/// Lists the tree below `root` with up to `threads` threads, the caller's included. What is much goes to the `room`'s
/// directory.
///
/// Sets the totals of `progress`; files count while they are found. Costs one `stat` per file and one `open` per directory.
///
/// # Errors
/// `NotFound` or `InvalidInput` if the root is missing or no directory; `InvalidInput` for an entry
/// that cannot be stored; `Conflict` for one that vanishes meanwhile; `Store` for one that cannot be
/// read; `Cancelled`.
pub fn scan(root: &Path, room: &Room, threads: usize, progress: &Progress) -> Result<Listing> {
    progress.check()?;
    let handle = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |error| match error {
            Errno::NOTDIR => Error::invalid(format!("{} is not a directory", root.display())),
            _ => Error::io("open", root, error),
        },
    )?;
    let threads = threads.max(1);
    let walk = Walk {
        root,
        handle,
        progress,
        split: threads > 1,
        queue: Mutex::new(Queue { root: true, ..Queue::default() }),
        changed: Condvar::new(),
        found: Mutex::new(Collected::new(room)),
    };
    thread::scope(|scope| {
        // A thread that cannot be started is only slower: the caller's own always runs.
        let helper = |_| thread::Builder::new().spawn_scoped(scope, || walk.work()).ok();
        let helpers: Vec<_> = (1..threads).map_while(helper).collect();
        walk.work();
        for helper in helpers {
            if let Err(panic) = helper.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    if let Some(error) = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        return Err(error);
    }
    let listing = walk.found.into_inner().unwrap_or_else(PoisonError::into_inner).finish(progress)?;
    progress.total_files.store(listing.len(), Relaxed);
    progress.total_bytes.store(listing.bytes(), Relaxed);
    Ok(listing)
}

/// Looks at one file, through symbolic links; refuses directories and special files.
///
/// # Errors
/// `NotFound`, `InvalidInput` or `Store`, as [`scan`].
pub fn stat_file(path: &Path) -> Result<FileFound> {
    let name = match path.file_name() {
        Some(name) => name.to_str().ok_or_else(|| not_utf8(&path.display().to_string(), name.as_encoded_bytes()))?,
        None => return Err(Error::invalid(format!("{} is not a file", path.display()))),
    };
    let own = rustix::fs::lstat(path).map_err(|error| Error::io("stat", path, error))?;
    let via_link = FileType::from_raw_mode(own.st_mode) == FileType::Symlink;
    let shown = path.display().to_string();
    let stat = if via_link { rustix::fs::stat(path).map_err(|error| link_error(&shown, error))? } else { own };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Error::invalid(format!("{shown} is a directory, not a file"))),
        other => return Err(special(&shown, other)),
    }
    readable(rustix::fs::CWD, path, stat.st_mode).map_err(|error| Error::io("read", path, error))?;
    Ok(FileFound { path: name.to_owned(), stat: Stat::from(&stat), executable: is_executable(&stat), via_link })
}

/// Whether its owner may execute a file.
pub(crate) fn is_executable(stat: &rustix::fs::Stat) -> bool {
    stat.st_mode & 0o100 != 0
}

/// A directory that has been opened. It lives as long as something below it waits for its turn.
struct Directory {
    /// None of the root.
    parent: Option<Arc<Directory>>,
    name: String,
    via_link: bool,
    dev: u64,
    ino: u64,
}

impl Directory {
    /// This directory and those that it is in, but for the root.
    fn way(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |directory| directory.parent.as_deref())
            .filter(|directory| directory.parent.is_some())
    }

    /// Its path, relative to the root, which is the empty string.
    fn path(&self) -> String {
        let mut names: Vec<&str> = self.way().map(|directory| directory.name.as_str()).collect();
        names.reverse();
        names.join("/")
    }

    /// If it is one of those that it is in, the link that leads back to it.
    fn loops(&self) -> Option<&Self> {
        let mut link = None;
        for directory in self.way() {
            if link.is_none() && directory.via_link {
                link = Some(directory);
            }
            if directory.parent.as_ref().is_some_and(|above| (above.dev, above.ino) == (self.dev, self.ino)) {
                return Some(link.unwrap_or(self));
            }
        }
        None
    }
}

impl Drop for Directory {
    /// One after the other: there may be more of them than the stack has room for.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(mut directory) = above.and_then(Arc::into_inner) {
            above = directory.parent.take();
        }
    }
}

/// Directories to be listed, by their names as [`Found`] has them.
struct Waiting {
    parent: Arc<Directory>,
    names: String,
}

impl Waiting {
    /// The last of them, and whether a link leads to it.
    fn pop(&mut self) -> Option<(String, bool)> {
        let via_link = self.names.pop()? == '\0';
        let start = self.names.rfind(['/', '\0']).map_or(0, |end| end + 1);
        let name = self.names[start..].to_owned();
        self.names.truncate(start);
        Some((name, via_link))
    }
}

/// Entries of a directory to be looked up.
struct Batch {
    directory: Arc<Directory>,
    names: Vec<(CString, FileType)>,
}

#[derive(Default)]
struct Queue {
    /// The root waits.
    root: bool,
    /// None of them is empty.
    waiting: Vec<Waiting>,
    batches: Vec<Batch>,
    busy: usize,
    failed: Option<Error>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        !self.root && self.waiting.is_empty() && self.batches.is_empty()
    }

    fn clear(&mut self) {
        self.root = false;
        self.waiting.clear();
        self.batches.clear();
    }

    fn pop(&mut self) -> Option<Task> {
        if let Some(batch) = self.batches.pop() {
            return Some(Task::Look(batch));
        }
        if std::mem::take(&mut self.root) {
            return Some(Task::List { parent: None, name: String::new(), via_link: false });
        }
        let last = self.waiting.last_mut()?;
        let (parent, (name, via_link)) = (Some(Arc::clone(&last.parent)), last.pop()?);
        if last.names.is_empty() {
            self.waiting.pop();
        }
        Some(Task::List { parent, name, via_link })
    }
}

enum Task {
    List { parent: Option<Arc<Directory>>, name: String, via_link: bool },
    Look(Batch),
}

struct Walk<'a> {
    root: &'a Path,
    handle: OwnedFd,
    progress: &'a Progress,
    split: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Never held together with the queue.
    found: Mutex<Collected>,
}

/// Marks a worker idle again, also while it unwinds, so that the others never wait for it.
struct Busy<'a, 'b>(&'a Walk<'b>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.busy -= 1;
        if queue.busy == 0 && queue.is_empty() {
            self.0.changed.notify_all();
        }
    }
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Collected> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tasks until none is left and nobody can add one, or until something failed.
    fn work(&self) {
        while let Some((task, _busy)) = self.take() {
            let done = match task {
                Task::List { parent, name, via_link } => self.list(parent, name, via_link),
                Task::Look(Batch { directory, names }) => {
                    self.open(&directory.path()).and_then(|handle| self.look(handle.as_fd(), &directory, &names))
                }
            };
            if let Err(error) = done {
                let mut queue = self.lock();
                queue.clear();
                queue.failed.get_or_insert(error);
            }
        }
    }

    fn take(&self) -> Option<(Task, Busy<'_, '_>)> {
        let mut queue = self.lock();
        loop {
            if queue.failed.is_some() {
                self.changed.notify_all();
                return None;
            }
            if let Some(task) = queue.pop() {
                queue.busy += 1;
                return Some((task, Busy(self)));
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn shown(&self, directory: &str, name: &[u8]) -> String {
        self.root.join(directory).join(String::from_utf8_lossy(name).as_ref()).display().to_string()
    }

    fn shown_directory(&self, directory: &str) -> String {
        self.root.join(directory).display().to_string()
    }

    /// Opens a directory of the tree, piece by piece if its path is long.
    fn open(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let mut rest = if path.is_empty() { "." } else { path };
        loop {
            let cut = match rest.as_bytes().get(..PIECE) {
                Some(head) => head.iter().rposition(|&b| b == b'/').unwrap_or(rest.len()),
                None => rest.len(),
            };
            let (piece, tail) = rest.split_at(cut);
            let from = at.as_ref().map_or(self.handle.as_fd(), AsFd::as_fd);
            let next = rustix::fs::openat(from, piece, flags, Mode::empty())
                .map_err(|error| entry_error("open", &self.shown_directory(path), error))?;
            rest = tail.trim_start_matches('/');
            if rest.is_empty() {
                return Ok(next);
            }
            at = Some(next);
        }
    }

    /// Reads one directory and looks its entries up, leaving whole batches to other workers.
    fn list(&self, parent: Option<Arc<Directory>>, name: String, via_link: bool) -> Result<()> {
        self.progress.check()?;
        let mut directory = Directory { parent, name, via_link, dev: 0, ino: 0 };
        let path = directory.path();
        // What is in it, or itself if it is empty, could not be an entry.
        if path.len() > MAX_PATH_BYTES {
            let start: String = path.chars().take(200).collect();
            let message = format!("{}… is longer than {MAX_PATH_BYTES} bytes", self.shown_directory(&start));
            return Err(Error::invalid(message).hint("add directories that are further down one by one"));
        }
        let fail = |error| entry_error("read", &self.shown_directory(&path), error);
        let handle = self.open(&path)?;
        let stat = Stat::from(&rustix::fs::fstat(&handle).map_err(fail)?);
        (directory.dev, directory.ino) = (stat.dev, stat.ino);
        if let Some(link) = directory.loops() {
            let shown = self.shown_directory(&link.path());
            let message = format!("{shown} leads back to a directory that contains it");
            return Err(
                Error::invalid(message).hint("remove the symbolic link, or add the directories below it one by one")
            );
        }
        let directory = Arc::new(directory);
        let mut dir = Dir::new(handle).map_err(fail)?;
        let mut names = Vec::new();
        let mut empty = true;
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(fail)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            empty = false;
            names.push((entry.file_name().to_owned(), entry.file_type()));
            if names.len() == BATCH {
                self.progress.check()?;
                if let Some(own) =
                    self.leave(Batch { directory: Arc::clone(&directory), names: std::mem::take(&mut names) })
                {
                    self.look(dir.fd().map_err(fail)?, &directory, &own.names)?;
                }
            }
        }
        if empty {
            self.found().add_empty(&path)?;
        }
        self.look(dir.fd().map_err(fail)?, &directory, &names)
    }

    /// Leaves a batch to another worker, or gives it back where enough of them wait.
    fn leave(&self, batch: Batch) -> Option<Batch> {
        let mut queue = self.lock();
        if queue.failed.is_some() || !self.split || queue.batches.len() >= MAX_BATCHES {
            return Some(batch);
        }
        queue.batches.push(batch);
        self.changed.notify_one();
        None
    }

    /// Looks entries of a directory up: files go to what was found, directories to the queue.
    fn look(&self, handle: BorrowedFd<'_>, directory: &Arc<Directory>, names: &[(CString, FileType)]) -> Result<()> {
        let (path, mut found) = (directory.path(), Found::default());
        for (name, listed) in names {
            self.progress.check()?;
            match name.to_str() {
                Ok(text) => self.look_one(handle, &path, name, text, *listed, &mut found)?,
                Err(_) => return Err(not_utf8(&self.shown_directory(&path), name.to_bytes())),
            }
        }
        self.progress.total_files.fetch_add(found.len() as u64, Relaxed);
        self.found().add(&path, &found)?;
        if !found.directories.is_empty() {
            let mut queue = self.lock();
            if queue.failed.is_none() {
                queue.waiting.push(Waiting { parent: Arc::clone(directory), names: found.directories });
                self.changed.notify_all();
            }
        }
        Ok(())
    }

    fn look_one(
        &self,
        handle: BorrowedFd<'_>,
        directory: &str,
        name: &CStr,
        text: &str,
        listed: FileType,
        found: &mut Found,
    ) -> Result<()> {
        if listed == FileType::Directory {
            found.directory(text, false);
            return Ok(());
        }
        let shown = || self.shown(directory, name.to_bytes());
        let mut via_link = listed == FileType::Symlink;
        let mut stat = None;
        if !via_link {
            // Not every file system tells the type with the name, and it may have changed since.
            let own = rustix::fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| entry_error("stat", &shown(), error))?;
            via_link = FileType::from_raw_mode(own.st_mode) == FileType::Symlink;
            stat = Some(own).filter(|_| !via_link);
        }
        let stat = match stat {
            Some(stat) => stat,
            None => rustix::fs::statat(handle, name, AtFlags::empty()).map_err(|error| {
                // Only a link that is still there leads nowhere.
                match rustix::fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(own) if FileType::from_raw_mode(own.st_mode) == FileType::Symlink => link_error(&shown(), error),
                    _ => entry_error("stat", &shown(), error),
                }
            })?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                found.directory(text, via_link);
                return Ok(());
            }
            FileType::RegularFile => {}
            other => return Err(special(&shown(), other)),
        }
        readable(handle, name, stat.st_mode).map_err(|error| entry_error("read", &shown(), error))?;
        found.file(text, Stat::from(&stat), is_executable(&stat), via_link);
        Ok(())
    }
}

/// Asks the kernel only where the mode leaves a doubt, so that most files cost no second call.
fn readable(dir: BorrowedFd<'_>, name: impl rustix::path::Arg, mode: rustix::fs::RawMode) -> Result<(), Errno> {
    if mode & 0o444 == 0o444 { Ok(()) } else { rustix::fs::accessat(dir, name, Access::READ_OK, AtFlags::EACCESS) }
}

fn entry_error(operation: &str, shown: &str, error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR => Error::new(Kind::Conflict, format!("{shown} vanished while it was listed"))
            .hint("wait until nothing writes there and try again"),
        _ => Error::io(operation, Path::new(shown), error),
    }
}

fn link_error(shown: &str, error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR => Error::invalid(format!("{shown} is a symbolic link to nothing"))
            .hint("remove the link or restore its target"),
        Errno::LOOP => Error::invalid(format!("{shown} is a symbolic link that leads back to itself")),
        _ => Error::io("follow", Path::new(shown), error),
    }
}

fn not_utf8(shown_dir: &str, name: &[u8]) -> Error {
    Error::invalid(format!("the name \"{}\" in {shown_dir} is not UTF-8", name.escape_ascii()))
        .hint("rename it; artifact paths are UTF-8")
}

fn special(shown: &str, kind: FileType) -> Error {
    let what = match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "neither a file nor a directory",
    };
    Error::invalid(format!("{shown} is {what}, which cannot be stored"))
}
