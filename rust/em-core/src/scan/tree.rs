//! What a scan finds, in parts that each fit into memory: 48 bytes and its name for a file.

use std::{borrow::Cow, cmp::Ordering, io::Read, iter};

use super::{FileFound, Stat};
use crate::{
    Error, Result,
    cancel::Progress,
    manifest::MAX_ENTRIES,
    spool::{Record, Room, Runs, Spool, array, get_all, put_all},
};

/// Everything below a root, sorted by the bytes of the paths. What is more than one [`Tree`] waits in a file.
#[derive(Debug)]
pub struct Listing {
    room: Room,
    rows: Rows,
    files: u64,
    bytes: u64,
}

#[derive(Debug)]
enum Rows {
    Held(Tree),
    Kept { spool: Spool, count: u64 },
}

impl Listing {
    /// A listing of one file.
    pub fn of_file(found: &FileFound, room: &Room) -> Result<Self> {
        let mut entries = Found::default();
        entries.file(&found.path, found.stat, found.executable, found.via_link);
        let mut collected = Collected::new(room);
        collected.add("", &entries)?;
        collected.finish(&Progress::default())
    }

    /// Number of files.
    pub fn len(&self) -> u64 {
        self.files
    }

    /// Whether there is no file; there may be empty directories.
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// Bytes of the files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The files and empty directories, sorted.
    pub fn rows(&self) -> Box<dyn Iterator<Item = Result<Row>> + '_> {
        match &self.rows {
            Rows::Held(tree) => Box::new((0..tree.len()).map(|index| Ok(tree.row(index)))),
            Rows::Kept { spool, count } => {
                Box::new(get_all(spool, 0, *count).map(|row| row.map_err(|error| self.room.error(error))))
            }
        }
    }

    /// The same in parts.
    pub fn parts(&self) -> impl Iterator<Item = Result<Cow<'_, Tree>>> {
        let mut held = match &self.rows {
            Rows::Held(tree) => Some(tree),
            Rows::Kept { .. } => None,
        };
        let mut rows = if held.is_some() { None } else { Some(self.rows()) };
        iter::from_fn(move || match held.take() {
            Some(tree) => Some(Ok(Cow::Borrowed(tree))),
            None => Tree::part(rows.as_mut()?, self.room.held_bytes()).transpose().map(|part| part.map(Cow::Owned)),
        })
    }
}

/// Grows while a tree is walked.
#[derive(Debug)]
pub(super) struct Collected {
    room: Room,
    tree: Tree,
    runs: Runs<Row>,
    count: u64,
}

impl Collected {
    pub(super) fn new(room: &Room) -> Self {
        Self { room: room.clone(), tree: Tree::default(), runs: Runs::new(room), count: 0 }
    }

    /// Adds the files of a directory.
    pub(super) fn add(&mut self, directory: &str, found: &Found) -> Result<()> {
        self.count(found.files.len())?;
        self.tree.add(directory, found)?;
        self.make_room()
    }

    /// Adds an empty directory.
    pub(super) fn add_empty(&mut self, directory: &str) -> Result<()> {
        self.count(1)?;
        self.tree.push(&Row { path: directory.into(), stat: Stat::default(), flags: EMPTY_DIRECTORY })?;
        self.make_room()
    }

    fn count(&mut self, more: usize) -> Result<()> {
        self.count += more as u64;
        if self.count <= MAX_ENTRIES {
            return Ok(());
        }
        let message = format!("it holds more than {MAX_ENTRIES} files, the most that an artifact can have");
        Err(Error::invalid(message).hint("add its subdirectories to several artifacts"))
    }

    fn make_room(&mut self) -> Result<()> {
        if self.tree.held_bytes() > self.room.held_bytes() { self.keep() } else { Ok(()) }
    }

    fn keep(&mut self) -> Result<()> {
        let mut tree = std::mem::take(&mut self.tree);
        tree.sort();
        self.runs.add((0..tree.len()).map(|index| tree.row(index))).map_err(|error| self.room.error(error))
    }

    pub(super) fn finish(mut self, progress: &Progress) -> Result<Listing> {
        let (mut files, mut bytes) = (0, 0);
        let mut sum = |is_directory: bool, size| {
            files += u64::from(!is_directory);
            bytes += size;
        };
        if self.runs.is_empty() {
            self.tree.sort();
            (0..self.tree.len()).for_each(|index| sum(self.tree.is_directory(index), self.tree.stat(index).size));
            return Ok(Listing { room: self.room, rows: Rows::Held(self.tree), files, bytes });
        }
        self.keep()?;
        let (mut spool, mut failed) = (self.room.spool(), None);
        let mut merged = self.runs.merged().map_while(|row| row.map_err(|error| failed = Some(error)).ok()).peekable();
        let rows = iter::from_fn(|| {
            let row = merged.next().filter(|_| progress.check().is_ok())?;
            // A name that was listed twice counts once.
            while merged.next_if_eq(&row).is_some() {}
            sum(row.is_directory(), row.stat.size);
            Some(row)
        });
        let count = put_all(&mut spool, rows);
        drop(merged);
        progress.check()?;
        let count = failed.map_or(count, Err).map_err(|error| self.room.error(error))?;
        Ok(Listing { room: self.room, rows: Rows::Kept { spool, count }, files, bytes })
    }
}

