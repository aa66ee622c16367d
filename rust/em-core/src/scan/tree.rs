//! What a scan finds, in few bytes: 48 and its name for a file, 40 and its name for a directory.

use std::cmp::Ordering;

use super::{FileFound, Stat};
use crate::{Error, Result};

/// Number of a directory in its tree.
pub(super) type DirectoryId = u32;

/// Everything below a root, sorted by the bytes of the paths.
///
/// A path is put together from the names on its way when it is asked for.
#[derive(Clone, Debug)]
pub struct Tree {
    /// All names, one behind the other.
    names: String,
    directories: Vec<Directory>,
    files: Vec<File>,
    empty: Vec<DirectoryId>,
    /// Device numbers, which are few.
    devices: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Name {
    start: u32,
    length: u16,
}

#[derive(Clone, Copy, Debug)]
struct Directory {
    ino: u64,
    dev: u64,
    parent: DirectoryId,
    depth: u32,
    name: Name,
    via_link: bool,
}

#[derive(Clone, Copy, Debug)]
struct File {
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    directory: DirectoryId,
    device: u16,
    name_length: u16,
    name_start: u32,
    flags: u8,
}

const EXECUTABLE: u8 = 1;
const VIA_LINK: u8 = 2;
const SPARSE: u8 = 4;

/// Entries of one directory on their way into a tree.
#[derive(Default)]
pub(super) struct Found {
    names: String,
    files: Vec<(Name, Stat, u8)>,
    directories: Vec<(Name, bool)>,
}

impl Found {
    fn name(&mut self, name: &str) -> Name {
        // A name has at most 255 bytes, on some file systems 255 characters; batches are small.
        let place = Name { start: self.names.len() as u32, length: name.len() as u16 };
        self.names.push_str(name);
        place
    }

    pub(super) fn file(&mut self, name: &str, stat: Stat, executable: bool, via_link: bool) {
        let name = self.name(name);
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(executable, EXECUTABLE) | flag(via_link, VIA_LINK) | flag(stat.sparse, SPARSE);
        self.files.push((name, stat, flags));
    }

    pub(super) fn directory(&mut self, name: &str, via_link: bool) {
        let name = self.name(name);
        self.directories.push((name, via_link));
    }
}

impl Default for Tree {
    fn default() -> Self {
        let root = Directory { ino: 0, dev: 0, parent: 0, depth: 0, name: Name::default(), via_link: false };
        Self {
            names: String::new(),
            directories: vec![root],
            files: Vec::new(),
            empty: Vec::new(),
            devices: Vec::new(),
        }
    }
}

impl Tree {
    pub(super) const ROOT: DirectoryId = 0;

