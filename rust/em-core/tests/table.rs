//! The chunk table: written out of order, read strictly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{fs::File, io::Read};

use em_core::{
    Digest, Kind,
    chunk::{
        ChunkerId, MAX_CHUNK_BYTES,
        table::{ChunkTable, TableReader, TableWriter},
    },
};
use proptest::prelude::*;

/// The bytes that the writer leaves when `puts` (first index, records) arrive in this order.
fn write(chunker: ChunkerId, size: u64, count: u64, puts: &[(u64, &[(Digest, u32)])]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = TableWriter::new(chunker, size);
    for (index, chunks) in puts {
        writer.put(file.as_file(), *index, chunks).unwrap();
    }
    writer.finish(file.as_file(), count).unwrap();
    let mut bytes = Vec::new();
    File::open(file.path()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn table(chunker: ChunkerId, lengths: &[u32]) -> ChunkTable {
    let chunks: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| (Digest::of(&i.to_le_bytes()), n)).collect();
    ChunkTable { chunker, object_size: lengths.iter().map(|&n| u64::from(n)).sum(), chunks }
}

fn encode(table: &ChunkTable) -> Vec<u8> {
    write(table.chunker, table.object_size, table.chunks.len() as u64, &[(0, &table.chunks)])
}

/// The table, read whole; one that is read in parts must be the same, or refused alike.
fn decode(bytes: &[u8]) -> em_core::Result<ChunkTable> {
    let whole = ChunkTable::decode(bytes);
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    match (&whole, TableReader::check(&file)) {
        (Ok(table), Ok(reader)) => {
            let parts = (0..=reader.count).flat_map(|number| reader.chunks(&file, number, 1).unwrap());
            assert_eq!(parts.collect::<Vec<_>>(), table.chunks);
            assert_eq!((reader.chunker, reader.object_size), (table.chunker, table.object_size));
            assert_eq!(reader.table_bytes(), bytes.len() as u64);
        }
        (Err(error), Err(other)) => assert_eq!(error.kind, other.kind),
        (whole, parts) => panic!("{whole:?} and {parts:?}"),
    }
    whole
}

/// Fixed bytes: `tests/fixtures/chunk-table-v1.bin`.
fn fixed() -> ChunkTable {
    table(ChunkerId::TensorV1, &[88, 1 << 20, MAX_CHUNK_BYTES, 1])
}

fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = xxhash_rust::xxh3::xxh3_64(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

#[test]
fn encoding_is_the_fixture_and_decodes_back() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/chunk-table-v1.bin");
    let bytes = encode(&fixed());
    if std::env::var_os("EM_WRITE_FIXTURES").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    assert_eq!(decode(&bytes).unwrap(), fixed());
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_error() {
    let bytes = encode(&fixed());
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]).unwrap_err().kind, Kind::Integrity, "{end}");
    }
    for at in 0..bytes.len() {
        for mask in 1..=255 {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            assert!(ChunkTable::decode(&flipped).is_err(), "{at} {mask}");
        }
    }
}

#[test]
fn resealed_lies_are_refused() {
    let good = encode(&fixed());
    let body = &good[..good.len() - 8];
    let set = |at: usize, value: &[u8]| {
        let mut body = body.to_vec();
        body[at..at + value.len()].copy_from_slice(value);
        sealed(body)
    };
    assert!(decode(&set(0, b"EMCHUNK\0")).is_ok());
    for (why, bytes) in [
        ("magic", set(0, b"X")),
        ("version", set(8, &2u32.to_le_bytes())),
        ("chunker 0", set(12, &0u32.to_le_bytes())),
        ("chunker 3", set(12, &3u32.to_le_bytes())),
        ("object size", set(16, &1u64.to_le_bytes())),
        ("count", set(24, &5u64.to_le_bytes())),
        ("count that overflows", set(24, &u64::MAX.to_le_bytes())),
        ("count that wraps to the right length", set(24, &((1u64 << 62) + 4).to_le_bytes())),
        ("empty chunk", set(32 + 32, &0u32.to_le_bytes())),
        ("chunk too long", set(32 + 32, &(MAX_CHUNK_BYTES + 1).to_le_bytes())),
    ] {
        assert_eq!(decode(&bytes).unwrap_err().kind, Kind::Integrity, "{why}");
    }
    for end in 0..body.len() {
        assert!(decode(&sealed(body[..end].to_vec())).is_err(), "{end}");
    }
}

#[test]
fn a_newer_version_is_named_with_a_hint() {
    let mut body = encode(&fixed());
    body.truncate(body.len() - 8);
    body[8] = 2;
    let error = decode(&sealed(body)).unwrap_err();
    assert!(error.message.contains("version 2") && error.hint.is_some(), "{error}");
}

#[test]
fn a_table_longer_than_the_checksum_buffer_is_written_whole() {
    let table = table(ChunkerId::CdcV1, &vec![1; 20_000]);
    assert_eq!(decode(&encode(&table)).unwrap(), table);
}

#[test]
fn a_file_that_held_a_longer_table_is_not_left_with_its_tail() {
    let file = tempfile::tempfile().unwrap();
    for lengths in [vec![5; 9], vec![5; 3]] {
        let table = table(ChunkerId::CdcV1, &lengths);
        let writer = TableWriter::new(table.chunker, table.object_size);
        writer.put(&file, 0, &table.chunks).unwrap();
        writer.finish(&file, lengths.len() as u64).unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 32 + 3 * 36 + 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn records_in_any_order_give_the_same_table(
        lengths in prop::collection::vec(1..=MAX_CHUNK_BYTES, 0..40), tensor in any::<bool>(), seed in any::<u64>(),
    ) {
        let table = table(if tensor { ChunkerId::TensorV1 } else { ChunkerId::CdcV1 }, &lengths);
        let mut puts: Vec<_> = table.chunks.chunks(3).enumerate().map(|(i, c)| (i as u64 * 3, c)).collect();
        puts.sort_by_key(|(i, _)| Digest::of(&(i ^ seed).to_le_bytes()));
        let bytes = write(table.chunker, table.object_size, lengths.len() as u64, &puts);
        prop_assert_eq!(&bytes, &encode(&table));
        prop_assert_eq!(decode(&bytes).map_err(|e| TestCaseError::fail(e.to_string()))?, table);
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), count in 0u64..9) {
        let _ = decode(&tail);
        let mut bytes = b"EMCHUNK\0\x01\0\0\0\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&tail);
        let _ = decode(&sealed(bytes.clone()));
        bytes.splice(16..16, [0; 8].into_iter().chain(count.to_le_bytes()));
        let _ = decode(&sealed(bytes));
    }
}
