//! The manifest: the canonical list of an artifact's entries. Its BLAKE3 is the artifact's version identity.
//!
//! `docs/formats.md` has the bytes. Decoding accepts the canonical form only, so equal content has one encoding.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Digest, Error, Result,
    names::{self, Meeting, Names},
};

const MAGIC: &[u8; 8] = b"EMMANIF\0";
const VERSION: u32 = 1;

/// Most entries of one manifest.
pub const MAX_ENTRIES: u64 = 10_000_000;

/// Longest URI or ETag of a reference, in bytes.
pub const MAX_TEXT_BYTES: usize = 8192;

/// One path of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative, normalized, `/`-separated.
    pub path: String,
    /// What is there.
    pub kind: EntryKind,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File {
        /// Bytes.
        size: u64,
        /// Its object.
        digest: Digest,
        /// Whether its owner may run it.
        executable: bool,
    },
    /// An empty directory.
    Directory,
    /// Something elsewhere.
    Reference(Box<Reference>),
}

/// A URI and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it is.
    pub uri: String,
    /// Bytes, if known.
    pub size: Option<u64>,
    /// HTTP entity tag, if known.
    pub etag: Option<String>,
    /// BLAKE3 of the content, if known.
    pub digest: Option<Digest>,
}

/// Entries sorted by the bytes of their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: BTreeMap<String, EntryKind>,
    names: Names,
}

impl Manifest {
    /// All entries, sorted.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &EntryKind)> {
        self.entries.iter().map(|(path, kind)| (path.as_str(), kind))
    }

    /// The entry at a path.
    pub fn get(&self, path: &str) -> Option<&EntryKind> {
        self.entries.get(path)
    }

    /// The manifest with `added`, which replace files by files. An empty directory gives way to what is put into
    /// it. A file where a directory is, or the reverse, is an `InvalidInput`.
    pub fn with(mut self, added: impl IntoIterator<Item = Entry>) -> Result<Self> {
        for Entry { path, kind } in added {
            names::check(&path)?;
            if let EntryKind::Reference(reference) = &kind {
                check_reference(reference)?;
            }
            let is_dir = |kind: Option<&EntryKind>| matches!(kind, Some(EntryKind::Directory));
            let fits = match self.names.meet(&path)? {
                Meeting::Free => true,
                Meeting::Same => is_dir(self.get(&path)) == is_dir(Some(&kind)),
                Meeting::Above if is_dir(Some(&kind)) => continue,
                Meeting::Above => false,
                Meeting::Below(above) => {
                    let gives_way = is_dir(self.get(&above));
                    if gives_way {
                        self.names.remove(&above);
                        self.entries.remove(&above);
                    }
                    gives_way
                }
            };
            if !fits {
                let message = format!("{path:?}: there would be a file and a directory of one name");
                return Err(Error::invalid(message).hint("use another obj_path"));
            }
            self.names.insert(&path);
            self.entries.insert(path, kind);
        }
        if self.entries.len() as u64 > MAX_ENTRIES {
            return Err(Error::invalid(format!("an artifact has at most {MAX_ENTRIES} entries")));
        }
        Ok(self)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + self.entries.len() * 96);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for (path, kind) in &self.entries {
            let tag = match kind {
                EntryKind::File { executable, .. } => u8::from(*executable),
                EntryKind::Directory => 2,
                EntryKind::Reference(_) => 3,
            };
            bytes.push(tag);
            put_text(&mut bytes, path);
            match kind {
                EntryKind::File { size, digest, .. } => {
                    bytes.extend_from_slice(&size.to_le_bytes());
                    bytes.extend_from_slice(&digest.0);
                }
                EntryKind::Directory => {}
                EntryKind::Reference(reference) => {
                    let Reference { uri, size, etag, digest } = &**reference;
                    let known = [size.is_some(), etag.is_some(), digest.is_some()];
                    bytes.push(known.iter().enumerate().map(|(bit, &set)| u8::from(set) << bit).sum());
                    put_text(&mut bytes, uri);
                    bytes.extend(size.iter().flat_map(|size| size.to_le_bytes()));
                    if let Some(etag) = etag {
                        put_text(&mut bytes, etag);
                    }
                    bytes.extend(digest.iter().flat_map(|digest| digest.0));
                }
            }
        }
        bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the canonical bytes; anything else is an `Integrity` error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::integrity(format!("not a manifest: {what}"));
        let (body, trailer) = bytes.split_last_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        let mut reader = Reader { bytes: body };
        if reader.array::<8>() != Some(*MAGIC) {
            return Err(damaged("wrong magic"));
        }
        match reader.array().map(u32::from_le_bytes) {
            Some(VERSION) => {}
            version => {
                let message = format!("manifest version {} is not known", version.unwrap_or_default());
                return Err(Error::integrity(message).hint("upgrade the package"));
            }
        }
        if xxhash_rust::xxh3::xxh3_64(body).to_le_bytes() != *trailer {
            return Err(damaged("checksum does not match"));
        }
        let count = reader.array().map(u64::from_le_bytes).ok_or_else(|| damaged("truncated"))?;
        if count > MAX_ENTRIES {
            return Err(damaged("too many entries"));
        }
        let mut entries: Vec<(String, EntryKind)> = Vec::new();
        for _ in 0..count {
            let Entry { path, kind } = reader.entry().ok_or_else(|| damaged("bad entry"))?;
            names::check(&path).map_err(|error| damaged(&error.message))?;
            if entries.last().is_some_and(|(last, _)| *last >= path) {
                return Err(damaged("entries are not sorted"));
            }
            entries.push((path, kind));
        }
        if !reader.bytes.is_empty() {
            return Err(damaged("bytes are left over"));
        }
        let names = Names::of(entries.iter().map(|(path, _)| path.as_str()));
        Ok(Self { names: names.map_err(|error| damaged(&error.message))?, entries: entries.into_iter().collect() })
    }

    /// The objects of its files with their sizes, each once, in the order of the paths. One that has two sizes is an
    /// `Integrity` error.
    pub fn objects(&self) -> Result<Vec<(Digest, u64)>> {
        let (mut objects, mut sizes) = (Vec::new(), HashMap::new());
        for (path, kind) in self.entries() {
            let EntryKind::File { size, digest, .. } = *kind else { continue };
            match sizes.insert(digest, size) {
                None => objects.push((digest, size)),
                Some(other) if other != size => {
                    let message = format!("{path:?}: object {digest} has {size} bytes and elsewhere {other}");
                    return Err(Error::integrity(message));
                }
                Some(_) => {}
            }
        }
        Ok(objects)
    }

    /// The version identity.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

