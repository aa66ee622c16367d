//! Hashing what is there and reporting what is wrong. Nothing is changed.
//!
//! ```text
//! store:     manifests ─ objects they name │ objects there ─ hash, chunks ─ chunk tables ─ whose files are wrong?
//! artifact:  manifest ─ its objects ─ hash, chunks ─ its files ─ files that are no entries ─ whose files are wrong?
//! ```
//!
//! A file that cannot be read is a finding, and the rest is verified. What is held does not grow with the store:
//! digests, names and findings are kept in files when they are many.

mod files;
mod findings;
mod objects;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use rustix::io::Errno;

use crate::{
    Digest, Error, Kind, Result,
    artifact::ArtifactDir,
    cancel::Progress,
    gc::{Digests, batch_paths, known_artifacts, root_of},
    ingest::hash_blocks,
    spool::Pile,
    store::{Store, is_temp, leases, list},
    tally::Tally,
};
use findings::{Finding, Findings};
use objects::{Named, Object};

pub use findings::{Count, Problem, ProblemKind, Problems, Report, Thing};

/// What one verification works with.
#[derive(Debug)]
pub struct Verify<'a> {
    /// Which has the objects.
    pub store: &'a Store,
    /// Counts what is done and says when to stop.
    pub progress: &'a Progress,
    /// Workers, at least one.
    pub threads: usize,
}

/// How often an artifact that changes meanwhile, and seems to be wrong, is looked at.
const MAX_ATTEMPTS: u32 = 3;

impl Verify<'_> {
    /// Hashes every object of the store with its chunks, reads every chunk table and manifest, and looks for what these
    /// name and the store lacks, and for files that are none of a store's.
    pub fn store(&self) -> Result<Report> {
        let check = Check::new(self)?;
        let artifacts = check.artifacts()?;
        let named = check.named(&artifacts)?;
        self.progress.total_files.fetch_add(named.count(), Relaxed);
        self.progress.total_bytes.fetch_add(named.bytes, Relaxed);
        check.layout()?;
        check.stored_objects(&named)?;
        check.stored_tables(&named)?;
        check.suspects()?;
        check.report(&artifacts)
    }

    /// Hashes every file of an artifact, its objects and their chunks, and looks for files that are no entries.
    pub fn artifact(&self, artifact: &ArtifactDir) -> Result<Report> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let check = Check::new(self)?;
            let (generation, manifest) = artifact.manifest_unless_cancelled(self.progress)?;
            let artifacts = std::slice::from_ref(artifact);
            let named = check.entries(artifact, &manifest)?;
            self.progress.total_files.fetch_add(named.count(), Relaxed);
            self.progress.total_bytes.fetch_add(named.bytes, Relaxed);
            check.named_objects(&named)?;
            check.files(artifact, &manifest)?;
            check.strays(artifact)?;
            let report = check.report(artifacts)?;
            // What an add has replaced meanwhile is not what the manifest said.
            let is_same = || artifact.manifest_unless_cancelled(self.progress).is_ok_and(|(now, _)| now == generation);
            if report.is_clean() || attempts == MAX_ATTEMPTS || is_same() {
                return Ok(report);
            }
        }
    }
}

/// A directory of the store, and what is known in it.
type Rule<'a> = (&'static str, &'a dyn Fn(&Path) -> bool);

/// A verification that runs.
struct Check<'a> {
    verify: &'a Verify<'a>,
    findings: Mutex<Findings>,
    /// Perhaps of an add in flight.
    suspects: Mutex<Pile<Finding>>,
    /// Objects that are damaged or missing.
    wrong: Mutex<Tally>,
    /// Objects that are left to all workers at once.
    large: Mutex<Digests>,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Where `gc` has put what it has condemned.
    condemned: Vec<PathBuf>,
}

impl<'a> Check<'a> {
    fn new(verify: &'a Verify<'a>) -> Result<Self> {
        let room = verify.store.room();
        Ok(Self {
            verify,
            findings: Mutex::new(Findings::new(room)),
            suspects: Mutex::new(Pile::new(room)),
            wrong: Mutex::new(Tally::new(room)),
            large: Mutex::new(Digests::new(room)),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            condemned: batch_paths(verify.store)?,
        })
    }

    fn find(&self, finding: Finding) -> Result<()> {
        lock(&self.findings).push(finding)
    }

    /// What cannot be read is found to be so, and the rest goes on: unless the call itself cannot.
    fn unreadable(&self, thing: Thing, path: &Path, error: Error) -> Result<()> {
        let ends = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
        if error.kind == Kind::Cancelled || error.errno.is_some_and(|errno| ends.contains(&errno)) {
            return Err(error);
        }
        self.find(Finding::new(ProblemKind::Unreadable, thing, path, 0, error.message))
    }

    /// Hashes an open file and counts it. `None` if that could not be done, which is a finding then.
    fn hash(
        &self,
        thing: Thing,
        path: &Path,
        file: &File,
        size: u64,
        threads: usize,
        each: impl Fn(u64, &[u8]) -> Result<()> + Sync,
    ) -> Result<Option<Digest>> {
        match hash_blocks(file, size, path, threads, self.verify.progress, each) {
            Ok(digest) => {
                self.files.fetch_add(1, Relaxed);
                self.bytes.fetch_add(size, Relaxed);
                self.verify.progress.files.fetch_add(1, Relaxed);
                Ok(Some(digest))
            }
            Err(error) => self.unreadable(thing, path, error).map(|()| None),
        }
    }

