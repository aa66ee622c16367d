//! Lists a tree: every file with its [`Stat`], and the directories that hold nothing.
//!
//! Symbolic links are followed, to files and to directories, as `shutil.copytree` does. Whatever
//! cannot be stored (a dangling link, a loop of links, a socket, a name that is not UTF-8, an entry
//! that cannot be read) fails the whole scan, so that nothing is added by halves.
//!
//! Work is a shared stack of small tasks, so depth costs no thread stack. A task holds a path and no
//! open file: each worker has at most three directories open, however wide or deep the tree is.
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

use crate::{Error, Kind, Result, cancel::Progress};

/// Entries that one worker looks up before another may help with the same directory.
const BATCH: usize = 512;
/// Longest path, in bytes, given to one system call; below Linux's 4,096 and macOS's 1,024.
const PIECE: usize = 1000;

/// What the file system says about a file; equal only if the file was not touched in between.
#[derive(Clone, Copy, Debug)]
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

/// Everything below a root, sorted by the bytes of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The files.
    pub files: Vec<FileFound>,
    /// Directories without any entry; the root is the empty string.
    pub empty_dirs: Vec<String>,
}

/// Lists the tree below `root` with up to `threads` threads, the caller's included.
///
/// Sets the totals of `progress`. Costs one `stat` per file and one `open` per directory.
///
/// # Errors
/// `NotFound` or `InvalidInput` if the root is missing or no directory; `InvalidInput` for an entry
/// that cannot be stored; `Conflict` for one that vanishes meanwhile; `Store` for one that cannot be
/// read; `Cancelled`.
pub fn scan(root: &Path, threads: usize, progress: &Progress) -> Result<Tree> {
    progress.check()?;
    let handle = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |error| match error {
            Errno::NOTDIR => Error::invalid(format!("{} is not a directory", root.display())),
            _ => Error::io("open", root, error),
        },
    )?;
    let threads = threads.max(1);
    let top = Arc::new(Folder { path: String::new(), parent: None, via_link: false });
    let walk = Walk {
        root,
        handle,
        progress,
        split: threads > 1,
        queue: Mutex::new(Queue { tasks: vec![Task::List(top)], busy: 0, failed: None }),
        changed: Condvar::new(),
    };
    let mut tree = Tree::default();
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            // A thread that cannot be started is only slower: the caller's own always runs.
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, || walk.work()).ok())
            .collect();
        tree = walk.work();
        for helper in helpers {
            match helper.join() {
                Ok(part) => {
                    tree.files.extend(part.files);
                    tree.empty_dirs.extend(part.empty_dirs);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    if let Some(error) = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        return Err(error);
    }
    tree.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    tree.empty_dirs.sort_unstable();
    progress.total_files.store(tree.files.len() as u64, Relaxed);
    progress.total_bytes.store(tree.files.iter().map(|file| file.stat.size).sum(), Relaxed);
    Ok(tree)
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
    Ok(FileFound { path: name.to_owned(), stat: Stat::from(&stat), executable: stat.st_mode & 0o100 != 0, via_link })
}

/// A directory on the way from the root; (device, inode) pairs of its ancestors find loops.
struct Folder {
    path: String,
    parent: Option<(Arc<Folder>, (u64, u64))>,
    via_link: bool,
}

impl Drop for Folder {
    /// Frees the ancestors one by one: dropping the chain by itself would recurse once per level.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some((parent, _)) = next {
            next = Arc::into_inner(parent).and_then(|mut parent| parent.parent.take());
        }
    }
}

/// A directory to list, or (with names) a batch of its entries to look up.
enum Task {
    List(Arc<Folder>),
    Look(Arc<Folder>, (u64, u64), Vec<(CString, FileType)>),
}

struct Queue {
    tasks: Vec<Task>,
    busy: usize,
    failed: Option<Error>,
}

struct Walk<'a> {
    root: &'a Path,
    handle: OwnedFd,
    progress: &'a Progress,
    split: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Marks a worker idle again, also while it unwinds, so that the others never wait for it.
