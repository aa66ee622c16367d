//! What artifacts share: entry by entry, and chunk by chunk.

use std::collections::{HashMap, HashSet};

use crate::{
    Digest, Result,
    manifest::{EntryKind, Manifest},
    store::Store,
};

/// How two versions differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Paths that only the second has.
    pub added: Vec<String>,
    /// Paths that only the first has.
    pub removed: Vec<String>,
    /// Paths that are in both and differ.
    pub changed: Vec<String>,
    /// Bytes of the second's distinct chunks that the first has too.
    pub shared_bytes: u64,
    /// Bytes of the second's distinct chunks.
    pub unique_bytes: u64,
}

/// Compares two manifests; reads the chunk tables of both from the store.
pub fn diff(store: &Store, first: &Manifest, second: &Manifest) -> Result<Diff> {
    let mut diff = Diff::default();
    for (path, kind) in second.entries() {
        match first.get(path) {
            None => diff.added.push(path.to_owned()),
            Some(old) if old != kind => diff.changed.push(path.to_owned()),
            Some(_) => {}
        }
    }
    let removed = first.entries().filter(|(path, _)| second.get(path).is_none());
    diff.removed = removed.map(|(path, _)| path.to_owned()).collect();
    let (old, new) = (chunks(store, first)?, chunks(store, second)?);
    diff.unique_bytes = new.values().sum();
    diff.shared_bytes = new.iter().filter(|(digest, _)| old.contains_key(*digest)).map(|(_, bytes)| bytes).sum();
    Ok(diff)
}

/// What an artifact occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all its files.
    pub apparent_bytes: u64,
    /// Bytes of its distinct objects: what the store keeps for it.
    pub stored_bytes: u64,
    /// Bytes of those objects that no other of the artifacts has.
    pub unique_bytes: u64,
}

/// Usage of each of some artifacts, and of all of them together.
pub fn usage(manifests: &[Manifest]) -> (Vec<Usage>, Usage) {
    let objects: Vec<HashMap<Digest, u64>> = manifests.iter().map(|manifest| files(manifest).collect()).collect();
    let mut owners: HashMap<Digest, u64> = HashMap::new();
    for digest in objects.iter().flat_map(HashMap::keys) {
        *owners.entry(*digest).or_default() += 1;
    }
    let sum = |objects: &HashMap<Digest, u64>, wanted: &dyn Fn(&Digest) -> bool| {
        objects.iter().filter(|(digest, _)| wanted(digest)).map(|(_, bytes)| bytes).sum()
    };
    let apparent = |manifest: &Manifest| files(manifest).map(|(_, bytes)| bytes).sum::<u64>();
    let each = manifests.iter().zip(&objects).map(|(manifest, objects)| Usage {
        apparent_bytes: apparent(manifest),
        stored_bytes: sum(objects, &|_| true),
        unique_bytes: sum(objects, &|digest| owners[digest] == 1),
    });
    let mut seen = HashSet::new();
    let all = objects.iter().flatten().filter(|(digest, _)| seen.insert(**digest)).map(|(_, bytes)| bytes).sum();
    let total = Usage { apparent_bytes: manifests.iter().map(apparent).sum(), stored_bytes: all, unique_bytes: all };
    (each.collect(), total)
}

fn files(manifest: &Manifest) -> impl Iterator<Item = (Digest, u64)> {
    manifest.entries().filter_map(|(_, kind)| match kind {
        EntryKind::File { size, digest, .. } => Some((*digest, *size)),
        _ => None,
    })
}

/// The distinct chunks of an artifact with their bytes. An object without a table is one chunk.
fn chunks(store: &Store, manifest: &Manifest) -> Result<HashMap<Digest, u64>> {
    let mut chunks = HashMap::new();
    let mut seen = HashSet::new();
    for (digest, size) in files(manifest).filter(|(digest, _)| seen.insert(*digest)) {
        match store.chunk_table(digest)? {
            Some(table) => chunks.extend(table.chunks.iter().map(|(digest, bytes)| (*digest, u64::from(*bytes)))),
            None => drop(chunks.insert(digest, size)),
        }
    }
    Ok(chunks)
}
