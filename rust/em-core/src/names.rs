//! Paths of entries: what may become a file-system path, and which two may not stand side by side.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use unicode_normalization::UnicodeNormalization;

use crate::{Error, Result};

/// Longest path of an entry, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

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

/// What a path meets among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing.
    Free,
    /// Itself.
    Same,
    /// Paths below it.
    Above,
    /// It is below this one.
    Below(String),
}

/// Paths in the order of their folded components: two that some file system would take for one, or of which one is
/// below the other, are neighbours. So a path is checked against two others, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By folded path, the paths that are spelled otherwise.
    spellings: BTreeMap<Folded, Option<Box<str>>>,
}

/// A folded path, with NUL, which sorts before every character of a name, for the slash.
type Folded = Box<str>;

impl Names {
    /// Paths of which none is below another.
    pub fn of<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut names: Vec<_> = paths.map(folded).collect();
        names.sort();
        for pair in names.windows(2) {
            if compare((&pair[0].0, pair[0].1.as_deref()), (&pair[1].0, pair[1].1.as_deref()))? != Meeting::Free {
                return Err(Error::invalid(format!("{:?} is there twice, or a file and a directory", path(&pair[0]))));
            }
        }
        Ok(Self { spellings: names.into_iter().collect() })
    }

    /// What `path` meets. `InvalidInput` if a part of it is spelled otherwise in another path.
    pub fn meet(&self, path: &str) -> Result<Meeting> {
        let (name, spelling) = folded(path);
        let before = self.spellings.range::<str, _>((Unbounded, Included(&*name))).next_back();
        let after = self.spellings.range::<str, _>((Excluded(&*name), Unbounded)).next();
        for (other, other_spelling) in before.into_iter().chain(after) {
            match compare((&name, spelling.as_deref()), (other, other_spelling.as_deref()))? {
                Meeting::Free => {}
                meeting => return Ok(meeting),
            }
        }
        Ok(Meeting::Free)
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &str) {
        self.spellings.extend([folded(path)]);
    }

    /// Removes a path.
    pub fn remove(&mut self, path: &str) {
        self.spellings.remove(&folded(path).0);
    }
}

/// The folded path, and the path itself if it is another.
fn folded(path: &str) -> (Folded, Option<Box<str>>) {
    let folded = fold(path).replace('/', "\0");
    let differs = folded.len() != path.len() || folded.bytes().zip(path.bytes()).any(|(f, p)| f != p && p != b'/');
    (folded.into(), differs.then(|| path.into()))
}

fn path((folded, spelling): &(Folded, Option<Box<str>>)) -> String {
    spelling.as_deref().map_or_else(|| folded.replace('\0', "/"), str::to_owned)
}

/// How a name stands to another, each given folded and, if it differs, as it is spelled.
fn compare(one: (&str, Option<&str>), other: (&str, Option<&str>)) -> Result<Meeting> {
    let mut components = (one.0.split('\0'), other.0.split('\0'));
    let mut shared = 0;
    let (rest, other_rest) = loop {
        match (components.0.next(), components.1.next()) {
            (Some(one), Some(other)) if one == other => shared += 1,
            ended => break (ended.0.is_some(), ended.1.is_some()),
        }
    };
    if shared == 0 {
        return Ok(Meeting::Free);
    }
    let path = |name: (&str, Option<&str>)| path(&(name.0.into(), name.1.map(Into::into)));
    if one.1.is_some() || other.1.is_some() {
        let (one, other) = (path(one), path(other));
        if !one.split('/').zip(other.split('/')).take(shared).all(|(one, other)| one == other) {
            let message = format!("{one:?} and {other:?} are one name on some file systems");
            return Err(Error::invalid(message).hint("rename one of them"));
        }
    }
    Ok(match (rest, other_rest) {
        (false, false) => Meeting::Same,
        (false, true) => Meeting::Above,
        (true, false) => Meeting::Below(path(other)),
        (true, true) => Meeting::Free,
    })
}