    /// A tree of one file.
    pub fn of_file(found: &FileFound) -> Result<Self> {
        let mut batch = Found::default();
        batch.file(&found.path, found.stat, found.executable, found.via_link);
        let mut tree = Self::default();
        tree.add(Self::ROOT, batch)?;
        Ok(tree)
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file; there may be empty directories.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, sorted by their paths.
    pub fn files(&self) -> impl ExactSizeIterator<Item = FileFound> + Clone {
        (0..self.len()).map(|index| self.file(index))
    }

    /// A file by its number in the order of the paths.
    pub fn file(&self, index: usize) -> FileFound {
        let flags = self.files[index].flags;
        let (executable, via_link) = (flags & EXECUTABLE != 0, flags & VIA_LINK != 0);
        FileFound { path: self.path(index), stat: self.stat(index), executable, via_link }
    }

    /// Its path, relative to the root.
    pub fn path(&self, index: usize) -> String {
        let file = &self.files[index];
        let mut path = self.directory_path(file.directory);
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(self.name(file.name()));
        path
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

    /// Whether its owner may execute it.
    pub fn is_executable(&self, index: usize) -> bool {
        self.files[index].flags & EXECUTABLE != 0
    }

    /// Whether the last component of its path is a symbolic link.
    pub fn is_via_link(&self, index: usize) -> bool {
        self.files[index].flags & VIA_LINK != 0
    }

    /// Whether two files are in one directory.
    pub fn are_siblings(&self, index: usize, other: usize) -> bool {
        self.files[index].directory == self.files[other].directory
    }

    /// Directories without any entry, sorted by their paths; the root is the empty string.
    pub fn empty_dirs(&self) -> impl ExactSizeIterator<Item = String> + Clone {
        self.empty.iter().map(|&directory| self.directory_path(directory))
    }

    fn name(&self, name: Name) -> &str {
        &self.names[name.start as usize..][..usize::from(name.length)]
    }

    fn directory(&self, id: DirectoryId) -> &Directory {
        &self.directories[id as usize]
    }

    /// The path of a directory, relative to the root, which is the empty string.
    pub(super) fn directory_path(&self, id: DirectoryId) -> String {
        let way = |mut id| {
            std::iter::from_fn(move || {
                let directory = Some(self.directory(id)).filter(|_| id != Self::ROOT)?;
                id = directory.parent;
                Some(self.name(directory.name))
            })
        };
        let length: usize = way(id).map(|name| name.len() + 1).sum();
        let mut path = vec![b'/'; length.saturating_sub(1)];
        let mut end = path.len();
        for name in way(id) {
            path[end - name.len()..end].copy_from_slice(name.as_bytes());
            end = end.saturating_sub(name.len() + 1);
        }
        // Whole names with slashes between them are UTF-8.
        String::from_utf8(path).unwrap_or_default()
    }

    /// Notes what directory it is. If it is one of its own ancestors, answers the link that leads back to it.
    pub(super) fn enter(&mut self, id: DirectoryId, dev: u64, ino: u64) -> Option<DirectoryId> {
        let own = &mut self.directories[id as usize];
        (own.dev, own.ino) = (dev, ino);
        let mut link = own.via_link.then_some(id);
        let mut below = id;
        while below != Self::ROOT {
            let parent = self.directory(below).parent;
            let above = self.directory(parent);
            if (above.dev, above.ino) == (dev, ino) {
                return Some(link.unwrap_or(id));
            }
            if link.is_none() && above.via_link {
                link = Some(parent);
            }
            below = parent;
        }
        None
    }

    pub(super) fn add_empty(&mut self, id: DirectoryId) {
        self.empty.push(id);
    }

    /// Adds entries of a directory; answers the numbers of the directories among them.
    pub(super) fn add(&mut self, parent: DirectoryId, found: Found) -> Result<std::ops::Range<DirectoryId>> {
        let number = |count: usize| u32::try_from(count).map_err(|_| Error::invalid("the directory holds too much"));
        let start = number(self.names.len())?;
        number(self.names.len() + found.names.len())?;
        self.names.push_str(&found.names);
        let placed = |name: Name| Name { start: start + name.start, ..name };
        for (name, stat, flags) in found.files {
            let name = placed(name);
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
                directory: parent,
                device: u16::try_from(device).map_err(|_| Error::invalid("the directory has too many mounts in it"))?,
                name_length: name.length,
                name_start: name.start,
                flags,
            });
        }
        let first = number(self.directories.len())?;
        let depth = self.directory(parent).depth + 1;
        for (name, via_link) in found.directories {
            self.directories.push(Directory { ino: 0, dev: 0, parent, depth, name: placed(name), via_link });
        }
        Ok(first..number(self.directories.len())?)
    }

    /// Sorts files and empty directories by their paths. A name that was listed twice counts once.
    pub(super) fn sort(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        files.sort_unstable_by(|a, b| self.compare((a.directory, Some(a.name())), (b.directory, Some(b.name()))));
        files.dedup_by(|a, b| a.directory == b.directory && self.name(a.name()) == self.name(b.name()));
        self.files = files;
        let mut empty = std::mem::take(&mut self.empty);
        empty.sort_unstable_by(|&a, &b| self.compare((a, None), (b, None)));
        self.empty = empty;
    }

    /// How two paths compare, each that of a directory or of a file in it.
    fn compare(&self, one: (DirectoryId, Option<Name>), other: (DirectoryId, Option<Name>)) -> Ordering {
        let (mut one_id, mut other_id) = (one.0, other.0);
        // The part below the lowest common directory, and whether more follows.
        let (mut one_part, mut other_part) = (one.1.map(|name| (name, false)), other.1.map(|name| (name, false)));
        let up = |id: &mut DirectoryId, part: &mut Option<(Name, bool)>| {
            let directory = self.directory(*id);
            *part = Some((directory.name, part.is_some()));
            *id = directory.parent;
        };
        while one_id != other_id {
            let order = self.directory(one_id).depth.cmp(&self.directory(other_id).depth);
            if order.is_ge() {
                up(&mut one_id, &mut one_part);
            }
            if order.is_le() {
                up(&mut other_id, &mut other_part);
            }
        }
        let ((one, one_goes_on), (other, other_goes_on)) =
            (one_part.unwrap_or_default(), other_part.unwrap_or_default());
        let (one, other) = (self.name(one), self.name(other));
        if !one_goes_on && !other_goes_on {
            return one.cmp(other);
        }
        one.bytes().chain(one_goes_on.then_some(b'/')).cmp(other.bytes().chain(other_goes_on.then_some(b'/')))
    }
}

impl File {
    fn name(&self) -> Name {
        Name { start: self.name_start, length: self.name_length }
    }
}

const _: () = assert!(size_of::<File>() == 48 && size_of::<Directory>() == 40);
