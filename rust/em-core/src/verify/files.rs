//! Files of an artifact.

use std::{
    ffi::OsStr,
    fs::{self, DirEntry, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::{Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use rustix::fs::OFlags;

use super::{Check, Finding, Named, Object, ProblemKind, Thing, lock, objects};
use crate::{
    Digest, Error, Result,
    artifact::{ArtifactDir, RESERVED},
    intent::Intent,
    manifest::{Entry, EntryKind, Manifest},
    parallel,
    spool::{Pile, array},
    tally::Tally,
};

/// Files that a worker takes at a time.
const TAKEN_FILES: usize = 64;

/// What a manifest says of a file.
struct Wanted {
    path: String,
    size: u64,
    digest: Digest,
}

impl Check<'_> {
    /// The objects that a manifest names. Empty directories that are not there are found on the way.
    pub(super) fn entries(&self, artifact: &ArtifactDir, manifest: &Manifest<'_>) -> Result<Named> {
        let room = self.verify.store.room();
        let mut named = Pile::new(room);
        for entry in manifest.entries() {
            self.verify.progress.check()?;
            let Entry { path, kind } = entry?;
            let path = artifact.root().join(path);
            match kind {
                EntryKind::File { size, digest, .. } => named.push(Object { digest, bytes: size }, 0)?,
                EntryKind::Directory if !path.is_dir() => {
                    let reason = "an empty directory".to_owned();
                    self.find(Finding::new(ProblemKind::Missing, Thing::File, &path, 0, reason))?;
                }
                _ => {}
            }
        }
        Named::of(named, room, self.verify.progress)
    }

    /// Files that are not their objects themselves.
    pub(super) fn files(&self, artifact: &ArtifactDir, manifest: &Manifest<'_>) -> Result<()> {
        let files = Mutex::new(manifest.files());
        parallel::each(
            self.verify.threads,
            (manifest.len() as usize).div_ceil(TAKEN_FILES),
            || Ok(Vec::with_capacity(TAKEN_FILES)),
            |taken, _| {
                taken.extend(lock(&files).by_ref().take(TAKEN_FILES));
                for file in taken.drain(..) {
                    let (path, size, digest, _) = file?;
                    self.file(artifact.root(), &Wanted { path, size, digest }, 1)?;
                }
                Ok(())
            },
        )?;
        drop(files.into_inner().unwrap_or_else(PoisonError::into_inner));
        let threads = self.verify.threads;
        if threads > 1 {
            for file in manifest.files() {
                self.verify.progress.check()?;
                let (path, size, digest, _) = file?;
                if size >= objects::LARGE_BYTES {
                    self.file(artifact.root(), &Wanted { path, size, digest }, threads)?;
                }
            }
        }
        Ok(())
    }

    /// One file. A large one is only looked at when all `threads` are given.
    fn file(&self, root: &Path, wanted: &Wanted, threads: usize) -> Result<()> {
        self.verify.progress.check()?;
        if threads == 1 && self.verify.threads > 1 && wanted.size >= objects::LARGE_BYTES {
            return Ok(());
        }
        let path = root.join(&wanted.path);
        let found = |kind, bytes, reason| self.find(Finding::new(kind, Thing::File, &path, bytes, reason));
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return found(ProblemKind::Missing, wanted.size, String::new());
            }
            Err(error) => return self.unreadable(Thing::File, &path, Error::io("stat", &path, error)),
        };
        if !metadata.is_file() {
            return found(ProblemKind::Damaged, 0, objects::NO_FILE.to_owned());
        }
        let size = metadata.len();
        if size != wanted.size {
            let reason = format!("{size} bytes, of which the manifest says {}", wanted.size);
            return found(ProblemKind::Damaged, size, reason);
        }
        let object = fs::symlink_metadata(self.verify.store.object_path(wanted.digest));
        if object.is_ok_and(|object| (object.dev(), object.ino()) == (metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        self.verify.progress.total_files.fetch_add(1, Relaxed);
        self.verify.progress.total_bytes.fetch_add(size, Relaxed);
        // What is there now may be a pipe, which is not waited for.
        let file = match File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path) {
            Ok(file) => file,
            Err(error) => return self.unreadable(Thing::File, &path, Error::io("open", &path, error)),
        };
        match self.hash(Thing::File, &path, &file, size, threads, |_, _| Ok(()))? {
            Some(digest) if digest != wanted.digest => {
                found(ProblemKind::Damaged, size, format!("its bytes are not those of object {}", wanted.digest))
            }
            _ => Ok(()),
        }
    }

    /// Files in an artifact's directory that no entry names.
    pub(super) fn strays(&self, artifact: &ArtifactDir) -> Result<()> {
        let progress = self.verify.progress;
        let (mut there, mut names) = (Tally::new(self.verify.store.room()), Tally::new(self.verify.store.room()));
        self.walk(artifact.root(), true, &mut |path, _| there.add(Digest::of(path), 0))?;
        // Read behind the walk, and intents first: what an add has linked before then is in one or the other.
        let inner = artifact.inner();
        for entry in fs::read_dir(&inner).map_err(|e| Error::io("list", &inner, e))?.flatten() {
            let Some(intent) = Intent::in_flight(&entry.path()) else { continue };
            for path in intent.paths() {
                progress.check()?;
                names.add(Digest::of(path?.as_bytes()), 0)?;
            }
        }
        let (_, manifest) = artifact.manifest_unless_cancelled(progress)?;
        for file in manifest.files() {
            progress.check()?;
            names.add(Digest::of(file?.0.as_bytes()), 0)?;
        }
        let (there, mut names) = (there.sorted(1, progress)?, names.sorted(1, progress)?);
        let mut strays = Tally::new(self.verify.store.room());
        for name in there.iter() {
            progress.check()?;
            let name = name?;
            if !names.has_half(name.half)? {
                strays.push(name)?;
            }
        }
        if strays.is_empty() {
            return Ok(());
        }
        let mut strays = strays.sorted(1, progress)?;
        self.walk(artifact.root(), false, &mut |path, entry| {
            if !strays.has(Digest::of(path))? {
                return Ok(());
            }
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            let path = artifact.root().join(OsStr::from_bytes(path));
            self.find(Finding::new(
                ProblemKind::Stray,
                Thing::File,
                &path,
                bytes,
                "no entry of the artifact".to_owned(),
            ))
        })
    }

    /// Gives all that is no directory below `root`, but for our own there, to `each` with its path. What cannot be listed is a
    /// finding if that is `told`.
    fn walk(&self, root: &Path, told: bool, each: &mut dyn FnMut(&[u8], &DirEntry) -> Result<()>) -> Result<()> {
        let room = self.verify.store.room();
        let failed = |error| room.error(error);
        // Directories that wait to be listed, each with its length before it.
        let (mut waiting, mut next) = (room.spool(), 0);
        let put = |waiting: &mut dyn Write, directory: &[u8]| -> io::Result<()> {
            waiting.write_all(&(directory.len() as u32).to_le_bytes())?;
            waiting.write_all(directory)
        };
        put(&mut waiting, b"").map_err(failed)?;
        while next < waiting.len() {
            let mut reader = waiting.reader(next);
            let mut directory = vec![0; u32::from_le_bytes(array(&mut reader).map_err(failed)?) as usize];
            reader.read_exact(&mut directory).map_err(failed)?;
            next += 4 + directory.len() as u64;
            let path = root.join(OsStr::from_bytes(&directory));
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if told => {
                    self.unreadable(Thing::File, &path, Error::io("list", &path, error))?;
                    continue;
                }
                Err(_) => continue,
            };
            for entry in entries {
                self.verify.progress.check()?;
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) if told => {
                        self.unreadable(Thing::File, &path, Error::io("list", &path, error))?;
                        break;
                    }
                    Err(_) => break,
                };
                let name = entry.file_name();
                if directory.is_empty() && name == RESERVED {
                    continue;
                }
                let mut below = directory.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.as_bytes());
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    put(&mut waiting, &below).map_err(failed)?;
                } else if !(kind.is_symlink() && entry.path().is_dir()) {
                    // A link to a directory in which entries are is not looked behind.
                    each(&below, &entry)?;
                }
            }
        }
        Ok(())
    }
}
