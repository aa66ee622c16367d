//! What an add is about to put into an artifact's directory, written down before it is put there.
//!
//! ```text
//! intent-…   of an add in flight, or of one that died: the next call undoes it
//! undo-…     the same file, of an add that has ended without the time to undo all
//! ```

use std::{
    fs::{self, File, Metadata},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    Error, Result,
    artifact::{ArtifactDir, RESERVED, write_buffered},
    cancel::Progress,
    manifest::{At, Entry, EntryKind},
    names,
    store::{
        leases::{self, Lease},
        temp_name, write_atomic_by,
    },
};

/// The longest that is taken for the owner of an intent.
const MAX_OWNER_BYTES: u64 = 4096;

/// What stands before a path: something is there and is perhaps replaced, a file is made, a directory is made.
const REPLACED: u8 = b'=';
const FILE: u8 = b'+';
const DIRECTORY: u8 = b'/';

/// Paths that are being linked; on disk until [`Intent::done`].
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
    /// Another process that undoes the same removes it from `path`.
    file: Arc<File>,
}

impl Intent {
    /// Of the paths of `entries`, which are sorted.
    pub(crate) fn write<I: Iterator<Item = Result<Entry>>>(
        artifact: &ArtifactDir,
        entries: impl Fn() -> I,
    ) -> Result<Self> {
        let path = artifact.inner().join(format!("intent-{}", &temp_name()[5..]));
        let mut failed = None;
        let written = write_atomic_by(&path, |temp| {
            let written = write_buffered(temp, |out| {
                out.write_all(leases::owner().as_bytes())?;
                let mut missing = Missing { root: artifact.root(), directories: Vec::new(), there: String::new() };
                for entry in entries() {
                    let entry = entry.map_err(|error| io::Error::other(failed.insert(error).to_string()))?;
                    missing.put(out, &entry)?;
                }
                Ok(())
            });
            written.and_then(|_| File::open(temp))
        });
        match failed {
            Some(error) => Err(error),
            None => written.map(|file| Self { path, file: Arc::new(file) }),
        }
    }

    /// If there is one at `path` whose add does not go on, and what is known of its file if that add left it to others.
    pub(crate) fn left(path: &Path) -> Result<Option<(Self, Option<Metadata>)>> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let is_undo = name.starts_with(b"undo-");
        if !is_undo && !name.starts_with(b"intent-") {
            return Ok(None);
        }
        let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        Ok(match opened {
            // Another process has undone it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Ok((_, metadata)) if metadata.nlink() == 0 => None,
            Err(error) if is_undo => return Err(Error::io("read", path, error)),
            Ok((file, metadata)) if is_undo => Some((Self { path: path.into(), file: Arc::new(file) }, Some(metadata))),
            Ok((file, _)) if is_abandoned(&file) => Some((Self { path: path.into(), file: Arc::new(file) }, None)),
            _ => None,
        })
    }

    /// If there is one at `path` whose add goes on.
    pub(crate) fn in_flight(path: &Path) -> Option<Self> {
        let is_intent = path.file_name()?.as_encoded_bytes().starts_with(b"intent-");
        let file = File::open(path).ok().filter(|file| is_intent && !is_abandoned(file))?;
        Some(Self { path: path.into(), file: Arc::new(file) })
    }

    /// What is where it was written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands before each path, and the paths, in order. What is not of this form does no harm.
    fn items(&self) -> impl Iterator<Item = Result<(u8, String)>> {
        let failed = |error| Error::io("read", &self.path, error);
        let parts = BufReader::new(At { file: Arc::clone(&self.file), offset: 0 }).split(0).skip(1);
        let item = |part: Vec<u8>| Some((*part.first()?, String::from_utf8(part[1..].to_vec()).ok()?));
        parts.filter_map(move |part| part.map(item).map_err(failed).transpose())
    }

    /// The paths of files, sorted if an add has written them.
    pub(crate) fn paths(&self) -> impl Iterator<Item = Result<String>> {
        let path = |(what, path)| (what != DIRECTORY).then_some(path);
        self.items().filter_map(move |item| item.map(path).transpose())
    }

    /// Removes the files that the add has made, if they are none of the sorted `entries` and `is_ours` agrees, and then the
    /// directories, if they are empty. Nothing outside the artifact is touched, whatever the paths say.
    pub(crate) fn remove_created(
        &self,
        artifact: &ArtifactDir,
        mut entries: impl Iterator<Item = Result<Entry>>,
        is_ours: impl Fn(&Path) -> Result<bool>,
        lease: &Lease,
        progress: &Progress,
    ) -> Result<()> {
        let mut entry = entries.next().transpose()?;
        let mut open: Vec<String> = Vec::new();
        let mut parent = (String::new(), true);
        let is_inside = |directory: &str| names::check(directory).is_ok() && artifact.holds(directory);
        let remove_directory = |directory: String| {
            if is_inside(&directory) {
                let _ = fs::remove_dir(artifact.root().join(directory));
            }
        };
        for item in self.items() {
            progress.check()?;
            lease.renew();
            let (what, path) = item?;
            while let Some(left) = open.pop_if(|above| !is_in(&path, above)) {
                remove_directory(left);
            }
            while entry.as_ref().is_some_and(|entry| entry.path < path) {
                entry = entries.next().transpose()?;
            }
            match what {
                _ if entry.as_ref().is_some_and(|entry| entry.path == path) => {}
                DIRECTORY => open.push(path),
                FILE => {
                    // Files of one directory mostly stand together.
                    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                    if directory != parent.0 {
                        parent = (directory.to_owned(), is_inside(directory));
                    }
                    let file = artifact.root().join(&path);
                    if (parent.1 || directory.is_empty()) && is_ours(&file)? {
                        let _ = fs::remove_file(file);
                    }
                }
                _ => {}
            }
        }
        open.into_iter().rev().for_each(remove_directory);
        Ok(())
    }

    /// The paths are linked and committed, or what was there is there again. `false` if somebody took this process for
    /// dead and put them back.
    pub fn done(self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }

    /// The same after the artifact's directory was renamed to `root`.
    pub(crate) fn done_in(self, root: &Path) -> bool {
        let name = self.path.file_name().unwrap_or_default();
        fs::remove_file(root.join(RESERVED).join(name)).is_ok()
    }

    /// The next call, also one of this process, is to undo what there was no time for. If this fails, one does when this process
    /// has ended.
    pub(crate) fn leave(self) {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let _ = fs::rename(&self.path, self.path.with_file_name(name.replacen("intent", "undo", 1)));
    }
}