    /// The artifacts of the store that can be reached.
    fn artifacts(&self) -> Result<Vec<ArtifactDir>> {
        let mut artifacts = Vec::new();
        for (path, artifact) in known_artifacts(self.verify.store)? {
            match artifact {
                Ok(artifact) => artifacts.push(artifact),
                Err(error) => self.unreadable(Thing::Artifact, &path, error)?,
            }
        }
        Ok(artifacts)
    }

    /// The objects that the artifacts name. A manifest that cannot be read is a finding, and names none.
    fn named(&self, artifacts: &[ArtifactDir]) -> Result<Named> {
        let mut named = Pile::new(self.verify.store.room());
        for artifact in artifacts {
            let manifest = match artifact.manifest_unless_cancelled(self.verify.progress) {
                Ok((_, manifest)) => manifest,
                // Deleted by its owner since it was listed.
                Err(error) if error.kind == Kind::NotFound => continue,
                Err(error) => {
                    self.bad_manifest(artifact, error)?;
                    continue;
                }
            };
            for file in manifest.files() {
                self.verify.progress.check()?;
                let (_, bytes, digest, _) = file?;
                named.push(Object { digest, bytes }, 0)?;
            }
        }
        Named::of(named, self.verify.store.room(), self.verify.progress)
    }

    fn bad_manifest(&self, artifact: &ArtifactDir, error: Error) -> Result<()> {
        let path = artifact.newest_path();
        if error.kind != Kind::Integrity {
            return self.unreadable(Thing::Manifest, &path, error);
        }
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let reason = error.message.trim_start_matches(&format!("{}: ", path.display())).to_owned();
        self.find(Finding::new(ProblemKind::Damaged, Thing::Manifest, &path, bytes, reason))
    }

    /// What lies in the store's own directories and is nothing of a store.
    fn layout(&self) -> Result<()> {
        const KNOWN: [&str; 7] = ["VERSION", "objects", "chunks", "parts", "roots", "leases", "trash"];
        let root = self.verify.store.root();
        let is_fan = |path: &Path| path.is_dir() && name(path).parse::<objects::Fan>().is_ok();
        let is_root = |path: &Path| {
            // Of one that cannot be read it is said elsewhere.
            fs::read_to_string(path)
                .map_or(true, |record| Digest::of(root_of(&record).0.as_bytes()).to_string() == name(path))
        };
        let is_part = |path: &Path| is_temp(path);
        let is_known = |path: &Path| KNOWN.contains(&&*name(path));
        let rules: [Rule<'_>; 5] =
            [("", &is_known), ("objects", &is_fan), ("chunks", &is_fan), ("roots", &is_root), ("parts", &is_part)];
        for (directory, is_known) in rules {
            let directory = root.join(directory);
            let paths = match list(&directory) {
                Ok(paths) => paths,
                Err(error) if error.kind == Kind::NotFound => continue,
                Err(error) => {
                    self.unreadable(Thing::Other, &directory, error)?;
                    continue;
                }
            };
            for path in paths.iter().filter(|path| !is_known(path)) {
                self.stray(path)?;
            }
        }
        Ok(())
    }

    /// A file of the store whose name says nothing, or that it is being written.
    fn stray(&self, path: &Path) -> Result<()> {
        let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
        let bytes = if metadata.is_file() { metadata.len() } else { 0 };
        let finding = |reason: &str| Finding::new(ProblemKind::Stray, Thing::Other, path, bytes, reason.into());
        if is_temp(path) {
            return self.suspect(finding("left by a process that ended early; `em gc` removes it"));
        }
        self.find(finding("not a file of a store"))
    }

    fn suspect(&self, finding: Finding) -> Result<()> {
        let bytes = finding.held_bytes();
        lock(&self.suspects).push(finding, bytes)
    }

    /// Those that are still there are findings, unless an add is in flight that may have made them. What an add that
    /// begins now makes is none of them.
    fn suspects(&self) -> Result<()> {
        let store = self.verify.store;
        if leases::there(store, SystemTime::now())?.into_iter().any(|(_, is_held)| is_held) {
            return Ok(());
        }
        let mut suspects = lock(&self.suspects);
        for finding in suspects.sorted()? {
            self.verify.progress.check()?;
            let finding = finding?;
            let is_there = fs::symlink_metadata(&finding.path).is_ok();
            if is_there && (finding.thing != Thing::Table || self.is_orphan(Path::new(&finding.path))) {
                self.find(finding)?;
            }
        }
        Ok(())
    }

    /// The report, in which damaged and missing objects have the files that they are.
    fn report(self, artifacts: &[ArtifactDir]) -> Result<Report> {
        let wrong = self.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut findings = self.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (store, progress) = (self.verify.store, self.verify.progress);
        if !wrong.is_empty() {
            let mut wrong = wrong.sorted(1, progress)?;
            for artifact in artifacts {
                // One that is damaged, or gone since, has been dealt with.
                let Ok((_, manifest)) = artifact.manifest_unless_cancelled(progress) else {
                    progress.check()?;
                    continue;
                };
                for file in manifest.files() {
                    progress.check()?;
                    let (path, _, digest, _) = file?;
                    if wrong.has(digest)? {
                        findings.push(Finding::file(&store.object_path(digest), artifact.root(), path))?;
                    }
                }
            }
        }
        findings.report(store.room(), self.files.into_inner(), self.bytes.into_inner(), progress)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
