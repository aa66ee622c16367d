//! Reclaiming objects that nothing reaches.
//!
//! ```text
//! mark ─ count ─ condemn (rename to trash/gc-…) ─ list leases ─ mark again ─ restore what is live ─ delete after the grace
//! ```
//!
//! An add holds a lease from before its first look into the store until its manifest is committed. So after the
//! second mark a condemned object is in no manifest, and no add that can have seen it is in flight: if one is,
//! the whole batch is restored. Adds that begin later find it missing and store it anew. The grace period covers
//! network file systems, where a lease or a manifest becomes visible to another host only after a while.

use std::{
    fs::{self, Metadata},
    io::{BufReader, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;

use crate::{
    Digest, Error, Kind, Result,
    artifact::ArtifactDir,
    cancel::Progress,
    materialize,
    spool::{Room, Spool, array},
    store::{Store, is_temp, leases, list, rename_noreplace, temp_name, write_atomic},
    tally::{Sorted, Tally},
};

/// Remembers an artifact directory that lies outside `artifacts/` beside the store, or on another file system than that.
pub fn register_root(store: &Store, root: &Path) -> Result<()> {
    let path = match (root.canonicalize(), root.parent(), root.file_name()) {
        // Not made yet.
        (Err(error), Some(parent), Some(name)) if error.kind() == ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        (path, ..) => path,
    };
    let path = path.map_err(|e| Error::io("open", root, e))?;
    let (parent, mounted) = (path.parent().unwrap_or(&path), mount_point_of_artifact(&path)?);
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if sibling(store).canonicalize().is_ok_and(|sibling| sibling == parent)
        && device(parent) == device(store.root())
        && mounted != path
    {
        return Ok(());
    }
    let text = path.to_str().ok_or_else(|| Error::invalid(format!("{} is not UTF-8", path.display())))?;
    let root = store.root().join("roots").join(Digest::of(text.as_bytes()).to_string());
    // The mount point is a part of the path, so it is UTF-8.
    let record = format!("{text}\0{}", mounted.display());
    // One that has other bytes was perhaps written before these were brought to the disk first, and lost them with the power.
    if fs::read(&root).is_ok_and(|known| known == record.as_bytes()) {
        return Ok(());
    }
    write_atomic(&root, record.as_bytes())
}

/// The artifact's directory of a record in `roots/`, and its mount point, which an older version did not write.
pub(crate) fn root_of(record: &str) -> (&str, Option<&str>) {
    record.split_once('\0').map_or((record, None), |(path, mounted)| (path, Some(mounted)))
}

/// Where the file system of an absolute path without links is mounted.
fn mount_point(path: &Path) -> std::io::Result<&Path> {
    let device = fs::metadata(path)?.dev();
    let is_inside = |above: &&Path| fs::metadata(above).is_ok_and(|metadata| metadata.dev() == device);
    Ok(path.ancestors().take_while(is_inside).last().unwrap_or(path))
}

/// Where the file system of an artifact's directory is mounted, or of the directory above it if that is not there.
fn mount_point_of_artifact(path: &Path) -> Result<&Path> {
    let place = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    mount_point(place).map_err(|e| Error::io("look at", place, e))
}

/// `artifacts/` beside the store.
fn sibling(store: &Store) -> PathBuf {
    let root = store.root();
    match root.parent() {
        // The shorter path is for messages.
        Some(parent) if root.file_name().is_some() && !root.is_symlink() => parent.join("artifacts"),
        _ => root.join("../artifacts"),
    }
}

/// What a run of `gc` did, or would do. A part of an object that an interrupted load has left counts as one, with its
/// bytes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Objects that nothing reaches.
    pub unreachable_objects: u64,
    /// Their bytes.
    pub unreachable_bytes: u64,
    /// Bytes on the disk, in whole blocks, that deleting them and their chunk tables frees; an object with a name
    /// elsewhere frees none.
    pub reclaimable_bytes: u64,
    /// Objects deleted.
    pub deleted_objects: u64,
    /// Bytes on the disk that this freed, counted in the same way.
    pub freed_bytes: u64,
}

/// Condemns objects that nothing reaches, and deletes those condemned for at least `grace`.
/// With `dry_run` nothing is changed.
pub fn gc(store: &Store, grace: Duration, dry_run: bool, progress: &Progress) -> Result<Reclaimed> {
    if !dry_run {
        recover(store, progress)?;
    }
    let plan = plan(store, progress)?;
    if dry_run { Ok(plan.counts) } else { reclaim(store, &plan, grace, progress) }
}

/// What [`reclaim`] would do, found by [`plan`].
#[derive(Debug)]
pub struct Plan {
    began: SystemTime,
    unreachable: Digests,
    /// Nothing is deleted yet.
    pub counts: Reclaimed,
}

/// Finds the objects that nothing reaches, and changes nothing. What an interrupted add linked keeps its objects'
/// blocks: to be exact, [`recover`] first.
pub fn plan(store: &Store, progress: &Progress) -> Result<Plan> {
    let began = file_system_time(store)?;
    let mut live = mark(store, progress)?;
    let unreachable = unreachable(store, &mut live, progress)?;
    let mut counts = Reclaimed::default();
    for digest in unreachable.iter() {
        step(progress)?;
        let digest = digest?;
        count(store, &mut counts, digest, &store.object_path(digest))?;
    }
    for (batch, objects) in batches(store, progress)? {
        for digest in objects.iter() {
            step(progress)?;
            let digest = digest?;
            // One that is reached is put back: a `gc` ended between condemning and looking again.
            if !live.has(digest)? {
                count(store, &mut counts, digest, &batch.join(digest.to_string()))?;
            }
        }
    }
    collect_parts(store, &mut counts, |_| false)?;
    Ok(Plan { began, unreachable, counts })
}

/// Counts an object that nothing reaches, and tells what deleting it frees; `None` if it is gone.
fn count(store: &Store, counts: &mut Reclaimed, digest: Digest, path: &Path) -> Result<Option<Blocks>> {
    let Some(metadata) = found(fs::symlink_metadata(path)).map_err(|e| Error::io("stat", path, e))? else {
        return Ok(None);
    };
    let table = fs::symlink_metadata(store.table_path(digest)).ok();
    let blocks = Blocks { object: freed(&metadata), table: table.as_ref().map_or(0, freed) };
    counts.unreachable_objects += 1;
    counts.unreachable_bytes += metadata.len();
    counts.reclaimable_bytes += blocks.object + blocks.table;
    Ok(Some(blocks))
}

/// One more entry or object was looked at.
fn step(progress: &Progress) -> Result<()> {
    progress.files.fetch_add(1, Relaxed);
    progress.check()
}

/// Condemns what a plan has found, and deletes what was condemned at least `grace` ago, unless something reaches it by
/// now. Everything is judged by the time at which the plan was begun, so a plan may be old.
pub fn reclaim(store: &Store, plan: &Plan, grace: Duration, progress: &Progress) -> Result<Reclaimed> {
    let (now, condemned) = (plan.began, &plan.unreachable);
    let mut done = Reclaimed::default();
    let leased = leases::any(store, now)?;
    if !leased {
        // First: condemning renews the time of a name that a crash has left of an object, and that name keeps its bytes.
        remove_leftovers(store, &artifacts(store)?, now, grace)?;
    }
    if !condemned.is_empty() && !leased {
        let batch = store.root().join("trash").join(format!("gc-{}", &temp_name()[5..]));
        fs::create_dir(&batch).map_err(|e| Error::io("create", &batch, e))?;
        for digest in condemned.iter() {
            step(progress)?;
            let digest = digest?;
            let (path, target) = (store.object_path(digest), batch.join(digest.to_string()));
            found(fs::rename(&path, &target)).map_err(|e| Error::io("condemn", &path, e))?;
        }
    }
    // Listed first: another `gc` may condemn more meanwhile, which the leases and manifests below say nothing of.
    let batches = batches(store, progress)?;
    let leased = leases::any(store, now)?;
    let mut live = mark(store, progress)?;
    for (batch, objects) in batches {
        let condemned_at = found(fs::metadata(&batch).and_then(|m| m.modified()));
        let Some(condemned_at) = condemned_at.map_err(|e| Error::io("stat", &batch, e))? else { continue };
        let due = age(now, condemned_at) >= grace;
        for digest in objects.iter() {
            step(progress)?;
            let digest = digest?;
            let path = batch.join(digest.to_string());
            if live.has(digest)? {
                restore(store, digest, &path)?;
                continue;
            }
            let Some(blocks) = count(store, &mut done, digest, &path)? else { continue };
            if leased {
                restore(store, digest, &path)?;
            } else if due {
                // The table goes before the bytes it describes, unless they have been stored anew.
                if !store.object_path(digest).exists() && remove(&store.table_path(digest))? {
                    done.freed_bytes += blocks.table;
                }
                if remove(&path)? {
                    done.deleted_objects += 1;
                    done.freed_bytes += blocks.object;
                }
            }
        }
        let _ = fs::remove_dir(&batch);
    }
    if sibling(store).is_dir() {
        materialize::remove_leftovers(&sibling(store))?;
    }
    collect_parts(store, &mut done, |metadata| {
        let changed = changed_at(metadata);
        !leased && changed < now && age(now, changed) >= grace
    })?;
    if !leased {
        remove_orphan_tables(store, now, grace, progress)?;
    }
    Ok(done)
}

/// Counts the parts that interrupted loads have left, and removes those that are due.
fn collect_parts(store: &Store, done: &mut Reclaimed, is_due: impl Fn(&Metadata) -> bool) -> Result<()> {
    for (_, name) in store.left_parts() {
        let path = store.parts_path().join(name);
        let Some(metadata) = found(fs::symlink_metadata(&path)).map_err(|e| Error::io("stat", &path, e))? else {
            continue;
        };
        done.unreachable_objects += 1;
        done.unreachable_bytes += metadata.blocks() * 512;
        done.reclaimable_bytes += freed(&metadata);
        if is_due(&metadata) && remove(&path)? {
            done.deleted_objects += 1;
            done.freed_bytes += freed(&metadata);
        }
    }
    Ok(())
}

/// Undoes what adds to the store's artifacts had linked that died, or had no time for it.
pub fn recover(store: &Store, progress: &Progress) -> Result<()> {
    // One that is being loaded under a temporary name is removed whole.
    let known = known_artifacts(store)?.into_iter().filter(|(path, _)| !is_temp(path));
    let mut done = Ok(());
    for (_, artifact) in known {
        let recovered = artifact.and_then(|artifact| match artifact.recover(store, progress) {
            // Deleted by its owner since it was listed.
            Err(error) if error.kind == Kind::NotFound && !artifact.inner().exists() => Ok(()),
            recovered => recovered,
        });
        progress.check()?;
        // One that cannot be put right keeps no other from it.
        done = done.and(recovered);
    }
    done
}

/// Bytes on the disk of an object and of its chunk table.
struct Blocks {
    object: u64,
    table: u64,
}

/// Bytes on the disk that removing one name of a file frees.
fn freed(metadata: &Metadata) -> u64 {
    if metadata.nlink() == 1 { metadata.blocks() * 512 } else { 0 }
}

/// The objects that a manifest names. Two that are equal in the first half of their digests keep each other.
fn mark(store: &Store, progress: &Progress) -> Result<Sorted> {
    let mut live = Tally::new(store.room());
    for artifact in artifacts(store)? {
        let manifest = match artifact.manifest_unless_cancelled(progress) {
            Ok((_, manifest)) => manifest,
            // Deleted by its owner since it was listed.
            Err(error) if error.kind == Kind::NotFound => continue,
            Err(error) if error.kind == Kind::Cancelled => return Err(error),
            Err(error) => {
                let message =
                    format!("{}; so what this artifact needs is not known, and nothing is removed", error.message);
                return Err(Error { message, ..error });
            }
        };
        for file in manifest.files() {
            step(progress)?;
            live.add(file?.2, 0)?;
        }
    }
    live.sorted(1, progress)
}

/// Every artifact that uses the store. It is an error if one may be there and cannot be reached.
fn artifacts(store: &Store) -> Result<Vec<ArtifactDir>> {
    known_artifacts(store)?.into_iter().map(|(_, artifact)| artifact).collect()
}

/// The directory of every artifact that uses the store, or what its root is called, and the artifact, or why it cannot
/// be reached.
pub(crate) fn known_artifacts(store: &Store) -> Result<Vec<(PathBuf, Result<ArtifactDir>)>> {
    let mut known = Vec::new();
    let mut open = |path: PathBuf| match ArtifactDir::open(&path) {
        Err(error) if error.kind == Kind::NotFound => {}
        artifact => known.push((path, artifact)),
    };
    let beside = sibling(store);
    let listed = is_there(&beside).and_then(|is_there| if is_there { list(&beside) } else { Ok(Vec::new()) });
    let mut lost = Vec::new();
    match listed {
        Ok(paths) => {
            for path in paths {
                match is_there(&path) {
                    Ok(true) => open(path),
                    Ok(false) => {}
                    Err(error) => lost.push((path, Err(error))),
                }
            }
        }
        Err(error) => lost.push((beside, Err(error))),
    }
    let beside = sibling(store).canonicalize().ok();
    for root in list(&store.root().join("roots"))?.into_iter().filter(|path| !is_temp(path)) {
        let text = match fs::read_to_string(&root) {
            Ok(text) => text,
            Err(error) => {
                let error = Error::io("read", &root, error);
                lost.push((root, Err(error)));
                continue;
            }
        };
        let (text, mounted) = root_of(&text);
        let path = PathBuf::from(text);
        let as_before =
            mount_point_of_artifact(&path).is_ok_and(|now| mounted.is_none_or(|mounted| now == Path::new(mounted)));
        match is_there(&path) {
            Ok(true) if path.parent() == beside.as_deref() && as_before => {}
            Ok(true) if as_before || ArtifactDir::open(&path).is_ok() => open(path),
            Ok(false) if as_before => {}
            _ => {
                let message = format!("artifact {text:?} cannot be reached, so its objects are not known");
                let hint = format!("mount its file system, or remove {} if it is gone for good", root.display());
                lost.push((root, Err(Error::new(Kind::NotFound, message).hint(hint))));
            }
        }
    }
    known.extend(lost);
    Ok(known)
}

/// Whether something is at a path. Of what a link that leads nowhere has led to, nothing is known.
fn is_there(path: &Path) -> Result<bool> {
    // In this order: what is made in between is not taken for such a link.
    let found = fs::symlink_metadata(path);
    let is_link = found.as_ref().is_ok_and(|metadata| metadata.is_symlink());
    match if is_link { fs::metadata(path) } else { found } {
        Ok(_) => Ok(true),
        Err(error) if !is_link && error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let hint = "mount its file system, or remove it if what it led to is gone for good";
            Err(Error::io("look at", path, error).hint(hint))
        }
    }
}