/// What is not there yet, asked in the order of paths.
struct Missing<'a> {
    root: &'a Path,
    /// Those that the last path is in, from the outermost.
    directories: Vec<String>,
    /// The last directory that was there.
    there: String,
}

impl Missing<'_> {
    fn put(&mut self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        let mut put = |what: u8, path: &str| out.write_all(&[0, what]).and_then(|()| out.write_all(path.as_bytes()));
        let path = &*entry.path;
        if entry.kind == EntryKind::Directory {
            return if self.directory(path, &mut put)? { Ok(()) } else { put(REPLACED, path) };
        }
        let is_new = match path.rsplit_once('/') {
            Some((directory, _)) => self.directory(directory, &mut put)?,
            None => false,
        };
        put(if is_new || self.lacks(path) { FILE } else { REPLACED }, path)
    }

    /// Whether a directory is not there. It and those that it is in are `put` if they have not been.
    fn directory(&mut self, path: &str, put: &mut impl FnMut(u8, &str) -> io::Result<()>) -> io::Result<bool> {
        while self.directories.pop_if(|above| !is_in(path, above)).is_some() {}
        let known = self.directories.last().map_or(0, String::len);
        if known == 0 && self.there == path {
            return Ok(false);
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for part in ends.filter(|&end| end > known).map(|end| &path[..end]) {
            if !self.directories.is_empty() || self.lacks(part) {
                put(DIRECTORY, part)?;
                self.directories.push(part.to_owned());
            }
        }
        if self.directories.is_empty() {
            path.clone_into(&mut self.there);
        }
        Ok(!self.directories.is_empty())
    }

    fn lacks(&self, path: &str) -> bool {
        fs::symlink_metadata(self.root.join(path)).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }
}

/// Whether a path is that of a directory, or of something in it.
fn is_in(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the process that wrote an intent is gone.
pub(crate) fn is_abandoned(mut intent: &File) -> bool {
    let mut owner = Vec::new();
    let read = BufReader::new(&mut intent).take(MAX_OWNER_BYTES).read_until(0, &mut owner);
    let read = read.and_then(|_| intent.metadata()?.modified());
    owner.pop_if(|last| *last == 0);
    let now = SystemTime::now();
    match (read, std::str::from_utf8(&owner)) {
        (Ok(written), Ok(owner)) => !leases::is_in_flight(owner, now, written),
        _ => false,
    }
}
