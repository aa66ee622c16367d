//! What a verification has found: kept sorted, in a file when it is much.

use std::{
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::Arc,
};

use crate::{
    Result,
    cancel::Progress,
    spool::{Pile, Record, Room, Spool, SpoolReader, array},
};

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ProblemKind {
    /// It should be there and is not.
    Missing = 0,
    /// Its bytes are not what they should be.
    Damaged = 1,
    /// It is not a file of the store or artifact: left by a crash, or put there by somebody.
    Stray = 2,
    /// The system refused to read it, so nothing is known of it.
    Unreadable = 3,
}

impl ProblemKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Damaged, Self::Stray, Self::Unreadable];

    /// The name in JSON and Python.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Stray => "stray",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What has a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Thing {
    /// An object of the store.
    Object = 0,
    /// The chunk table of an object.
    Table = 1,
    /// The manifest of an artifact.
    Manifest = 2,
    /// An artifact as a whole, by its directory or root.
    Artifact = 3,
    /// A file, or an empty directory, of an artifact.
    File = 4,
    /// Something else in the store.
    Other = 5,
}

impl Thing {
    const ALL: [Self; 6] = [Self::Object, Self::Table, Self::Manifest, Self::Artifact, Self::File, Self::Other];

    /// The name in JSON and Python.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Table => "table",
            Self::Manifest => "manifest",
            Self::Artifact => "artifact",
            Self::File => "file",
            Self::Other => "other",
        }
    }
}

/// One thing that is not as it should be, or a file of an artifact that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// With what.
    pub thing: Thing,
    /// The file.
    pub path: String,
    /// Its bytes; those that it should have if it is missing.
    pub bytes: u64,
    /// What was found, in words; empty if the kind says all.
    pub reason: String,
    /// Directory of an artifact and the path in it of a file that this object is. Such ones follow the problem itself, which has
    /// none.
    pub file: Option<(String, String)>,
}

/// Problems of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A problem, or a file that its object is, as it is sorted.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) path: String,
    /// Empty for the problem itself, which is so the first of its path.
    artifact: String,
    file: String,
    kind: ProblemKind,
    pub(super) thing: Thing,
    bytes: u64,
    reason: String,
}

impl Finding {
    pub(super) fn new(kind: ProblemKind, thing: Thing, path: &Path, bytes: u64, reason: String) -> Self {
        let path = path.display().to_string();
        Self { path, artifact: String::new(), file: String::new(), kind, thing, bytes, reason }
    }

    /// A file of an artifact that an object is, of which something is found.
    pub(super) fn file(object: &Path, artifact: &Path, file: String) -> Self {
        let artifact = artifact.display().to_string();
        Self { artifact, file, ..Self::new(ProblemKind::Missing, Thing::Object, object, 0, String::new()) }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.texts().iter().map(|text| text.len()).sum()
    }

    fn texts(&self) -> [&String; 4] {
        [&self.path, &self.artifact, &self.file, &self.reason]
    }
}

impl Record for Finding {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[self.kind as u8, self.thing as u8]);
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
        for text in self.texts() {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }

    fn get(input: &mut impl Read) -> io::Result<Self> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let [kind, thing] = array(input)?.map(usize::from);
        let bytes = u64::from_le_bytes(array(input)?);
        let mut text = || {
            let mut bytes = vec![0; u32::from_le_bytes(array(input)?) as usize];
            input.read_exact(&mut bytes)?;
            String::from_utf8(bytes).map_err(|_| wrong())
        };
        let [path, artifact, file, reason] = [text()?, text()?, text()?, text()?];
        let (Some(&kind), Some(&thing)) = (ProblemKind::ALL.get(kind), Thing::ALL.get(thing)) else {
            return Err(wrong());
        };
        Ok(Self { path, artifact, file, kind, thing, bytes, reason })
    }
}

/// Collects findings in any order.
#[derive(Debug)]
pub(super) struct Findings {
    pile: Pile<Finding>,
    counts: [Count; ProblemKind::ALL.len()],
}

impl Findings {
    pub(super) fn new(room: &Room) -> Self {
        Self { pile: Pile::new(room), counts: Default::default() }
    }

    pub(super) fn push(&mut self, finding: Finding) -> Result<()> {
        if finding.artifact.is_empty() {
            let count = &mut self.counts[finding.kind as usize];
            count.files += 1;
            count.bytes += finding.bytes;
        }
        let bytes = finding.held_bytes();
        self.pile.push(finding, bytes)
    }

    pub(super) fn report(mut self, room: &Room, files: u64, bytes: u64, progress: &Progress) -> Result<Report> {
        let (mut spool, mut lines, mut buffer) = (room.spool(), 0, Vec::new());
        for finding in self.pile.sorted()? {
            progress.check()?;
            buffer.clear();
            finding?.put(&mut buffer);
            spool.write_all(&buffer).map_err(|error| room.error(error))?;
            lines += 1;
        }
        Ok(Report { objects: files, bytes, counts: self.counts, room: room.clone(), spool: Arc::new(spool), lines })
    }
}

/// What a verification read and found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Objects and files hashed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    counts: [Count; ProblemKind::ALL.len()],
    room: Room,
    spool: Arc<Spool>,
    lines: u64,
}

impl Report {
    /// The problems of one kind.
    pub fn count(&self, kind: ProblemKind) -> Count {
        self.counts[kind as usize]
    }

    /// Whether there is no problem.
    pub fn is_clean(&self) -> bool {
        self.lines == 0
    }

    /// The problems, sorted by path, each before the files that it is in artifacts.
    pub fn problems(&self) -> Problems {
        let reader = SpoolReader { spool: Arc::clone(&self.spool), offset: 0 };
        Problems { room: self.room.clone(), reader: BufReader::new(reader), left: self.lines, last: None }
    }
}

/// Problems, read while they are asked for.
#[derive(Debug)]
pub struct Problems {
    room: Room,
    reader: BufReader<SpoolReader<Arc<Spool>>>,
    left: u64,
    last: Option<Problem>,
}

impl Iterator for Problems {
    type Item = Result<Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Finding { path, artifact, file, kind, thing, bytes, reason } = match Finding::get(&mut self.reader) {
            Ok(finding) => finding,
            Err(error) => return Some(Err(self.room.error(error))),
        };
        let problem = Problem { kind, thing, path, bytes, reason, file: None };
        if artifact.is_empty() {
            self.last = Some(problem.clone());
            return Some(Ok(problem));
        }
        let of = self.last.clone().filter(|last| last.path == problem.path).unwrap_or(problem);
        Some(Ok(Problem { file: Some((artifact, file)), ..of }))
    }
}