fn unreachable(store: &Store, live: &mut Sorted, progress: &Progress) -> Result<Digests> {
    let mut found = Digests::new(store.room());
    for fan in list(&store.root().join("objects"))? {
        progress.check()?;
        for path in list(&fan)? {
            step(progress)?;
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Ok(digest) = (name(&fan) + &name(&path)).parse::<Digest>()
                && !live.has(digest)?
            {
                found.push(digest)?;
            }
        }
    }
    Ok(found)
}

/// A directory of condemned objects, and the objects.
type Batch = (PathBuf, Digests);

/// Condemned objects, by batch.
fn batches(store: &Store, progress: &Progress) -> Result<Vec<Batch>> {
    let mut batches = Vec::new();
    for batch in batch_paths(store)? {
        // Another `gc` may be done with it.
        let Ok(entries) = fs::read_dir(&batch) else { continue };
        let mut objects = Digests::new(store.room());
        for digest in entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
            progress.check()?;
            objects.push(digest)?;
        }
        batches.push((batch, objects));
    }
    Ok(batches)
}

/// Whether the object of this digest was condemned, and may be put back.
pub(crate) fn is_condemned(batches: &[PathBuf], digest: &str) -> bool {
    batches.iter().any(|batch| batch.join(digest).exists())
}

