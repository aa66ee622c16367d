//! Paths of entries: what may become a file-system path, and which two may not stand side by side.

use std::collections::HashMap;

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
/// <https://learn.microsoft.com/windows/win32/fileio/naming-a-file>
pub fn is_reserved_on_windows(path: &str) -> bool {
    path.split('/').any(|name| {
        let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
        let port =
            |prefix| stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && matches!(n.as_bytes(), [b'1'..=b'9']));
        matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
            || port("COM")
            || port("LPT")
            || name.ends_with(['.', ' '])
            || name.chars().any(|c| c.is_ascii_control() || "<>:\"|?*\\".contains(c))
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

/// Refuses paths that some file system would take for the same, and paths below a file.
#[derive(Debug, Default)]
pub struct Collisions {
    /// Folded path of every file and every directory on the way to one: its spelling, and whether it is a file.
    seen: HashMap<String, (String, bool)>,
}

impl Collisions {
    /// Adds a file (or reference), or an empty directory.
    pub fn insert(&mut self, path: &str, is_file: bool) -> Result<()> {
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let (prefix, file) = (&path[..end], is_file && end == path.len());
            match self.seen.get(&fold(prefix)) {
                Some((other, _)) if other != prefix => {
                    let message = format!("{path:?} and {other:?} are one name on some file systems");
                    return Err(Error::invalid(message).hint("rename one of them"));
                }
                Some((_, other_file)) if *other_file != file => {
                    let message = format!("{path:?}: {prefix:?} would be a file and a directory");
                    return Err(Error::invalid(message).hint("use another obj_path"));
                }
                Some(_) => {}
                None => {
                    self.seen.insert(fold(prefix), (prefix.to_owned(), file));
                }
            }
        }
        Ok(())
    }
}
