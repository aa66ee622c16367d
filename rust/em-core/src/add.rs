//! Adding to an artifact: scan, stat cache, read once, object in store, link, entry.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Digest, Error, Kind, Result,
    artifact::{ArtifactDir, RESERVED},
    cancel::Progress,
    gc::register_root,
    ingest::{Ingest, Objects},
    manifest::{Change, Entry, EntryKind, Reference},
    names, parallel,
    scan::{self, Tree},
    stat_cache::StatCache,
    store::{
        Store,
        leases::Lease,
        link::{LinkMode, Linker},
        open_dir,
    },
};

/// What one call works with.
#[derive(Debug)]
pub struct Add<'a> {
    /// Where objects go.
    pub store: &'a Store,
    /// The artifact that grows.
    pub artifact: &'a ArtifactDir,
    /// Answers for files that did not change.
    pub cache: &'a StatCache,
    /// Counts what is done and says when to stop.
    pub progress: &'a Progress,
    /// Workers, at least one.
    pub threads: usize,
    /// The only link mode to use, instead of the ladder.
    pub link_mode: Option<LinkMode>,
    /// Whether large files get chunk tables; only benchmarks do without.
    pub chunk_tables: bool,
}

/// What an add did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files added.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the store lacked.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Paths that cannot be made on Windows.
    pub reserved_on_windows: u64,
}

impl Summary {
    fn of(plan: &Plan<'_>, objects: &Objects) -> Self {
        let mut summary = Self { files: plan.tree.len() as u64, ..Self::default() };
        for index in 0..plan.tree.len() {
            let (size_bytes, new) = (objects.size_bytes(plan.tree, index), objects.is_new(index));
            summary.bytes += size_bytes;
            summary.new_objects += u64::from(new);
            summary.new_bytes += if new { size_bytes } else { 0 };
        }
        let reserved = plan.paths().filter(|path| names::is_reserved_on_windows(path));
        Self { reserved_on_windows: reserved.count() as u64, ..summary }
    }
}

/// Tries of an add whose objects `gc` takes away under it.
const MAX_ATTEMPTS: u32 = 5;