/// The directories of condemned objects.
pub(crate) fn batch_paths(store: &Store) -> Result<Vec<PathBuf>> {
    let mut paths = list(&store.root().join("trash"))?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"gc-")));
    Ok(paths)
}

/// Digests in a spool.
#[derive(Debug)]
pub(crate) struct Digests {
    room: Room,
    spool: Spool,
}

impl Digests {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), spool: room.spool() }
    }

    pub(crate) fn push(&mut self, digest: Digest) -> Result<()> {
        self.spool.write_all(&digest.0).map_err(|error| self.room.error(error))
    }

    fn is_empty(&self) -> bool {
        self.spool.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Digest>> {
        let mut reader = BufReader::new(self.spool.reader(0));
        (0..self.spool.len() / 32).map(move |_| array(&mut reader).map(Digest).map_err(|error| self.room.error(error)))
    }
}

/// Back to where it was, unless it has been stored anew. Not by a link: it may have as many as it can.
fn restore(store: &Store, digest: Digest, path: &Path) -> Result<()> {
    match rename_noreplace(rustix::fs::CWD, path, store.object_path(digest)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => remove(path).map(drop),
        // Gone: another `gc` has restored it.
        Err(Errno::NOENT) if !path.exists() => Ok(()),
        Err(error) => Err(Error::io("restore", path, error)),
    }
}

