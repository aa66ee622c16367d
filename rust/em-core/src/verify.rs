//! Hashing what is there and reporting what is wrong.

use std::{
    fs::{self, File, Metadata},
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::atomic::Ordering::Relaxed,
};

use rustix::fs::OFlags;

use crate::{
    Digest, Error, Kind, Result,
    artifact::ArtifactDir,
    cancel::Progress,
    chunk::table::TableReader,
    store::{
        Store,
        objects::{hash_reader, relative_path},
    },
};

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It should be there and is not.
    Missing,
    /// Its bytes are not those of its digest.
    Damaged,
    /// It is not a file of the store: left by a crash, or put there by somebody.
    Stray,
}

impl ProblemKind {
    /// The name in JSON and Python.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Stray => "stray",
        }
    }
}

/// One file that is not as it should be.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// The file.
    pub path: String,
}

/// What a verification read and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Objects hashed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong; empty if nothing is.
    pub problems: Vec<Problem>,
}

impl Report {
    fn problem(&mut self, kind: ProblemKind, path: &Path) {
        self.problems.push(Problem { kind, path: path.display().to_string() });
    }

    /// Hashes one file; every byte is read.
    fn hash(&mut self, path: &Path, digest: Digest, progress: &Progress) -> Result<()> {
        let Some((file, metadata)) = open(path)? else {
            self.problem(ProblemKind::Missing, path);
            return Ok(());
        };
        if !metadata.is_file() {
            self.problem(ProblemKind::Damaged, path);
            return Ok(());
        }
        let size = metadata.len();
        let hashed = hash_reader(progress.reader(&file));
        if hashed.map_err(|e| progress.read_error(e, |e| Error::io("read", path, e)))? != digest {
            self.problem(ProblemKind::Damaged, path);
        }
        self.objects += 1;
        self.bytes += size;
        progress.files.fetch_add(1, Relaxed);
        progress.bytes.fetch_add(size, Relaxed);
        Ok(())
    }

    /// Reads an object's chunk table, which need not be there.
    fn table(&mut self, store: &Store, digest: Digest) -> Result<()> {
        let path = store.root().join("chunks").join(relative_path(digest));
        let Some((file, metadata)) = open(&path)? else { return Ok(()) };
        match TableReader::check(&file) {
            Ok(_) => {}
            Err(error) if error.kind == Kind::Store && metadata.is_file() => return Err(error),
            Err(_) => self.problem(ProblemKind::Damaged, &path),
        }
        Ok(())
    }

    /// Calls `each` for every digest that names a file below `directory`; what has another name is a stray.
    fn walk(
        &mut self,
        directory: &Path,
        progress: &Progress,
        mut each: impl FnMut(&mut Self, &Path, Digest) -> Result<()>,
    ) -> Result<()> {
        for fan in sorted(directory)? {
            if !fan.is_dir() {
                self.problem(ProblemKind::Stray, &fan);
                continue;
            }
            for path in sorted(&fan)? {
                let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                progress.check()?;
                match (name(&fan) + &name(&path)).parse() {
                    Ok(digest) => each(self, &path, digest)?,
                    Err(_) => self.problem(ProblemKind::Stray, &path),
                }
            }
        }
        Ok(())
    }
}

/// Hashes every object of the store and reads every chunk table. Changes nothing.
pub fn store(store: &Store, progress: &Progress) -> Result<Report> {
    let mut report = Report::default();
    report.walk(&store.root().join("objects"), progress, |report, path, digest| report.hash(path, digest, progress))?;
    report.walk(&store.root().join("chunks"), progress, |report, _, digest| report.table(store, digest))?;
    Ok(report)
}

/// Hashes every file of an artifact and its object, and reads the object's chunk table. Changes nothing.
pub fn artifact(store: &Store, artifact: &ArtifactDir, progress: &Progress) -> Result<Report> {
    let mut report = Report::default();
    let (_, manifest) = artifact.manifest_unless_cancelled(progress)?;
    for file in manifest.files() {
        progress.check()?;
        let (path, _, digest, _) = file?;
        let (path, object) = (artifact.root().join(path), store.object_path(digest));
        if !same_file(&path, &object) {
            report.hash(&path, digest, progress)?;
        }
        report.hash(&object, digest, progress)?;
        report.table(store, digest)?;
    }
    Ok(report)
}

/// Opens what is at a path, which may be no file: a pipe is not waited for. `None` if nothing is there.
fn open(path: &Path) -> Result<Option<(File, Metadata)>> {
    let opened = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    match opened.and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::symlink_metadata(a), fs::symlink_metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

pub(crate) fn sorted(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let listed: std::io::Result<Vec<_>> =
        fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths = listed.map_err(|e| Error::io("list", directory, e))?;
    paths.sort();
    Ok(paths)
}
