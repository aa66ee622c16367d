//! Adding to an artifact: scan, stat cache, read once, object in store, link, entry.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Digest, Error, Kind, Result,
    artifact::{ArtifactDir, RESERVED},
    cancel::Progress,
    gc::register_root,
    ingest::{Ingest, Ingested},
    manifest::{Entry, EntryKind, Reference},
    names, parallel,
    scan::{self, FileFound, Tree},
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
    fn of(plan: &Plan<'_>, objects: &[Ingested]) -> Self {
        let new = || objects.iter().filter(|object| object.new);
        Self {
            files: objects.len() as u64,
            bytes: objects.iter().map(|object| object.size_bytes).sum(),
            new_objects: new().count() as u64,
            new_bytes: new().map(|object| object.size_bytes).sum(),
            reserved_on_windows: plan.paths().filter(|path| names::is_reserved_on_windows(path)).count() as u64,
        }
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
        self.run(source, &tree, |path| join(obj_path, path))
    }

    /// Adds one file as `obj_path`. On an error the artifact is what it was.
    pub fn file(&self, source: &Path, obj_path: &str) -> Result<Summary> {
        names::check(obj_path)?;
        let mut found = scan::stat_file(source)?;
        let name = source.file_name().and_then(|name| name.to_str());
        found.path = name.ok_or_else(|| Error::invalid(format!("{} names no file", source.display())))?.to_owned();
        let parent = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.run(parent, &Tree { files: vec![found], empty_dirs: Vec::new() }, |_| obj_path.to_owned())
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

    fn run(&self, root: &Path, tree: &Tree, target: impl Fn(&str) -> String) -> Result<Summary> {
        let plan = Plan {
            files: &tree.files,
            targets: tree.files.iter().map(|found| target(&found.path)).collect(),
            directories: tree.empty_dirs.iter().map(|path| target(path)).filter(|path| !path.is_empty()).collect(),
        };
        let base = self.check(&plan)?;

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
            let objects = ingest.run(plan.files, self.threads);
            self.cache.flush();
            let objects = objects?;
            match self.place(base, &plan, &objects, &lease) {
                Ok(()) if lease.is_held() => return Ok(Summary::of(&plan, &objects)),
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
        let unknown = Ingested { digest: Digest([0; 32]), size_bytes: 0, new: false };
        manifest.with(plan.entries(&vec![unknown; plan.files.len()]))?;
        Ok(base)
    }

    /// Links the objects and commits the entries, or leaves the artifact as it was.
    fn place(&self, base: u64, plan: &Plan<'_>, objects: &[Ingested], lease: &Lease) -> Result<()> {
        let paths: Vec<&str> = plan.paths().collect();
        let intent = self.artifact.intend(&paths)?;
        let created = Created::default();
        let committed = self
            .link(plan, objects, lease, &created)
            .and_then(|()| self.artifact.commit(|manifest| manifest.with(plan.entries(objects))));
        match committed {
            Ok(replaced) => {
                let undisturbed = intent.done() && replaced == base;
                if undisturbed { Ok(()) } else { self.artifact.settle(self.store, &paths) }
            }
            Err(error) => {
                created.remove(self.artifact.root(), plan);
                // If that fails too, the intent stays, and is settled when this process has ended.
                if self.artifact.settle(self.store, &paths).is_ok() {
                    intent.done();
                }
                Err(error)
            }
        }
    }

    /// Puts every object at its path, and notes in `created` what had not been there.
    fn link(&self, plan: &Plan<'_>, objects: &[Ingested], lease: &Lease, created: &Created) -> Result<()> {
        let Plan { files, targets, directories } = plan;
        let root = self.artifact.root();
        let mut parents = HashSet::new();
        for path in targets.iter().filter_map(|target| target.rsplit_once('/')).map(|(parent, _)| parent) {
            if parents.insert(path) {
                make_dirs(root, path, |made| created.directory(made))?;
            }
        }
        for path in directories {
            make_dirs(root, path, |made| created.directory(made))?;
        }
        let linker = Linker::new(self.store, root, RESERVED, self.link_mode)?;
        // A contiguous part of the files for each worker: two that link into one directory wait for each other.
        let parts = if files.len() <= 16 { 1 } else { self.threads };
        let part_len = files.len().div_ceil(parts.max(1));
        parallel::each(
            parts,
            parts,
            || Ok(()),
            |(), part| {
                for index in (part * part_len..files.len()).take(part_len) {
                    let (object, file, target) = (&objects[index], &files[index], &targets[index]);
                    self.progress.check()?;
                    lease.renew();
                    if linker.link(object.digest, object.size_bytes, file.executable, target)?.created {
                        lock(&created.files).push(index);
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
    artifact.commit(|manifest| manifest.with([entry.clone()]))?;
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
    files: &'t [FileFound],
    /// Path in the artifact of each file.
    targets: Vec<String>,
    /// Paths in the artifact of the empty directories.
    directories: Vec<String>,
}

impl Plan<'_> {
    /// Every path in the artifact that is added.
    fn paths(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().chain(&self.directories).map(String::as_str)
    }

    /// The entries, once the files' objects are known.
    fn entries(&self, objects: &[Ingested]) -> impl Iterator<Item = Entry> {
        let file = |((file, target), object): ((&FileFound, &String), &Ingested)| {
            let (size, digest, executable) = (object.size_bytes, object.digest, file.executable);
            Entry { path: target.clone(), kind: EntryKind::File { size, digest, executable } }
        };
        let directory = |path: &String| Entry { path: path.clone(), kind: EntryKind::Directory };
        let files = self.files.iter().zip(&self.targets).zip(objects).map(file);
        files.chain(self.directories.iter().map(directory))
    }
}

/// What an add has made in the artifact's directory.
#[derive(Default)]
struct Created {
    /// Number in the plan of each file whose path had been free.
    files: Mutex<Vec<usize>>,
    /// Directories, each after the one that it is in.
    directories: Mutex<Vec<PathBuf>>,
}

impl Created {
    fn directory(&self, path: &Path) {
        lock(&self.directories).push(path.to_owned());
    }

    fn remove(self, root: &Path, plan: &Plan<'_>) {
        for &index in &*lock(&self.files) {
            let _ = fs::remove_file(root.join(&plan.targets[index]));
        }
        // One that another add has put something into stays.
        for directory in lock(&self.directories).iter().rev() {
            let _ = fs::remove_dir(directory);
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