fn check_reference(reference: &Reference) -> Result<()> {
    if reference.uri.is_empty() || reference.uri.len() > MAX_TEXT_BYTES {
        return Err(Error::invalid(format!("the URI of a reference has 1 to {MAX_TEXT_BYTES} bytes")));
    }
    if reference.etag.as_ref().is_some_and(|etag| etag.len() > MAX_TEXT_BYTES) {
        return Err(Error::invalid(format!("the ETag of a reference has at most {MAX_TEXT_BYTES} bytes")));
    }
    Ok(())
}

/// Length as u16 (all texts are capped below it), then the bytes.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*head)
    }

    fn text(&mut self, cap: usize) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (head, rest) = self.bytes.split_at_checked(length).filter(|_| length <= cap)?;
        self.bytes = rest;
        std::str::from_utf8(head).ok().map(str::to_owned)
    }

    fn entry(&mut self) -> Option<Entry> {
        let [tag] = self.array()?;
        let path = self.text(names::MAX_PATH_BYTES)?;
        let kind = match tag {
            0 | 1 => EntryKind::File {
                size: u64::from_le_bytes(self.array()?),
                digest: Digest(self.array()?),
                executable: tag == 1,
            },
            2 => EntryKind::Directory,
            3 => {
                let [known] = self.array()?;
                let uri = self.text(MAX_TEXT_BYTES).filter(|uri| !uri.is_empty() && known < 8)?;
                let size = if known & 1 != 0 { Some(u64::from_le_bytes(self.array()?)) } else { None };
                let etag = if known & 2 != 0 { Some(self.text(MAX_TEXT_BYTES)?) } else { None };
                let digest = if known & 4 != 0 { Some(Digest(self.array()?)) } else { None };
                EntryKind::Reference(Box::new(Reference { uri, size, etag, digest }))
            }
            _ => return None,
        };
        Some(Entry { path, kind })
    }
}
