//! What becomes of the files of a call: 33 bytes for each.

use std::{collections::BTreeMap, time::Instant};

use crate::{
    Digest, Result,
    cancel::{LAST_WORDS, Progress},
    scan::Tree,
    stat_cache::{StatCache, shard_of},
};

/// The stat cache knows the digest.
const KNOWN: u8 = 1;
/// The file has its digest.
const DONE: u8 = 2;
/// This call stored the object.
const NEW: u8 = 4;
/// Its bytes were hashed, and its times can vouch for them.
const VOUCHED: u8 = 8;

/// The objects of a tree's files, by their numbers.
#[derive(Clone, Debug)]
pub struct Objects {
    digests: Vec<Digest>,
    flags: Vec<u8>,
    /// Sizes of files that changed after they were listed, and whether they are executable now.
    changed: BTreeMap<usize, (u64, bool)>,
}

impl Objects {
    /// With what the stat cache knows of the files.
    pub(super) fn known(tree: &Tree, cache: &StatCache, progress: &Progress) -> Result<Self> {
        let mut objects =
            Self { digests: vec![Digest([0; 32]); tree.len()], flags: vec![0; tree.len()], changed: BTreeMap::new() };
        for index in by_shard(tree) {
            progress.check()?;
            if tree.is_directory(index) {
                objects.flags[index] = DONE;
                continue;
            }
            if let Some(digest) = cache.lookup(&tree.stat(index)) {
                (objects.digests[index], objects.flags[index]) = (digest, KNOWN);
            }
        }
        Ok(objects)
    }

    /// What the stat cache said of a file that is not done.
    pub(super) fn asked(&self, index: usize) -> Option<Digest> {
        (self.flags[index] & KNOWN != 0).then_some(self.digests[index])
    }

    /// A file is done. The stat cache is to know of it if it is `vouched` for.
    pub(super) fn done(&mut self, index: usize, digest: Digest, new: bool, vouched: bool) {
        let flag = |set, flag| if set { flag } else { 0 };
        self.digests[index] = digest;
        self.flags[index] = DONE | flag(new, NEW) | flag(vouched, VOUCHED);
    }

    /// It has changed since it was listed.
    pub(super) fn changed(&mut self, index: usize, size_bytes: u64, executable: bool) {
        self.changed.insert(index, (size_bytes, executable));
    }

    pub(super) fn are_all_done(&self) -> bool {
        self.flags.iter().all(|flags| flags & DONE != 0)
    }

    /// Tells the stat cache what was hashed; after a cancel only a part of it.
    pub(super) fn remember(&self, tree: &Tree, cache: &StatCache, progress: &Progress) {
        let began = Instant::now();
        for index in by_shard(tree) {
            if self.flags[index] & VOUCHED == 0 {
                continue;
            }
            if progress.check().is_err() && began.elapsed() > LAST_WORDS {
                return;
            }
            cache.record(&tree.stat(index), self.digests[index]);
        }
    }

    /// The object of a file.
    pub fn digest(&self, index: usize) -> Digest {
        self.digests[index]
    }

    /// Its size.
    pub fn size_bytes(&self, tree: &Tree, index: usize) -> u64 {
        self.changed.get(&index).map_or_else(|| tree.stat(index).size, |&(size_bytes, _)| size_bytes)
    }

    /// Whether the file may be executed.
    pub fn is_executable(&self, tree: &Tree, index: usize) -> bool {
        self.changed.get(&index).map_or_else(|| tree.is_executable(index), |&(_, executable)| executable)
    }

    /// Whether this call stored it; `false` if the store had it.
    pub fn is_new(&self, index: usize) -> bool {
        self.flags[index] & NEW != 0
    }
}

/// The files in the order of the stat cache's shards.
fn by_shard(tree: &Tree) -> impl Iterator<Item = usize> {
    let shard = |index| usize::from(shard_of(&tree.stat(index)));
    let mut starts = [0; 257];
    for index in 0..tree.len() {
        starts[shard(index) + 1] += 1;
    }
    for shard in 0..256 {
        starts[shard + 1] += starts[shard];
    }
    let mut order = vec![0u32; tree.len()];
    for index in 0..tree.len() {
        let place = &mut starts[shard(index)];
        order[*place] = index as u32;
        *place += 1;
    }
    order.into_iter().map(|index| index as usize)
}
