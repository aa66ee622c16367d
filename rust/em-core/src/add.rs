//! Adding to an artifact: scan, stat cache, read once, object in store, link, entry.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    Digest, Error, Kind, Result,
    artifact::{ArtifactDir, RESERVED},
    cancel::Progress,
    gc::register_root,
    ingest::{Ingest, Objects},
    intent::Intent,
    manifest::{Change, Entry, EntryKind, EntryList, Reference},
    names, parallel,
    scan::{self, Listing, Row, Tree},
    stat_cache::StatCache,
    store::{
        Store,
        leases::Lease,
        link::{Linked, Linker},
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
    /// How the files came to their paths.
    pub linked: Linked,
}

impl Summary {
    fn count(&mut self, entry: &Entry, new: bool) {
        if let EntryKind::File { size, .. } = entry.kind {
            self.files += 1;
            self.bytes += size;
            self.new_objects += u64::from(new);
            self.new_bytes += if new { size } else { 0 };
        }
        self.reserved_on_windows += u64::from(names::is_reserved_on_windows(&entry.path));
    }
}

/// Tries of an add whose objects `gc` takes away under it.
const MAX_ATTEMPTS: u32 = 5;

impl Add<'_> {
    /// Adds all files below `source` under `obj_path`; an empty one is the artifact's root.
    /// On an error the artifact is what it was.
    pub fn dir(&self, source: &Path, obj_path: &str) -> Result<Summary> {
        self.refuse_own(source)?;
        let listing = scan::scan(source, self.store.room(), self.threads, self.progress)?;
        self.run(source, &Plan { listing: &listing, obj_path, is_file: false })
    }

    /// Adds one file as `obj_path`. On an error the artifact is what it was.
    pub fn file(&self, source: &Path, obj_path: &str) -> Result<Summary> {
        names::check(obj_path)?;
        let mut found = scan::stat_file(source)?;
        let name = source.file_name().and_then(|name| name.to_str());
        found.path = name.ok_or_else(|| Error::invalid(format!("{} names no file", source.display())))?.to_owned();
        let parent = source.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let listing = Listing::of_file(&found, self.store.room())?;
        self.progress.total_files.store(1, Relaxed);
        self.progress.total_bytes.store(found.stat.size, Relaxed);
        self.run(parent, &Plan { listing: &listing, obj_path, is_file: true })
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
            let stored = self.ingest(&ingest, plan);
            self.cache.flush();
            let (added, summary) = stored?;
            match self.place(base, &added, &lease) {
                Ok(linked) if lease.is_held() => return Ok(Summary { linked, ..summary }),
                // `gc` may have taken objects away since, or between our look and the link: store them again.
                Ok(_) => {}
                Err(error) if error.kind == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let message = format!("objects of {} vanish from the store while they are added", root.display());
        Err(Error::new(Kind::Conflict, message).hint("is something else than `em gc` cleaning it up?"))
    }

    /// Whether the entries fit into the artifact, asked before a byte is read; answers the manifest's number.
    fn check(&self, plan: &Plan<'_>) -> Result<u64> {
        let (base, manifest) = self.artifact.manifest_unless_cancelled(self.progress)?;
        let fits = |entry: Result<Entry>| {
            entry.and_then(|entry| names::check_below(self.artifact.root(), &entry.path).map(|()| entry))
        };
        Change::new(&manifest, || plan.entries().map(fits), self.progress)?;
        Ok(base)
    }

    /// Stores the objects, part by part; answers the entries.
    fn ingest(&self, ingest: &Ingest<'_>, plan: &Plan<'_>) -> Result<(EntryList, Summary)> {
        let (mut added, mut summary) = (EntryList::new(self.store.room()), Summary::default());
        for tree in plan.listing.parts() {
            let tree = tree?;
            let objects = ingest.run(&tree, self.threads)?;
            for index in 0..tree.len() {
                self.progress.check()?;
                if let Some(entry) = plan.entry(&tree, index, &objects) {
                    summary.count(&entry, objects.is_new(index));
                    added.push(&entry)?;
                }
            }
        }
        Ok((added, summary))
    }

    /// Links the objects and commits the entries, or leaves the artifact as it was. If it is interrupted behind the commit,
    /// what is still to be linked is left to the next call.
    fn place(&self, base: u64, added: &EntryList, lease: &Lease) -> Result<Linked> {
        let (artifact, store) = (self.artifact, self.store);
        let intent = Intent::write(artifact, || added.entries().map(|entry| self.progress.check().and(entry)))?;
        let linked = self.link(added, lease);
        let committed = linked
            .and_then(|linked| artifact.commit(|| added.entries(), self.progress).map(|replaced| (linked, replaced)));
        match committed {
            Ok((linked, replaced)) => {
                let paths = || added.entries().map(|entry| entry.map(|entry| entry.path));
                let settle = |progress: &Progress| artifact.settle(store, paths, lease, progress);
                if replaced != base
                    && let Err(error) = settle(self.progress)
                {
                    intent.leave();
                    return Err(error);
                }
                if !intent.done() {
                    settle(&Progress::default())?;
                }
                Ok(linked)
            }
            Err(error) => {
                let is_cancelled = error.kind == Kind::Cancelled;
                let progress = if is_cancelled { Progress::of_last_words() } else { Progress::default() };
                match artifact.put_back(store, &intent, |_| Ok(true), lease, &progress) {
                    Ok(()) => drop(intent.done()),
                    Err(_) => intent.leave(),
                }
                Err(error)
            }
        }
    }

    /// Puts every object at its path.
    fn link(&self, added: &EntryList, lease: &Lease) -> Result<Linked> {
        let root = self.artifact.root();
        let mut made = String::new();
        // Bytes of all files, and of those that are copied in any case.
        let (mut bytes, mut executable_bytes) = (0, 0);
        for entry in added.entries() {
            self.progress.check()?;
            let Entry { path, kind } = entry?;
            if let EntryKind::File { size, executable, .. } = kind {
                bytes += size;
                executable_bytes += if executable { size } else { 0 };
            }
            let directory = match kind {
                EntryKind::Directory => Some(path.as_str()),
                _ => path.rsplit_once('/').map(|(parent, _)| parent),
            };
            if let Some(directory) = directory {
                make_dirs(root, directory, &mut made)?;
            }
        }
        let linker = Linker::new(self.store, root, Some(RESERVED))?;
        let (announced, copied) = (AtomicU64::new(0), AtomicU64::new(0));
        let copied = |count| {
            // An object with too many names is copied too, which nobody can foresee.
            let done = copied.fetch_add(count, Relaxed) + count;
            let all = if linker.copies_all() { bytes } else { executable_bytes }.max(done);
            let more = all.saturating_sub(announced.fetch_max(all, Relaxed));
            self.progress.total_bytes.fetch_add(more, Relaxed);
            self.progress.bytes.fetch_add(count, Relaxed);
            self.progress.check()
        };
        // A contiguous part of the files for each worker: two that link into one directory wait for each other.
        let parts = if added.len() <= 16 { 1 } else { self.threads };
        parallel::each(
            parts,
            parts,
            || Ok(()),
            |(), part| {
                for entry in added.part(part, parts) {
                    self.progress.check()?;
                    lease.renew();
                    let Entry { path, kind } = entry?;
                    if let EntryKind::File { size, digest, executable } = kind {
                        linker.link(digest, size, executable, path, copied)?;
                    }
                }
                Ok(())
            },
        )?;
        Ok(linker.linked())
    }
}

