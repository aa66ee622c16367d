//! An artifact's directory from a manifest whose objects the store has.
//!
//! ```text
//! look at every object ─ .tmp-… beside the target ─ link every file ─ metadata ─ manifest ─ rename to the target
//! ```
//!
//! All of it appears with the one rename. A crash leaves `.tmp-…` with an intent that names its process; the next call
//! beside it, and `gc` for the artifacts beside the store, remove it once that process is gone.

use std::{
    ffi::CStr,
    fs,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};

use crate::{
    Digest, Error, Kind, Result,
    add::make_dirs,
    artifact::{ArtifactDir, RESERVED},
    cancel::Progress,
    gc::register_root,
    intent::{Intent, is_abandoned},
    manifest::{Entry, EntryKind, Manifest},
    names, parallel,
    store::{
        Store,
        leases::{self, Lease},
        link::{Linked, Linker},
        list,
        objects::Presence,
        temp_name,
    },
};

/// What one call works with.
#[derive(Debug)]
pub struct Materialize<'a> {
    /// Which has the objects.
    pub store: &'a Store,
    /// Counts what is done and says when to stop.
    pub progress: &'a Progress,
    /// Workers, at least one.
    pub threads: usize,
}

/// Tries to give a directory its name while somebody else makes and removes others there.
const MAX_RENAMES: u32 = 100;

impl Materialize<'_> {
    /// Makes the directory `root` of an artifact with these entries, and with `metadata` as its metadata file. A
    /// directory that is there Must be empty, or an artifact with the same entries, which is left as it is: otherwise it is
    /// a `Conflict`. `NotFound` names an object that the store lacks, `Integrity` one that it has just moved to `trash/`.
    /// Answers how the files came there.
    pub fn artifact(&self, root: &Path, manifest: &Manifest<'_>, metadata: Option<&[u8]>) -> Result<Linked> {
        if is_there(root, manifest, self.progress)? {
            return Ok(Linked::default());
        }
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        remove_leftovers(parent)?;
        let lease = Lease::take(self.store)?;
        register_root(self.store, root)?;
        self.look(root, manifest, &lease)?;

        let building = Building { path: parent.join(temp_name()) };
        fs::create_dir(&building.path).map_err(|e| Error::io("create", &building.path, e))?;
        let inner = building.path.join(RESERVED);
        fs::create_dir(&inner).map_err(|e| Error::io("create", &inner, e))?;
        let intent = Intent::write(&ArtifactDir::at(&building.path), std::iter::empty)?;
        let linked = self.link(manifest, &building.path, &lease)?;
        if let Some(metadata) = metadata {
            ArtifactDir::at(&building.path).write_metadata(metadata)?;
        }
        ArtifactDir::create_with(&building.path, manifest, self.progress)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match rustix::fs::rename(&building.path, root) {
                Ok(()) => break,
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if is_there(root, manifest, self.progress)? => {
                    return Ok(Linked::default());
                }
                // What was in the way has gone since.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) if attempts < MAX_RENAMES => {}
                Err(error) => return Err(Error::io("create", root, error)),
            }
        }
        if !lease.is_held() {
            // `gc` may have taken objects away before it could see the manifest.
            let looked = Lease::take(self.store).and_then(|lease| self.look(root, manifest, &lease));
            looked.inspect_err(|_| drop(fs::rename(root, &building.path)))?;
        }
        intent.done_in(root);
        Ok(linked)
    }

    /// Whether the store has every object, and `root` room for its path: one that was touched is rehashed.
    fn look(&self, root: &Path, manifest: &Manifest<'_>, lease: &Lease) -> Result<()> {
        self.each_file(manifest, lease, |file| {
            let (digest, size) = (file.digest, file.size);
            names::check_below(root, &file.path)?;
            let presence = self.store.presence(digest, size)?;
            let is_usable = match presence {
                Presence::Sealed => true,
                Presence::Suspect => self.store.usable_unless_cancelled(digest, size, self.progress)?,
                Presence::Missing => false,
            };
            if is_usable {
                return Ok(());
            }
            if presence == Presence::Suspect && self.store.presence(digest, size)? == Presence::Missing {
                return Err(self.store.damaged(digest));
            }
            Err(Error::new(Kind::NotFound, format!("the store lacks object {digest} of {size} bytes"))
                .hint("load the artifact again"))
        })
    }

    /// Makes every file and empty directory below `root`, where nobody else makes any.
    fn link(&self, manifest: &Manifest<'_>, root: &Path, lease: &Lease) -> Result<Linked> {
        let (mut files, mut bytes, mut made) = (0, 0, String::new());
        for entry in manifest.entries() {
            self.progress.check()?;
            lease.renew();
            let Entry { path, kind } = entry?;
            let directory = match kind {
                EntryKind::File { size, .. } => {
                    files += 1;
                    bytes += size;
                    path.rsplit_once('/').map(|(parent, _)| parent)
                }
                EntryKind::Directory => Some(path.as_str()),
                EntryKind::Reference(_) => None,
            };
            if let Some(directory) = directory {
                // Under its temporary name, which may be longer, it is made by whole paths.
                names::check_below(root, directory)?;
                make_dirs(root, directory, &mut made)?;
            }
        }
        self.progress.total_files.fetch_add(files, Relaxed);
        self.progress.total_bytes.fetch_add(bytes, Relaxed);
        let linker = Linker::new(self.store, root, Some(RESERVED))?;
        self.each_file(manifest, lease, |file| {
            linker.link_counted(file.digest, file.size, file.executable, &file.path, self.progress).map(drop)
        })?;
        Ok(linker.linked())
    }

    /// Calls `work` for every file, on all threads. Each takes some entries at a time, which stand together.
    fn each_file(
        &self,
        manifest: &Manifest<'_>,
        lease: &Lease,
        work: impl Fn(&File) -> Result<()> + Sync,
    ) -> Result<()> {
        let entries = Mutex::new(manifest.files());
        parallel::each(
            self.threads,
            (manifest.len() as usize).div_ceil(TAKEN_FILES),
            || Ok(Vec::with_capacity(TAKEN_FILES)),
            |taken, _| {
                let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
                taken.extend(entries.by_ref().take(TAKEN_FILES));
                drop(entries);
                for file in taken.drain(..) {
                    let (path, size, digest, executable) = file?;
                    self.progress.check()?;
                    lease.renew();
                    work(&File { path, size, digest, executable })?;
                }
                Ok(())
            },
        )
    }
}