/// The time by the clock that stamps the store's files, which on a network file system is not this host's.
fn file_system_time(store: &Store) -> Result<SystemTime> {
    let path = store.root().join(temp_name());
    let made = fs::File::create_new(&path).and_then(|file| file.metadata());
    let _ = fs::remove_file(&path);
    made.map(|metadata| changed_at(&metadata)).map_err(|e| Error::io("create", &path, e))
}

/// When the inode was last changed: a link and a sealed object have the modification time of their source.
fn changed_at(metadata: &fs::Metadata) -> SystemTime {
    let since = Duration::new(metadata.ctime().unsigned_abs(), metadata.ctime_nsec() as u32);
    UNIX_EPOCH + since
}

/// Removes temporary files of crashes from the store and the artifacts. There was no lease after the time `now`, so
/// an add that wrote one earlier is gone.
fn remove_leftovers(store: &Store, artifacts: &[ArtifactDir], now: SystemTime, grace: Duration) -> Result<()> {
    let mut directories: Vec<PathBuf> = artifacts.iter().map(ArtifactDir::inner).collect();
    directories.extend(["", "leases", "roots"].map(|name| store.root().join(name)));
    for name in ["objects", "chunks"] {
        directories.extend(list(&store.root().join(name))?);
    }
    for directory in directories.iter().filter(|directory| directory.is_dir()) {
        for path in list(directory)?.into_iter().filter(|path| is_temp(path)) {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let changed = changed_at(&metadata);
            if changed < now && age(now, changed) >= grace {
                remove(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes the tables of crashes: a table gets its name before its object. As with temporary files, an add that
/// wrote one before the time `now` is gone; what an add writes meanwhile is put back.
fn remove_orphan_tables(store: &Store, now: SystemTime, grace: Duration, progress: &Progress) -> Result<()> {
    for fan in list(&store.root().join("chunks"))? {
        progress.check()?;
        for path in list(&fan)?.into_iter().filter(|path| !is_temp(path)) {
            let Some(object) = path.strip_prefix(store.root().join("chunks")).ok() else { continue };
            let Ok(table) = fs::symlink_metadata(&path) else { continue };
            let changed = changed_at(&table);
            if changed >= now || age(now, changed) < grace || store.root().join("objects").join(object).exists() {
                continue;
            }
            // Looked for behind the object: another `gc` may condemn it meanwhile. Its table goes when it goes.
            if is_condemned(&batch_paths(store)?, &object.to_string_lossy().replace('/', "")) {
                continue;
            }
            let taken = fan.join(temp_name());
            if found(fs::rename(&path, &taken)).map_err(|e| Error::io("remove", &path, e))?.is_none() {
                continue;
            }
            match fs::symlink_metadata(&taken) {
                Ok(metadata) if metadata.ino() != table.ino() => {
                    let _ = rename_noreplace(rustix::fs::CWD, &taken, &path);
                }
                _ => {}
            }
            remove(&taken)?;
        }
    }
    Ok(())
}

fn age(now: SystemTime, time: SystemTime) -> Duration {
    now.duration_since(time).unwrap_or_default()
}

/// Whether it was there and is removed.
fn remove(path: &Path) -> Result<bool> {
    found(fs::remove_file(path)).map(|removed| removed.is_some()).map_err(|e| Error::io("remove", path, e))
}

/// `None` for what is not there: another `gc` may take everything away first.
fn found<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
