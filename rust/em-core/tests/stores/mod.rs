//! Stores with some files, and the chunks of these.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, path::Path};

use em_core::{
    Digest,
    add::Add,
    artifact::ArtifactDir,
    cancel::Progress,
    pack::plan::Piece,
    stat_cache::StatCache,
    store::{Store, link::LinkMode},
};

pub fn random(seed: u64, bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A store with these files.
pub fn stored(root: &Path, files: &[Vec<u8>]) -> Store {
    let (source, store) =
        (root.join("source"), Store::open(&root.join("store")).unwrap().with_link_mode(Some(LinkMode::Copy)));
    fs::create_dir_all(&source).unwrap();
    for (index, bytes) in files.iter().enumerate() {
        fs::write(source.join(index.to_string()), bytes).unwrap();
    }
    let artifact = ArtifactDir::create(&root.join("artifact")).unwrap();
    let (cache, progress) = (StatCache::open(&root.join("cache")), Progress::default());
    let add =
        Add { store: &store, artifact: &artifact, cache: &cache, progress: &progress, threads: 2, chunk_tables: true };
    add.dir(&source, "").unwrap();
    store
}

/// Where the chunks of an object are: of its table, or the object itself.
pub fn pieces(store: &Store, object: Digest) -> Vec<Piece> {
    let chunks = match store.open_table(object).unwrap() {
        Some((file, table)) => table.chunks(&file, 0, table.count).unwrap(),
        None => match store.size_without_table(object).unwrap() {
            0 => Vec::new(),
            size => vec![(object, size as u32)],
        },
    };
    let place = |offset: &mut u64, (digest, bytes): (Digest, u32)| {
        *offset += u64::from(bytes);
        Some((*offset - u64::from(bytes), digest, bytes))
    };
    chunks.into_iter().scan(0, place).collect()
}