/// Files that a worker takes at a time.
const TAKEN_FILES: usize = 64;

/// An entry that is a file.
struct File {
    path: String,
    size: u64,
    digest: Digest,
    executable: bool,
}

/// Puts objects at paths of entries below `root`, replacing files: path, digest, executable. Makes the directories on the
/// way and follows no symbolic link below `root`. Objects that were touched are rehashed first. Answers how they came there.
pub fn entries(store: &Store, root: &Path, entries: &[(&str, Digest, bool)], progress: &Progress) -> Result<Linked> {
    let mut sizes = Vec::with_capacity(entries.len());
    for &(path, digest, _) in entries {
        names::check(path)?;
        let size = store.size(digest)?;
        sizes.push(size);
        progress.total_files.fetch_add(1, Relaxed);
        progress.total_bytes.fetch_add(size, Relaxed);
    }
    let (linker, mut made) = (Linker::new(store, root, None)?, String::new());
    for (&(path, digest, executable), size) in entries.iter().zip(sizes) {
        progress.check()?;
        if !store.usable_unless_cancelled(digest, size, progress)? {
            return Err(store.damaged(digest));
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            make_dirs(root, parent, &mut made)?;
        }
        linker.link_counted(digest, size, executable, path, progress)?;
    }
    Ok(linker.linked())
}

/// Whether `root` is an artifact with these entries. Something else that is no empty directory is a `Conflict`.
fn is_there(root: &Path, manifest: &Manifest<'_>, progress: &Progress) -> Result<bool> {
    let conflict = |what: &str| {
        let error = Error::new(Kind::Conflict, format!("{} is there and {what}", root.display()));
        Err(error.hint("remove it, or choose another directory"))
    };
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("stat", root, error)),
        Ok(metadata) if !metadata.is_dir() => return conflict("no directory"),
        Ok(_) => {}
    }
    match ArtifactDir::open(root).and_then(|artifact| artifact.manifest_unless_cancelled(progress)) {
        Ok((_, present)) if present == *manifest => Ok(true),
        Ok(_) => conflict("an artifact of another content"),
        Err(error) if error.kind != Kind::NotFound => Err(error),
        Err(_) if list(root)?.is_empty() => Ok(false),
        Err(_) => conflict("not empty"),
    }
}

/// A directory under a temporary name, removed when dropped unless it has been renamed.
struct Building {
    path: PathBuf,
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

/// Removes the directories in `parent` that calls left which were killed.
pub(crate) fn remove_leftovers(parent: &Path) -> Result<()> {
    for path in list(parent)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let random = name.strip_prefix(".tmp-").filter(|random| random.len() == 32);
        let is_ours = random.is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(metadata) = fs::symlink_metadata(&path).ok().filter(|metadata| is_ours && metadata.is_dir()) else {
            continue;
        };
        let inside = list(&path.join(RESERVED)).unwrap_or_default();
        let is_intent =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"intent-"));
        let gone = match inside.iter().find(is_intent) {
            Some(intent) => fs::File::open(intent).is_ok_and(|intent| is_abandoned(&intent)),
            // Not there yet, or one was killed before it wrote it or while it removed the directory.
            None => {
                let now = SystemTime::now();
                !leases::is_in_flight("", now, metadata.modified().unwrap_or(now))
            }
        };
        if gone {
            let _ = remove_tree(&path);
        }
    }
    Ok(())
}

/// Removes a directory and all below it. Directories in its directories are moved up to it, so that depth costs neither
/// stack nor open files; no symbolic link is followed.
fn remove_tree(root: &Path) -> rustix::io::Result<()> {
    let open = |at: BorrowedFd<'_>, name: &CStr| {
        openat(at, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let top = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let remove = |at: BorrowedFd<'_>, name: &CStr| match unlinkat(at, name, AtFlags::empty()) {
        // Linux says the one of a directory, others the other.
        Err(Errno::ISDIR | Errno::PERM) => unlinkat(at, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    let mut moved = true;
    while std::mem::take(&mut moved) {
        each_name(top.as_fd(), |name| match remove(top.as_fd(), name) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let directory = open(top.as_fd(), name)?;
                each_name(directory.as_fd(), |inner| match remove(directory.as_fd(), inner) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {
                        moved = true;
                        renameat(&directory, inner, &top, temp_name())
                    }
                    removed => removed,
                })?;
                unlinkat(&top, name, AtFlags::REMOVEDIR)
            }
            removed => removed,
        })?;
    }
    rustix::fs::rmdir(root)
}

/// Calls `work` for each name in a directory; another process may be faster with it.
fn each_name(
    directory: BorrowedFd<'_>,
    mut work: impl FnMut(&CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            match work(entry.file_name()) {
                Err(Errno::NOENT) => {}
                worked => worked?,
            }
        }
    }
    Ok(())
}