/// Adds a reference as `obj_path`; nothing is fetched.
pub fn reference(artifact: &ArtifactDir, obj_path: &str, reference: Reference, progress: &Progress) -> Result<Summary> {
    let entry = Entry { path: obj_path.to_owned(), kind: EntryKind::Reference(Box::new(reference)) };
    artifact.commit(|| std::iter::once(Ok(entry.clone())), progress)?;
    Ok(Summary { reserved_on_windows: u64::from(names::is_reserved_on_windows(obj_path)), ..Summary::default() })
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
    listing: &'t Listing,
    /// Path in the artifact of the tree, or of its only file.
    obj_path: &'t str,
    is_file: bool,
}

impl Plan<'_> {
    /// Path in the artifact of what has a path in the tree.
    fn target(&self, path: &str) -> String {
        if self.is_file { self.obj_path.to_owned() } else { join(self.obj_path, path) }
    }

    /// The entries before their objects are known, sorted by their paths.
    fn entries(&self) -> impl Iterator<Item = Result<Entry>> {
        let unknown = EntryKind::File { size: 0, digest: Digest([0; 32]), executable: false };
        let entry = move |row: Row| {
            let kind = if row.is_directory() { EntryKind::Directory } else { unknown.clone() };
            Entry { path: self.target(&row.path), kind }
        };
        // The root itself is no entry.
        let entries = self.listing.rows().map(move |row| row.map(&entry));
        entries.filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.path.is_empty()))
    }

    /// The entry of a file, or of an empty directory that is not the artifact's own.
    fn entry(&self, tree: &Tree, index: usize, objects: &Objects) -> Option<Entry> {
        let path = self.target(&tree.path(index));
        let kind = match tree.is_directory(index) {
            true => EntryKind::Directory,
            false => EntryKind::File {
                size: objects.size_bytes(tree, index),
                digest: objects.digest(index),
                executable: objects.is_executable(tree, index),
            },
        };
        (!path.is_empty()).then_some(Entry { path, kind })
    }
}

/// Makes the directories of `path` below `root`, refusing symbolic links on the way. Those of `made`, which the last call
/// has made, are there; it becomes `path`.
pub(crate) fn make_dirs(root: &Path, path: &str, made: &mut String) -> Result<()> {
    let there = shared_bytes(made, path);
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for part in ends.filter(|&end| end > there).map(|end| &path[..end]) {
        let directory = root.join(part);
        match fs::create_dir(&directory) {
            Ok(()) => {}
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
    path.clone_into(made);
    Ok(())
}

/// Bytes of the directories that two paths share.
fn shared_bytes(one: &str, other: &str) -> usize {
    let shared = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
    let ends_there = |path: &str| path.as_bytes().get(shared).is_none_or(|&byte| byte == b'/');
    if ends_there(one) && ends_there(other) {
        return shared;
    }
    one.as_bytes()[..shared].iter().rposition(|&byte| byte == b'/').unwrap_or(0)
}