const EXECUTABLE: u8 = 1;
const VIA_LINK: u8 = 2;
const SPARSE: u8 = 4;
const EMPTY_DIRECTORY: u8 = 8;

/// A file or an empty directory, ordered by its path.
#[derive(Clone, Debug)]
pub struct Row {
    /// Relative to the root, with `/`; of the root itself, the empty string.
    pub path: String,
    /// The state of a file when it was found.
    pub stat: Stat,
    flags: u8,
}

impl Row {
    /// Whether it is an empty directory.
    pub fn is_directory(&self) -> bool {
        self.flags & EMPTY_DIRECTORY != 0
    }

    /// What it is, if it is a file.
    pub fn into_file(self) -> Option<FileFound> {
        let Self { path, stat, flags } = self;
        let (executable, via_link) = (flags & EXECUTABLE != 0, flags & VIA_LINK != 0);
        (flags & EMPTY_DIRECTORY == 0).then_some(FileFound { path, stat, executable, via_link })
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path.cmp(&other.path)
    }
}

impl Record for Row {
    fn put(&self, bytes: &mut Vec<u8>) {
        let Stat { dev, ino, size, mtime_ns, ctime_ns, .. } = self.stat;
        bytes.push(self.flags);
        for number in [dev, ino, size, mtime_ns as u64, ctime_ns as u64, self.path.len() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.path.as_bytes());
    }

    fn get(input: &mut impl Read) -> std::io::Result<Self> {
        let [flags] = array(input)?;
        let mut number = || array(input).map(u64::from_le_bytes);
        let (dev, ino, size) = (number()?, number()?, number()?);
        let (mtime_ns, ctime_ns) = (number()? as i64, number()? as i64);
        let mut path = vec![0; number()? as usize];
        input.read_exact(&mut path)?;
        let path = String::from_utf8(path).map_err(std::io::Error::other)?;
        let stat = Stat { dev, ino, size, mtime_ns, ctime_ns, sparse: flags & SPARSE != 0 };
        Ok(Self { path, stat, flags })
    }
}

/// Entries of one directory.
#[derive(Default)]
pub(super) struct Found {
    names: String,
    files: Vec<(Text, Stat, u8)>,
    /// Each followed by `/`, or by a NUL if a symbolic link leads to it.
    pub(super) directories: String,
}

impl Found {
    /// How many files.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn file(&mut self, name: &str, stat: Stat, executable: bool, via_link: bool) {
        // Batches are small.
        let name_at = Text { start: self.names.len() as u32, length: name.len() as u32 };
        self.names.push_str(name);
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(executable, EXECUTABLE) | flag(via_link, VIA_LINK) | flag(stat.sparse, SPARSE);
        self.files.push((name_at, stat, flags));
    }

    pub(super) fn directory(&mut self, name: &str, via_link: bool) {
        self.directories.push_str(name);
        self.directories.push(if via_link { '\0' } else { '/' });
    }
}

/// Files and empty directories, of which each has a number in the order of the paths.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Paths of directories and names of files, one behind the other.
    texts: String,
    directories: Vec<Text>,
    files: Vec<File>,
    /// Device numbers, which are few.
    devices: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Text {
    start: u32,
    length: u32,
}

/// A file; of an empty directory, the name is empty.
#[derive(Clone, Copy, Debug)]
struct File {
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    directory: u32,
    device: u16,
    /// A name has at most 255 bytes, on some file systems 255 characters.
    name_length: u16,
    name_start: u32,
    flags: u8,
}

const _: () = assert!(size_of::<File>() == 48);

impl Tree {
    /// Number of files and empty directories.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Its path, relative to the root.
    pub fn path(&self, index: usize) -> String {
        let file = &self.files[index];
        let (directory, name) = (self.directory(file), self.name(file));
        if directory.is_empty() || name.is_empty() {
            format!("{directory}{name}")
        } else {
            format!("{directory}/{name}")
        }
    }

    /// Its state when it was found.
    pub fn stat(&self, index: usize) -> Stat {
        let file = &self.files[index];
        Stat {
            dev: self.devices[usize::from(file.device)],
            ino: file.ino,
            size: file.size,
            mtime_ns: file.mtime_ns,
            ctime_ns: file.ctime_ns,
            sparse: file.flags & SPARSE != 0,
        }
    }