impl Add<'_> {
    /// Adds all files below `source` under `obj_path`; an empty one is the artifact's root.
    /// On an error the artifact is what it was.
    pub fn dir(&self, source: &Path, obj_path: &str) -> Result<Summary> {
        self.refuse_own(source)?;
        let tree = scan::scan(source, self.threads, self.progress)?;
        self.run(source, &Plan { tree: &tree, obj_path, is_file: false })
    }

    /// Adds one file as `obj_path`. On an error the artifact is what it was.
    pub fn file(&self, source: &Path, obj_path: &str) -> Result<Summary> {
        names::check(obj_path)?;
        let mut found = scan::stat_file(source)?;
        let name = source.file_name().and_then(|name| name.to_str());
        found.path = name.ok_or_else(|| Error::invalid(format!("{} names no file", source.display())))?.to_owned();
        let parent = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.run(parent, &Plan { tree: &Tree::of_file(&found)?, obj_path, is_file: true })
    }

    /// A directory that holds the artifact or the store would be copied into itself.
    fn refuse_own(&self, source: &Path) -> Result<()> {
        let source = source.canonicalize().map_err(|e| Error::io("open", source, e))?;
        for own in [self.artifact.root(), self.store.root()] {
            if own.canonicalize().is_ok_and(|own| own.starts_with(&source)) {
                let message = format!("{} contains {}, which it would be added to", source.display(), own.display());
                return Err(Error::invalid(message).hint("add its subdirectories one by one"));
            }
        }
        Ok(())
    }

    fn run(&self, root: &Path, plan: &Plan<'_>) -> Result<Summary> {
        let base = self.check(plan)?;

        let root_fd = open_dir(root)?;
        for _ in 0..MAX_ATTEMPTS {
            let lease = Lease::take(self.store)?;
            register_root(self.store, self.artifact.root())?;
            let ingest = Ingest {
                store: self.store,
                cache: self.cache,
                progress: self.progress,
                lease: &lease,
                root,
                root_fd: &root_fd,
                chunk_tables: self.chunk_tables,
            };
            let objects = ingest.run(plan.tree, self.threads);
            self.cache.flush();
            let objects = objects?;
            match self.place(base, plan, &objects, &lease) {
                Ok(()) if lease.is_held() => return Ok(Summary::of(plan, &objects)),
                // `gc` may have taken objects away since, or between our look and the link: store them again.
                Ok(()) => {}
                Err(error) if error.kind == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let message = format!("objects of {} vanish from the store while they are added", root.display());
        Err(Error::new(Kind::Conflict, message).hint("is something else than `em gc` cleaning it up?"))
    }

    /// Whether the entries fit into the artifact, asked before a byte is read; answers the manifest's number.
    fn check(&self, plan: &Plan<'_>) -> Result<u64> {
        let (base, manifest) = self.artifact.manifest()?;
        let unknown = EntryKind::File { size: 0, digest: Digest([0; 32]), executable: false };
        Change::new(&manifest, || plan.entries(|_| unknown.clone()))?;
        Ok(base)
    }

    /// Links the objects and commits the entries, or leaves the artifact as it was.
    fn place(&self, base: u64, plan: &Plan<'_>, objects: &Objects, lease: &Lease) -> Result<()> {
        let intent = self.artifact.intend(plan.paths())?;
        let created = Created::default();
        let file = |index| EntryKind::File {
            size: objects.size_bytes(plan.tree, index),
            digest: objects.digest(index),
            executable: plan.tree.is_executable(index),
        };
        let committed =
            self.link(plan, objects, lease, &created).and_then(|()| self.artifact.commit(|| plan.entries(file)));
        match committed {
            Ok(replaced) => {
                let undisturbed = intent.done() && replaced == base;
                if undisturbed { Ok(()) } else { self.artifact.settle(self.store, || plan.paths()) }
            }
            Err(error) => {
                created.remove(self.artifact.root(), plan);
                // If that fails too, the intent stays, and is settled when this process has ended.
                if self.artifact.settle(self.store, || plan.paths()).is_ok() {
                    intent.done();
                }
                Err(error)
            }
        }
    }

    /// Puts every object at its path, and notes in `created` what had not been there.
    fn link(&self, plan: &Plan<'_>, objects: &Objects, lease: &Lease, created: &Created) -> Result<()> {
        let (root, tree) = (self.artifact.root(), plan.tree);
        for index in 0..tree.len() {
            // Files of one directory mostly stand together.
            if (index == 0 || !tree.are_siblings(index - 1, index))
                && let Some((parent, _)) = plan.target(index).rsplit_once('/')
            {
                make_dirs(root, parent, |made| created.directory(made))?;
            }
        }
        for path in plan.directories() {
            make_dirs(root, &path, |made| created.directory(made))?;
        }
        let linker = Linker::new(self.store, root, RESERVED, self.link_mode)?;
        // A contiguous part of the files for each worker: two that link into one directory wait for each other.
        let parts = if tree.len() <= 16 { 1 } else { self.threads };
        let part_len = tree.len().div_ceil(parts.max(1));
        parallel::each(
            parts,
            parts,
            || Ok(()),
            |(), part| {
                for index in (part * part_len..tree.len()).take(part_len) {
                    self.progress.check()?;
                    lease.renew();
                    let (size_bytes, executable) = (objects.size_bytes(tree, index), tree.is_executable(index));
                    if linker.link(objects.digest(index), size_bytes, executable, plan.target(index))?.created {
                        lock(&created.files).push(index as u32);
                    }
                }
                Ok(())
            },
        )
    }
}

/// Adds a reference as `obj_path`; nothing is fetched.
pub fn reference(artifact: &ArtifactDir, obj_path: &str, reference: Reference) -> Result<Summary> {
    let entry = Entry { path: obj_path.to_owned(), kind: EntryKind::Reference(Box::new(reference)) };
    artifact.commit(|| std::iter::once(entry.clone()))?;
    Ok(Summary { reserved_on_windows: u64::from(names::is_reserved_on_windows(obj_path)), ..Summary::default() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", _) => path.to_owned(),
        (_, "") => prefix.to_owned(),
        _ => format!("{prefix}/{path}"),
    }
}

/// What goes where.
struct Plan<'t> {
    tree: &'t Tree,
    /// Path in the artifact of the tree, or of its only file.
    obj_path: &'t str,
    is_file: bool,
}

impl Plan<'_> {
    /// Path in the artifact of a file.
    fn target(&self, index: usize) -> String {
        if self.is_file { self.obj_path.to_owned() } else { join(self.obj_path, &self.tree.path(index)) }
    }

    /// Paths in the artifact of the empty directories, sorted.
    fn directories(&self) -> impl Iterator<Item = String> + Clone {
        self.tree.empty_dirs().map(|path| join(self.obj_path, &path)).filter(|path| !path.is_empty())
    }

    /// Every path in the artifact that is added, sorted.
    fn paths(&self) -> impl Iterator<Item = String> + Clone {
        self.entries(|_| EntryKind::Directory).map(|entry| entry.path)
    }

    /// The entries, sorted by their paths; `file` says what a file is.
    fn entries(&self, file: impl Fn(usize) -> EntryKind + Clone) -> impl Iterator<Item = Entry> + Clone {
        let mut files =
            (0..self.tree.len()).map(move |index| Entry { path: self.target(index), kind: file(index) }).peekable();
        let mut directories = self.directories().map(|path| Entry { path, kind: EntryKind::Directory }).peekable();
        std::iter::from_fn(move || match (files.peek(), directories.peek()) {
            (Some(file), Some(directory)) if directory.path < file.path => directories.next(),
            (None, _) => directories.next(),
            _ => files.next(),
        })
    }
}

