//! An artifact's directory: the user's files, and `.artifact/` with what we know of them.
//!
//! ```text
//! <artifact>/a/1.png …                 the files, at the paths of the manifest's entries
//! <artifact>/.artifact/
//!   manifest-0000000012                the manifest; the highest number counts
//!   intent-… undo-…                    what an add is about to make and replace: see [`crate::intent`]
//! ```
//!
//! **Commit** is compare-and-swap without locks: the next manifest is renamed to the next number without
//! replacing. Whoever finds the number taken, or a higher one present, reads again and repeats its change on
//! the newer manifest, so two processes never lose each other's entries.
//!
//! **Power cut**: the manifest's bytes are on the disk before the manifest has its name, and before the one that it replaces
//! has lost its own. So one of them is there whole.
//!
//! **Crash**: an add names the paths it links in an intent first. A leftover intent whose process is gone makes
//! the next add, load or `gc` remove what the add had made and put the entries back to what the manifest says.

use std::{
    fs::{self, File, Metadata},
    io::{self, BufWriter, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::{
    Error, Kind, Result,
    add::make_dirs,
    cancel::Progress,
    ingest::hash_file,
    intent::Intent,
    manifest::{Change, Entry, EntryKind, Manifest},
    store::{Store, leases::Lease, link::Linker, rename_noreplace, temp_name, write_atomic, write_out},
};

/// The reserved directory.
pub const RESERVED: &str = ".artifact";

/// In the reserved directory: name, labels, description and the like, for the caller to write.
pub const METADATA: &str = "metadata.json";

/// The highest number of a manifest: ten digits.
const LAST_GENERATION: u64 = 9_999_999_999;

/// An artifact's directory that has been created.
#[derive(Clone, Debug)]
pub struct ArtifactDir {
    root: PathBuf,
}

impl ArtifactDir {
    /// Makes the directory, which may exist, and an empty manifest, which must not.
    pub fn create(root: &Path) -> Result<Self> {
        Self::create_with(root, &Manifest::default(), &Progress::default())
    }

    /// The same with a first manifest of the caller's.
    pub(crate) fn create_with(root: &Path, manifest: &Manifest<'_>, progress: &Progress) -> Result<Self> {
        let artifact = Self { root: root.into() };
        let inner = artifact.inner();
        fs::create_dir_all(&inner).map_err(|e| Error::io("create", &inner, e))?;
        if artifact.generation()?.is_some() {
            return Err(Error::new(Kind::Conflict, format!("{} is an artifact already", root.display())));
        }
        let change = Change::new(manifest, std::iter::empty, progress)?;
        let write = || artifact.write_generation(1, |out| change.write(out));
        while !write().map_err(|error| progress.check().err().unwrap_or(error))? && artifact.generation()?.is_none() {}
        Ok(artifact)
    }

    /// Opens an artifact's directory; `NotFound` if it is none.
    pub fn open(root: &Path) -> Result<Self> {
        let artifact = Self { root: root.into() };
        match artifact.generation()? {
            Some(_) => Ok(artifact),
            None => Err(Error::new(Kind::NotFound, format!("{} is not an artifact", root.display()))),
        }
    }

    /// One that may not have been created yet.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `.artifact/`, also where temporary names for linking go.
    pub fn inner(&self) -> PathBuf {
        self.root.join(RESERVED)
    }

    /// Replaces the metadata file.
    pub fn write_metadata(&self, text: &[u8]) -> Result<()> {
        write_atomic(&self.inner().join(METADATA), text)
    }

    fn manifest_path(&self, generation: u64) -> PathBuf {
        self.inner().join(format!("manifest-{generation:010}"))
    }

    /// Numbers of the manifests that are there; more than one only while a commit runs.
    fn generations(&self) -> Result<Vec<u64>> {
        let inner = self.inner();
        let entries = match fs::read_dir(&inner) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::io("list", &inner, error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| Error::io("list", &inner, e))?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("manifest-"));
            let digits = digits.filter(|text| text.len() == 10 && text.bytes().all(|digit| digit.is_ascii_digit()));
            numbers.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    fn generation(&self) -> Result<Option<u64>> {
        Ok(self.generations()?.into_iter().max())
    }

    /// The manifest and its number.
    pub fn manifest(&self) -> Result<(u64, Manifest<'static>)> {
        self.manifest_unless_cancelled(&Progress::default())
    }

    /// The same, given up when `progress` is cancelled: checking a large one takes long.
    pub fn manifest_unless_cancelled(&self, progress: &Progress) -> Result<(u64, Manifest<'static>)> {
        for _ in 0..100 {
            let Some(generation) = self.generation()? else { break };
            let path = self.manifest_path(generation);
            match File::open(&path) {
                Ok(file) => {
                    let manifest = Manifest::of_file(file, progress).map_err(|error| Error {
                        message: format!("{}: {}", path.display(), error.message),
                        hint: error.hint.or_else(|| (error.kind == Kind::Integrity).then(|| self.way_out())),
                        ..error
                    })?;
                    return Ok((generation, manifest));
                }
                // Replaced by a newer one between listing and opening.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path, error)),
            }
        }
        Err(match self.generation()? {
            None => Error::new(Kind::NotFound, format!("{} is not an artifact", self.root.display())),
            Some(_) => self.busy(),
        })
    }

    /// The manifest that counts, for messages; the directory itself if there is none.
    pub(crate) fn newest_path(&self) -> PathBuf {
        self.generation().ok().flatten().map_or_else(|| self.root.clone(), |generation| self.manifest_path(generation))
    }

    /// Without its manifest.
    fn way_out(&self) -> String {
        let (inner, root) = (self.inner(), self.root.display());
        format!("its files are still there: remove {} and add what is in {root} to a new artifact", inner.display())
    }

    fn busy(&self) -> Error {
        let message = format!("{} is changed by other processes without a pause", self.root.display());
        Error::new(Kind::Conflict, message).hint("try again")
    }

    /// Writes a manifest under a number that must be free; `false` if somebody else took it or a higher one.
    fn write_generation(
        &self,
        generation: u64,
        write: impl Fn(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<bool> {
        let path = self.manifest_path(generation);
        let temp = self.inner().join(temp_name());
        let written = write_buffered(&temp, write).and_then(|file| write_out(&file));
        let renamed = written.and_then(|()| rename_noreplace(rustix::fs::CWD, &temp, &path).map_err(Into::into));
        if let Err(error) = renamed {
            let _ = fs::remove_file(&temp);
            let taken = error.raw_os_error() == Some(Errno::EXIST.raw_os_error());
            // A `gc` without a grace period took the temporary file for a leftover.
            let collected = error.kind() == ErrorKind::NotFound && self.inner().is_dir();
            return if taken || collected { Ok(false) } else { Err(Error::io("write", &path, error)) };
        }
        // If the number was free because its manifest had been superseded and removed, or if that cannot be
        // known, take ours back.
        let newest = self.generation();
        if matches!(newest, Ok(newest) if newest == Some(generation)) {
            return Ok(true);
        }
        let _ = fs::remove_file(&path);
        newest.map(|_| false)
    }

    /// Adds entries, sorted by their paths, to the newest manifest until that is committed, by the rules of [`Change`];
    /// answers the number of the manifest that they were added to.
    pub fn commit<I: Iterator<Item = Result<Entry>>>(&self, added: impl Fn() -> I, progress: &Progress) -> Result<u64> {
        for _ in 0..1000 {
            let (generation, manifest) = self.manifest_unless_cancelled(progress)?;
            if generation == LAST_GENERATION {
                return Err(Error::integrity(format!(
                    "{} is the last manifest",
                    self.manifest_path(generation).display()
                )));
            }
            let change = Change::new(&manifest, &added, progress)?;
            let written = self.write_generation(generation + 1, |out| change.write(out));
            if written.map_err(|error| progress.check().err().unwrap_or(error))? {
                // It is committed: what cannot be listed now is removed after the next commit.
                for old in self.generations().unwrap_or_default().into_iter().filter(|&old| old <= generation) {
                    let _ = fs::remove_file(self.manifest_path(old));
                }
                return Ok(generation);
            }
        }
        Err(self.busy())
    }

    /// Undoes what adds had linked that died, or had no time for it: afterwards the files are what the manifest says.
    pub fn recover(&self, store: &Store, progress: &Progress) -> Result<()> {
        let inner = self.inner();
        let entries = fs::read_dir(&inner).map_err(|e| Error::io("list", &inner, e))?;
        for entry in entries.flatten() {
            let Some((intent, ended)) = Intent::left(&entry.path())? else { continue };
            let changed = |metadata: Metadata| (metadata.ctime(), metadata.ctime_nsec());
            let ended = ended.map(changed);
            // A link has another name in the store. A copy may be the user's own, who has put it there since.
            let is_ours = |path: &Path| match fs::symlink_metadata(path) {
                Ok(found) if found.nlink() > 1 => Ok(true),
                Ok(found) if found.is_file() => match ended {
                    Some(ended) => Ok(changed(found) <= ended),
                    None => match hash_file(path, 1, progress) {
                        Ok(digest) => store.usable_unless_cancelled(digest, found.len(), progress),
                        Err(error) if error.kind == Kind::Cancelled => Err(error),
                        // What cannot be read, or is gone, would keep the rest from being undone for ever.
                        Err(_) => Ok(false),
                    },
                },
                _ => Ok(false),
            };
            let lease = Lease::take(store)?;
            self.put_back(store, &intent, is_ours, &lease, progress)?;
            // Not done if another process, which undoes it too, was first: that is as good.
            intent.done();
        }
        Ok(())
    }

    /// Removes what an add has made, if `is_ours` agrees, and puts back what it has replaced.
    pub(crate) fn put_back(
        &self,
        store: &Store,
        intent: &Intent,
        is_ours: impl Fn(&Path) -> Result<bool>,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<()> {
        let (_, manifest) = self.manifest_unless_cancelled(progress)?;
        intent.remove_created(self, manifest.entries(), is_ours, lease, progress)?;
        self.disturb_others(intent, progress)?;
        self.settle(store, || intent.paths(), lease, progress)
    }

    /// Makes adds in flight put their files there once more, of which some may just have been removed: they find another
    /// manifest than they began with.
    fn disturb_others(&self, intent: &Intent, progress: &Progress) -> Result<()> {
        let inner = self.inner();
        for entry in fs::read_dir(&inner).map_err(|e| Error::io("list", &inner, e))? {
            let entry = entry.map_err(|e| Error::io("list", &inner, e))?;
            if entry.file_name().as_encoded_bytes().starts_with(b"intent-") && entry.path() != intent.path() {
                return self.commit(std::iter::empty, progress).map(drop);
            }
        }
        Ok(())
    }

    /// Makes the files at `paths`, which are sorted, what the newest manifest says, whatever other processes do meanwhile.
    pub fn settle<I: Iterator<Item = Result<String>>>(
        &self,
        store: &Store,
        paths: impl Fn() -> I,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<()> {
        let linker = Linker::of_what_was_there(store, &self.root, Some(RESERVED))?;
        loop {
            let (generation, manifest) = self.manifest_unless_cancelled(progress)?;
            let (mut paths, mut made) = (paths(), String::new());
            let mut wanted = paths.next().transpose()?;
            for entry in manifest.entries() {
                progress.check()?;
                lease.renew();
                let Entry { path, kind } = entry?;
                // A file without an entry is perhaps the user's own: it stays.
                while wanted.as_ref().is_some_and(|wanted| *wanted < path) {
                    wanted = paths.next().transpose()?;
                }
                let Some(found) = &wanted else { break };
                if *found == path
                    && let EntryKind::File { size, digest, executable } = kind
                    && path.rsplit_once('/').is_none_or(|(parent, _)| make_dirs(&self.root, parent, &mut made).is_ok())
                    && store.usable_unless_cancelled(digest, size, progress)?
                    // A copy would need room that there is perhaps no more.
                    && !linker.is_linked(digest, executable, &path)
                {
                    linker.link(digest, size, executable, &path, |_| progress.check())?;
                }
            }
            if self.generation()? == Some(generation) {
                return Ok(());
            }
        }
    }

    /// Whether a directory and all on the way to it are there, and none is a symbolic link to somewhere else.
    pub(crate) fn holds(&self, directory: &str) -> bool {
        let mut ends = directory.match_indices('/').map(|(at, _)| at).chain([directory.len()]);
        ends.all(|end| fs::symlink_metadata(self.root.join(&directory[..end])).is_ok_and(|found| found.is_dir()))
    }
}

/// Creates a file that must not be there, in blocks that do not grow with it.
pub(crate) fn write_buffered(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<File> {
    let mut out = BufWriter::with_capacity(1 << 14, File::create_new(path)?);
    write(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)
}