struct Busy<'a, 'b>(&'a Walk<'b>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.busy -= 1;
        if queue.busy == 0 && queue.tasks.is_empty() {
            self.0.changed.notify_all();
        }
    }
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tasks until none is left and nobody can add one, or until something failed.
    fn work(&self) -> Tree {
        let mut found = Tree::default();
        while let Some((task, _busy)) = self.take() {
            let done = match task {
                Task::List(folder) => self.list(&folder, &mut found),
                Task::Look(folder, id, names) => {
                    self.open(&folder.path).and_then(|dir| self.look(dir.as_fd(), &folder, id, &names, &mut found))
                }
            };
            if let Err(error) = done {
                let mut queue = self.lock();
                queue.tasks.clear();
                queue.failed.get_or_insert(error);
            }
        }
        found
    }

    fn take(&self) -> Option<(Task, Busy<'_, '_>)> {
        let mut queue = self.lock();
        loop {
            if queue.failed.is_some() {
                self.changed.notify_all();
                return None;
            }
            if let Some(task) = queue.tasks.pop() {
                queue.busy += 1;
                return Some((task, Busy(self)));
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn push(&self, task: Task) {
        let mut queue = self.lock();
        if queue.failed.is_none() {
            queue.tasks.push(task);
            self.changed.notify_one();
        }
    }

    fn shown(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
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
                .map_err(|error| entry_error("open", &self.shown(path), error))?;
            rest = tail.trim_start_matches('/');
            if rest.is_empty() {
                return Ok(next);
            }
            at = Some(next);
        }
    }

    /// Reads one directory and looks its entries up, leaving whole batches to other workers.
    fn list(&self, folder: &Arc<Folder>, found: &mut Tree) -> Result<()> {
        self.progress.check()?;
        let fail = |error| entry_error("read", &self.shown(&folder.path), error);
        let handle = self.open(&folder.path)?;
        let stat = Stat::from(&rustix::fs::fstat(&handle).map_err(fail)?);
        let id = (stat.dev, stat.ino);
        self.refuse_loop(folder, id)?;
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
                let batch = std::mem::take(&mut names);
                if self.split {
                    self.push(Task::Look(folder.clone(), id, batch));
                } else {
                    self.look(dir.fd().map_err(fail)?, folder, id, &batch, found)?;
                }
            }
        }
        if empty {
            found.empty_dirs.push(folder.path.clone());
        }
        self.look(dir.fd().map_err(fail)?, folder, id, &names, found)
    }

    /// Fails if `folder` is one of its own ancestors; names the link that leads back.
    fn refuse_loop(&self, folder: &Arc<Folder>, id: (u64, u64)) -> Result<()> {
        let mut link = folder.via_link.then_some(folder);
        let mut below = folder;
        while let Some((parent, parent_id)) = &below.parent {
            if *parent_id == id {
                let shown = self.shown(&link.unwrap_or(folder).path);
                return Err(Error::invalid(format!("{shown} leads back to a directory that contains it"))
                    .hint("remove the symbolic link, or add the directories below it one by one"));
            }
            if link.is_none() && parent.via_link {
                link = Some(parent);
            }
            below = parent;
        }
        Ok(())
    }

    fn look(
        &self,
        dir: BorrowedFd<'_>,
        folder: &Arc<Folder>,
        id: (u64, u64),
        names: &[(CString, FileType)],
        found: &mut Tree,
    ) -> Result<()> {
        for (name, listed) in names {
            self.progress.check()?;
            let path = self.path_of(folder, name)?;
            if let Some((found_dir, via_link)) = self.look_one(dir, name, *listed, path, found)? {
                let parent = Some((folder.clone(), id));
                self.push(Task::List(Arc::new(Folder { path: found_dir, parent, via_link })));
            }
        }
        Ok(())
    }

    fn path_of(&self, folder: &Folder, name: &CStr) -> Result<String> {
        match name.to_str() {
            Ok(name) if folder.path.is_empty() => Ok(name.to_owned()),
            Ok(name) => Ok(format!("{}/{name}", folder.path)),
            Err(_) => Err(not_utf8(&self.shown(&folder.path), name.to_bytes())),
        }
    }

    /// Adds a file to `found`, or returns the directory (and whether a link led there).
    fn look_one(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        listed: FileType,
        path: String,
        found: &mut Tree,
    ) -> Result<Option<(String, bool)>> {
        if listed == FileType::Directory {
            return Ok(Some((path, false)));
        }
        let mut via_link = listed == FileType::Symlink;
        let mut stat = None;
        if !via_link {
            // Not every file system tells the type with the name, and it may have changed since.
            let own = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| entry_error("stat", &self.shown(&path), error))?;
            via_link = FileType::from_raw_mode(own.st_mode) == FileType::Symlink;
            stat = Some(own).filter(|_| !via_link);
        }
        let stat = match stat {
            Some(stat) => stat,
            None => rustix::fs::statat(dir, name, AtFlags::empty()).map_err(|error| {
                let shown = self.shown(&path);
                // Only a link that is still there leads nowhere.
                match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(own) if FileType::from_raw_mode(own.st_mode) == FileType::Symlink => link_error(&shown, error),
                    _ => entry_error("stat", &shown, error),
                }
            })?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return Ok(Some((path, via_link))),
            FileType::RegularFile => {}
            other => return Err(special(&self.shown(&path), other)),
        }
        readable(dir, name, stat.st_mode).map_err(|error| entry_error("read", &self.shown(&path), error))?;
        let executable = stat.st_mode & 0o100 != 0;
        found.files.push(FileFound { path, stat: Stat::from(&stat), executable, via_link });
        Ok(None)
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