    /// Whether it is an empty directory.
    pub fn is_directory(&self, index: usize) -> bool {
        self.files[index].flags & EMPTY_DIRECTORY != 0
    }

    /// Whether its owner may execute it.
    pub fn is_executable(&self, index: usize) -> bool {
        self.files[index].flags & EXECUTABLE != 0
    }

    /// Whether the last component of its path is a symbolic link.
    pub fn is_via_link(&self, index: usize) -> bool {
        self.files[index].flags & VIA_LINK != 0
    }

    fn row(&self, index: usize) -> Row {
        Row { path: self.path(index), stat: self.stat(index), flags: self.files[index].flags }
    }

    fn held_bytes(&self) -> usize {
        self.texts.len() + size_of_val(&self.directories[..]) + size_of_val(&self.files[..])
    }

    /// The next rows, as many as may be held.
    fn part(rows: &mut impl Iterator<Item = Result<Row>>, held_bytes: usize) -> Result<Option<Self>> {
        let mut tree = Self::default();
        while tree.held_bytes() <= held_bytes {
            match rows.next() {
                Some(row) => tree.push(&row?)?,
                None => break,
            }
        }
        Ok((!tree.is_empty()).then_some(tree))
    }

    fn text(&self, text: Text) -> &str {
        &self.texts[text.start as usize..][..text.length as usize]
    }

    fn directory(&self, file: &File) -> &str {
        self.text(self.directories[file.directory as usize])
    }

    fn name(&self, file: &File) -> &str {
        self.text(Text { start: file.name_start, length: u32::from(file.name_length) })
    }

    fn put_text(&mut self, text: &str) -> Result<Text> {
        let number = |count: usize| u32::try_from(count).map_err(|_| Error::invalid("a path is too long"));
        let (start, length) = (number(self.texts.len())?, number(text.len())?);
        self.texts.push_str(text);
        Ok(Text { start, length })
    }

    fn put_file(&mut self, name: Text, stat: Stat, flags: u8) -> Result<()> {
        let known = self.devices.iter().rposition(|&device| device == stat.dev);
        let device = known.unwrap_or_else(|| {
            self.devices.push(stat.dev);
            self.devices.len() - 1
        });
        self.files.push(File {
            ino: stat.ino,
            size: stat.size,
            mtime_ns: stat.mtime_ns,
            ctime_ns: stat.ctime_ns,
            directory: self.directories.len() as u32 - 1,
            device: u16::try_from(device).map_err(|_| Error::invalid("the directory has too many mounts in it"))?,
            name_length: name.length as u16,
            name_start: name.start,
            flags,
        });
        Ok(())
    }

    /// Makes a directory the one that files are put into.
    fn enter(&mut self, directory: &str) -> Result<()> {
        if self.directories.last().is_none_or(|&last| self.text(last) != directory) {
            let text = self.put_text(directory)?;
            self.directories.push(text);
        }
        Ok(())
    }

    fn add(&mut self, directory: &str, found: &Found) -> Result<()> {
        if found.files.is_empty() {
            return Ok(());
        }
        self.enter(directory)?;
        let names = self.put_text(&found.names)?;
        for &(name, stat, flags) in &found.files {
            self.put_file(Text { start: names.start + name.start, ..name }, stat, flags)?;
        }
        Ok(())
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        let (directory, name) = match row.path.rsplit_once('/') {
            _ if row.is_directory() => (row.path.as_str(), ""),
            Some(parts) => parts,
            None => ("", row.path.as_str()),
        };
        self.enter(directory)?;
        let name = self.put_text(name)?;
        self.put_file(name, row.stat, row.flags)
    }

    /// Sorts by the paths. A name that was listed twice counts once.
    fn sort(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        files.sort_unstable_by(|a, b| self.compare(a, b));
        files.dedup_by(|a, b| self.compare(a, b).is_eq());
        self.files = files;
    }

    fn compare(&self, one: &File, other: &File) -> Ordering {
        let (one_name, other_name) = (self.name(one), self.name(other));
        let (one, other) = (self.directory(one), self.directory(other));
        if one == other {
            return one_name.cmp(other_name);
        }
        // What is behind the part that both have: at most of one of them it begins in the directory's path.
        let shared = one.len().min(other.len());
        let order = one.as_bytes()[..shared].cmp(&other.as_bytes()[..shared]);
        order.then_with(|| tail(one, shared, one_name).cmp(tail(other, shared, other_name)))
    }
}

/// The bytes of a path from `start` on, which is in the directory's path.
fn tail<'t>(directory: &'t str, start: usize, name: &'t str) -> impl Iterator<Item = u8> + 't {
    let slash = (!directory.is_empty() && !name.is_empty()).then_some(b'/');
    directory.bytes().skip(start).chain(slash).chain(name.bytes())
}
