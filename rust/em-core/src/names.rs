//! Paths of entries: what may become a file-system path, and which two may not stand side by side.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// Longest path of an entry, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

/// Longest path that a system call takes, in bytes.
const MAX_WHOLE_PATH_BYTES: usize = 4095;

/// Longest component of a path, in bytes.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Whether `path` may name an entry: relative, normalized, `/`-separated, not below `.artifact`.
pub fn check(path: &str) -> Result<()> {
    let refuse = |why: &str| {
        let shown: String = path.chars().take(200).collect();
        Err(Error::invalid(format!("obj_path {shown:?} {why}")).hint("use a relative path such as \"a/1.png\""))
    };
    if path.is_empty() {
        return refuse("is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return refuse("is longer than 4096 bytes");
    }
    if path.starts_with('/') {
        return refuse("is absolute");
    }
    if path.contains('\0') {
        return refuse("contains a NUL");
    }
    for component in path.split('/') {
        match component {
            "" => return refuse("has an empty component"),
            "." | ".." => return refuse("is not normalized"),
            _ if component.len() > MAX_COMPONENT_BYTES => return refuse("has a component longer than 255 bytes"),
            _ => {}
        }
    }
    let first = path.split('/').next().unwrap_or_default();
    if fold(first) == crate::artifact::RESERVED {
        return refuse("is reserved");
    }
    Ok(())
}

/// Whether a file with this path below `root` can be opened by its whole path. The engine could make it all the same.
pub(crate) fn check_below(root: &Path, path: &str) -> Result<()> {
    if root.as_os_str().len() + 1 + path.len() <= MAX_WHOLE_PATH_BYTES {
        return Ok(());
    }
    let shown: String = path.chars().take(200).collect();
    let message =
        format!("obj_path {shown:?} is too long below {}: nothing opens more than 4095 bytes", root.display());
    Err(Error::invalid(message).hint("a shorter EM_ARTIFACT_PARENT_DIR leaves more room"))
}

/// Whether Windows refuses the path: a device's name, a forbidden character, or a dot or space at the end.
/// Its devices count with superscript digits too.
/// <https://learn.microsoft.com/windows/win32/fileio/naming-a-file>
pub fn is_reserved_on_windows(path: &str) -> bool {
    path.split('/').any(|name| {
        let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let port = |prefix| {
            let number = stem.strip_prefix(prefix).map(|number| number.chars().collect::<Vec<_>>());
            matches!(number.as_deref(), Some(['1'..='9' | '¹' | '²' | '³']))
        };
        matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
            || port("COM")
            || port("LPT")
            || name.ends_with(['.', ' '])
            || name.chars().any(|c| c < ' ' || "<>:\"|?*\\".contains(c))
    })
}

/// What a case-insensitive, normalizing file system takes a name for.
pub fn fold(name: &str) -> String {
    if name.is_ascii() {
        name.to_ascii_lowercase()
    } else {
        // Character by character, lower, upper, lower: `str::to_lowercase` alone keeps a final sigma, a long s
        // and a sharp s apart from what file systems take them for.
        let kept = name.nfd().filter(|&c| !is_ignorable(c));
        let lower: String =
            kept.flat_map(char::to_lowercase).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect();
        lower.nfc().collect()
    }
}

/// Characters that case-folding file systems (ext4, HFS+) do not compare: soft hyphen, zero-width and
/// direction marks, variation selectors and tags.
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Paths that come in the order of their bytes, each checked against all before it: sorted, none below a file, no two
/// that some file system takes for one.
///
/// Costs eight bytes for each name in the directories that the last path is in, however long the names are: of a name
/// only a hash of its folding is kept. Two that are equal are a suspicion, which [`Suspects`] settles.
#[derive(Debug, Default)]
pub struct Sorted {
    last: String,
    /// Entries that the last path continues, byte by byte: only they can be above the next one.
    above: Vec<Above>,
    /// Directories that the last path is in, from the root on.
    open: Vec<Directory>,
    suspects: HashSet<u64>,
    count: u64,
}

#[derive(Debug)]
struct Above {
    /// Bytes of its path, which is the beginning of the last one.
    length: usize,
    is_directory: bool,
    number: u64,
    gave_way: bool,
}

#[derive(Debug)]
struct Directory {
    /// Bytes of its path, which is the beginning of the last one.
    length: usize,
    names: Vec<u64>,
}

impl Sorted {
    /// The next path. `gives_way` gets the number, counted from zero, of an entry for an empty directory that the path
    /// is below. A file there, or a path that is not behind the one before, is an `InvalidInput`.
    pub fn push(&mut self, path: &str, is_directory: bool, mut gives_way: impl FnMut(u64)) -> Result<()> {
        if self.count > 0 && self.last.as_str() >= path {
            return Err(Error::invalid(format!("{path:?} is there twice, or not sorted")));
        }
        let shared = self.last.bytes().zip(path.bytes()).take_while(|(last, this)| last == this).count();
        while self.above.last().is_some_and(|entry| entry.length > shared) {
            self.above.pop();
        }
        for entry in self.above.iter_mut().filter(|entry| path.as_bytes().get(entry.length) == Some(&b'/')) {
            if !entry.is_directory {
                let message = format!("{path:?}: there would be a file and a directory of one name");
                return Err(Error::invalid(message).hint("use another obj_path"));
            }
            if !std::mem::replace(&mut entry.gave_way, true) {
                gives_way(entry.number);
            }
        }
        while self.open.len() > 1 && self.open.last().is_some_and(|directory| directory.length >= shared) {
            self.close();
        }
        if self.open.is_empty() {
            self.open.push(Directory { length: 0, names: Vec::new() });
        }
        let mut start = self.open.last().map_or(0, |directory| directory.length + usize::from(self.open.len() > 1));
        while let Some(directory) = self.open.last_mut() {
            let end = path[start..].find('/').map(|at| start + at);
            let name = &path[start..end.unwrap_or(path.len())];
            // An entry for the directory itself has brought its name already.
            if !end.is_some_and(|end| self.above.iter().any(|entry| entry.length == end)) {
                directory.names.push(folded_hash(name));
            }
            let Some(end) = end else { break };
            self.open.push(Directory { length: end, names: Vec::new() });
            start = end + 1;
        }
        self.above.push(Above { length: path.len(), is_directory, number: self.count, gave_way: false });
        self.last.clear();
        self.last.push_str(path);
        self.count += 1;
        Ok(())
    }

    fn close(&mut self) {
        let Some(Directory { mut names, .. }) = self.open.pop() else { return };
        names.sort_unstable();
        self.suspects.extend(names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
    }

    /// After the last path: what remains to be settled by giving all paths once more; nearly always nothing.
    pub fn finish(mut self) -> Option<Suspects> {
        while !self.open.is_empty() {
            self.close();
        }
        (!self.suspects.is_empty()).then_some(Suspects { hashes: self.suspects, seen: HashMap::new() })
    }
}

/// Names whose foldings have one hash, so that they are probably one name on some file systems.
#[derive(Debug)]
pub struct Suspects {
    hashes: HashSet<u64>,
    /// By directory and folded name, a path with it.
    seen: HashMap<(String, String), String>,
}

impl Suspects {
    /// The paths in the same order once more. `InvalidInput` if a part of one is spelled otherwise in another.
    pub fn push(&mut self, path: &str) -> Result<()> {
        let mut start = 0;
        for name in path.split('/') {
            let (directory, end) = (&path[..start], start + name.len());
            start = end + 1;
            if !self.hashes.contains(&folded_hash(name)) {
                continue;
            }
            let other = self.seen.entry((directory.to_owned(), fold(name))).or_insert_with(|| path.to_owned());
            if other.get(directory.len()..).and_then(|rest| rest.split('/').next()) != Some(name) {
                let message = format!("{other:?} and {path:?} are one name on some file systems");
                return Err(Error::invalid(message).hint("rename one of them"));
            }
        }
        Ok(())
    }
}

fn folded_hash(name: &str) -> u64 {
    let is_folded = name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase());
    if is_folded { xxh3_64(name.as_bytes()) } else { xxh3_64(fold(name).as_bytes()) }
}