/// What an add has made in the artifact's directory.
#[derive(Default)]
struct Created {
    /// Number of each file whose path had been free.
    files: Mutex<Vec<u32>>,
    /// Directories, each after the one that it is in, and a NUL after each.
    directories: Mutex<Vec<u8>>,
}

impl Created {
    fn directory(&self, path: &Path) {
        let mut directories = lock(&self.directories);
        directories.extend_from_slice(path.as_os_str().as_encoded_bytes());
        directories.push(0);
    }

    fn remove(self, root: &Path, plan: &Plan<'_>) {
        for &index in &*lock(&self.files) {
            let _ = fs::remove_file(root.join(plan.target(index as usize)));
        }
        // One that another add has put something into stays.
        for directory in lock(&self.directories).rsplit(|&byte| byte == 0).filter(|path| !path.is_empty()) {
            let _ = fs::remove_dir(Path::new(OsStr::from_bytes(directory)));
        }
    }
}

/// Makes the directories of `path` below `root`, refusing symbolic links on the way; `made` gets the new ones.
pub(crate) fn make_dirs(root: &Path, path: &str, mut made: impl FnMut(&Path)) -> Result<()> {
    let mut directory = root.to_path_buf();
    for component in path.split('/') {
        directory.push(component);
        match fs::create_dir(&directory) {
            Ok(()) => made(&directory),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let metadata = fs::symlink_metadata(&directory).map_err(|e| Error::io("stat", &directory, e))?;
                if !metadata.is_dir() {
                    let message = format!("{} is in the way: not a directory", directory.display());
                    return Err(Error::invalid(message).hint("remove it, or use another obj_path"));
                }
            }
            Err(error) => return Err(Error::io("create", &directory, error)),
        }
    }
    Ok(())
}
