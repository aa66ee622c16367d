//! Every parser on mutated and on made-up input: no panic, memory in proportion to the input, and what decodes
//! encodes to the same bytes.
//!
//! A million cases of each: `PROPTEST_CASES=1000000 cargo test --release -p em-core --test parsers --test pack_parsers`, with `TMPDIR` in
//! memory. Failures are kept in `parsers.regressions`. On 2026-11-25 and 26 each parser here ran so
//! without one, leases and the stat cache in several runs (their cases are `gc` runs on real files, and write a file each), manifests
//! after they were streamed, chunk tables also read in parts, intents with what interrupted adds leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::Duration,
};

use counting::peak_bytes;
use edits::{bounded, config, edited, edited_and_sealed, edits, lie, number, sealed};
use em_core::{
    Digest,
    artifact::ArtifactDir,
    cancel::Progress,
    chunk::{
        Carry, Chunker, ChunkerId, MAX_CHUNK_BYTES,
        format::index,
        table::{ChunkTable, TableReader, TableWriter},
        tensor::Tensor,
    },
    gc::gc,
    manifest::{Entry, EntryKind, Manifest, Reference},
    scan::Stat,
    stat_cache::StatCache,
    store::Store,
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use samples::{noise, npy, raw_gguf, raw_safetensors, safetensors, small, torch, zip};
use xxhash_rust::xxh3::xxh3_64;

mod counting;
mod edits;
mod samples;

// Manifest

fn check_manifest(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (decoded, peak) = peak_bytes(|| Manifest::decode(bytes));
    // An entry of a few bytes becomes strings for a moment, and hashes of the names in its path.
    bounded(peak, bytes, 200)?;
    if let Ok(manifest) = decoded {
        prop_assert_eq!(manifest.encode().unwrap(), bytes);
    }
    Ok(())
}

fn component() -> impl Strategy<Value = String> {
    let good = select(vec!["a", "b", "c", "d", "A", "é", "ß", "con", "日本"]).prop_map(str::to_owned);
    let bad = select(vec!["e\u{301}", "..", ".", "", ".artifact", "x\u{200d}", "\0"]).prop_map(str::to_owned);
    prop_oneof![30 => good, 1 => bad, 1 => "\\PC{0,6}", 1 => (250..260usize).prop_map(|n| "n".repeat(n))]
}

fn path() -> impl Strategy<Value = String> {
    vec(component(), 1..4).prop_map(|components| components.join("/"))
}

fn entry() -> impl Strategy<Value = Entry> {
    let digest = || any::<[u8; 32]>().prop_map(Digest);
    let file = (any::<u64>(), digest(), any::<bool>());
    let file = file.prop_map(|(size, digest, executable)| EntryKind::File { size, digest, executable });
    let known = (".{1,20}", prop::option::of(any::<u64>()), prop::option::of(".{0,9}"), prop::option::of(digest()));
    let reference = known
        .prop_map(|(uri, size, etag, digest)| EntryKind::Reference(Box::new(Reference { uri, size, etag, digest })));
    (path(), prop_oneof![file, Just(EntryKind::Directory), reference]).prop_map(|(path, kind)| Entry { path, kind })
}

/// Those of the entries that fit together.
fn manifest() -> impl Strategy<Value = Manifest<'static>> {
    vec(entry(), 0..6).prop_map(|entries| {
        let mut manifest = Manifest::default();
        for entry in entries {
            manifest = manifest.with([entry]).unwrap_or(manifest);
        }
        manifest
    })
}

/// Entries written as they come: whatever tag, path, flags and rest.
fn raw_manifest() -> impl Strategy<Value = Vec<u8>> {
    let text = |text: &str| [&(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
    let tag = prop_oneof![20 => 0..4u8, 1 => any::<u8>()];
    let known = prop_oneof![9 => 0..8u8, 1 => any::<u8>()];
    let tail = prop_oneof![20 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..9)];
    let entry = (tag, path(), known, ".{0,5}", any::<[u8; 40]>(), tail).prop_map(
        move |(tag, path, known, string, rest, tail)| {
            let mut bytes = [vec![tag], text(&path)].concat();
            match tag {
                2 => {}
                3 => {
                    bytes.extend([vec![known], text(&string)].concat());
                    let fields = [rest[..8].to_vec(), text(&string), rest[8..].to_vec()];
                    bytes.extend((0..3).filter(|bit| known >> bit & 1 == 1).flat_map(|bit| fields[bit].clone()));
                }
                _ => bytes.extend(rest),
            }
            bytes.extend(tail);
            (path, bytes)
        },
    );
    let sort = prop_oneof![4 => Just(true), 1 => Just(false)];
    (vec(entry, 0..5), sort, lie()).prop_map(|(mut entries, sort, count)| {
        if sort {
            entries.sort();
        }
        let count = count.unwrap_or(entries.len() as u64).to_le_bytes();
        let entries = entries.into_iter().flat_map(|(_, bytes)| bytes);
        sealed(b"EMMANIF\0\x01\0\0\0".iter().copied().chain(count).chain(entries).collect())
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn manifest_mutated(manifest in manifest(), edits in edits(), seal in any::<bool>()) {
        let bytes = manifest.encode().unwrap();
        check_manifest(&bytes)?;
        prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        check_manifest(&edited_and_sealed(&bytes, &edits, seal))?;
    }

    #[test]
    fn manifest_made_up(bytes in raw_manifest()) {
        check_manifest(&bytes)?;
    }
}

// Chunk table

fn encode_table(table: &ChunkTable) -> Vec<u8> {
    let file = memory_file(&[]);
    let writer = TableWriter::new(table.chunker, table.object_size);
    writer.put(&file, 0, &table.chunks).unwrap();
    writer.finish(&file, table.chunks.len() as u64).unwrap();
    read(&file)
}

fn check_table(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (decoded, peak) = peak_bytes(|| ChunkTable::decode(bytes));
    bounded(peak, bytes, 1)?;
    // In parts, it is the same table or none.
    let file = memory_file(bytes);
    let (checked, peak) = peak_bytes(|| TableReader::check(&file));
    bounded(peak, bytes, 3)?;
    prop_assert_eq!(checked.is_ok(), decoded.is_ok());
    if let (Ok(table), Ok(reader)) = (decoded, checked) {
        prop_assert_eq!(encode_table(&table), bytes);
        prop_assert_eq!((reader.chunker, reader.object_size), (table.chunker, table.object_size));
        prop_assert_eq!(reader.table_bytes(), bytes.len() as u64);
        let mut parts = Vec::new();
        while let Some(part) =
            Some(reader.chunks(&file, parts.len() as u64, 3).unwrap()).filter(|part| !part.is_empty())
        {
            parts.extend(part);
        }
        prop_assert_eq!(parts, table.chunks);
    }
    Ok(())
}

/// Records of any bytes, or as many as there is room for with lengths that may be right.
fn raw_table() -> impl Strategy<Value = Vec<u8>> {
    let chunker = prop_oneof![4 => Just(1), 4 => Just(2), 1 => number()];
    let length = prop_oneof![8 => 1..5u32, 1 => any::<u32>()];
    (chunker, number(), number(), vec(any::<u8>(), 0..150), prop::option::weighted(0.8, vec(length, 5))).prop_map(
        |(chunker, mut size, mut count, mut records, lengths)| {
            if let Some(lengths) = lengths {
                records.truncate(records.len() / 36 * 36);
                count = records.len() as u64 / 36;
                for (record, length) in records.chunks_mut(36).zip(&lengths) {
                    record[32..].copy_from_slice(&length.to_le_bytes());
                }
                size = lengths.iter().take(count as usize).map(|&length| u64::from(length)).sum();
            }
            let chunker = (chunker as u32).to_le_bytes();
            let head = [b"EMCHUNK\0\x01\0\0\0", &chunker[..], &size.to_le_bytes(), &count.to_le_bytes()].concat();
            sealed([head, records].concat())
        },
    )
}

fn table() -> impl Strategy<Value = ChunkTable> {
    (any::<bool>(), vec((any::<[u8; 32]>().prop_map(Digest), 1..=MAX_CHUNK_BYTES), 0..9)).prop_map(|(cdc, chunks)| {
        let chunker = if cdc { ChunkerId::CdcV1 } else { ChunkerId::TensorV1 };
        ChunkTable { chunker, object_size: chunks.iter().map(|&(_, length)| u64::from(length)).sum(), chunks }
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn chunk_table_mutated(table in table(), edits in edits(), seal in any::<bool>()) {
        let bytes = encode_table(&table);
        prop_assert_eq!(ChunkTable::decode(&bytes).unwrap(), table);
        check_table(&edited_and_sealed(&bytes, &edits, seal))?;
    }

    #[test]
    fn chunk_table_made_up(bytes in raw_table()) {
        check_table(&bytes)?;
    }
}

// Stat cache

type Key = [u8; 16];
/// Size, modification time, change time, digest, flags and day.
type Row = [u8; 64];

const SHARD_HEADER: &[u8; 16] = b"EMSTATS\n\x02\0\0\0\x50\0\0\0";

fn key(ino: u64) -> Key {
    [7u64.to_le_bytes(), ino.to_le_bytes()].concat().try_into().unwrap()
}

/// Inodes whose rows are in shard 0; one that is never in the file first.
fn inodes() -> Vec<u64> {
    (1..).filter(|&ino| xxh3_64(&key(ino)).is_multiple_of(256)).take(6).collect()
}

fn stat(ino: u64) -> Stat {
    Stat { dev: 7, ino, size: 100, mtime_ns: 1, ctime_ns: 1, sparse: false }
}

fn encode_shard(rows: &BTreeMap<Key, Row>) -> Vec<u8> {
    let rows = rows.iter().flat_map(|(key, row)| [&key[..], row].concat());
    sealed(SHARD_HEADER.iter().copied().chain(rows).collect())
}

/// A second, independent reader: the one form that a writer makes.
fn decode_shard(bytes: &[u8]) -> BTreeMap<Key, Row> {
    let rows = bytes.get(16..bytes.len().saturating_sub(8)).unwrap_or_default();
    let rows: BTreeMap<_, _> = rows
        .chunks_exact(80)
        .map(|row| (Key::try_from(&row[..16]).unwrap(), Row::try_from(&row[16..]).unwrap()))
        .collect();
    if encode_shard(&rows) == bytes { rows } else { BTreeMap::new() }
}

fn check_shard(bytes: &[u8]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let shard = dir.path().join("files/00");
    fs::create_dir(shard.parent().unwrap()).unwrap();
    fs::write(&shard, bytes).unwrap();
    let mut rows = decode_shard(bytes);
    let inodes = inodes();

    let (answer, peak) = peak_bytes(|| StatCache::open(dir.path()).lookup(&stat(inodes[1])));
    bounded(peak, bytes, 10)?;
    let same = [100u64, 1, 1].map(u64::to_le_bytes).concat();
    let row = rows.get(&key(inodes[1])).filter(|row| row[..24] == same);
    prop_assert_eq!(answer, row.map(|row| Digest(row[24..56].try_into().unwrap())));

    let cache = StatCache::open(dir.path());
    cache.record(&stat(inodes[0]), Digest([5; 32]));
    cache.flush();
    let written = fs::read(&shard).unwrap();
    let added = decode_shard(&written).remove(&key(inodes[0]));
    prop_assert!(added.is_some());
    rows.insert(key(inodes[0]), added.unwrap());
    prop_assert_eq!(written, encode_shard(&rows));
    Ok(())
}

fn row() -> impl Strategy<Value = Row> {
    let time = || prop_oneof![3 => Just(1i64), 1 => any::<i64>()];
    (select(vec![100u64, 1]), [time(), time()], any::<[u8; 32]>(), any::<[u32; 2]>()).prop_map(
        |(size, [mtime, ctime], digest, [flags, day])| {
            let times = [mtime.to_le_bytes(), ctime.to_le_bytes()].concat();
            let rest = [flags.to_le_bytes(), day.to_le_bytes()].concat();
            [&size.to_le_bytes()[..], &times, &digest, &rest].concat().try_into().unwrap()
        },
    )
}

/// Rows in any order, perhaps twice, perhaps of another shard.
fn raw_shard() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![8 => Just(*SHARD_HEADER), 1 => any::<[u8; 16]>()];
    let tail = prop_oneof![8 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..90)];
    (header, vec((1..6usize, any::<bool>(), row()), 0..5), any::<bool>(), tail).prop_map(
        |(header, mut rows, sort, tail)| {
            if sort {
                rows.sort();
            }
            let rows = rows
                .into_iter()
                .flat_map(|(index, other, row)| [&key(inodes()[index] + u64::from(other))[..], &row].concat());
            sealed(header.into_iter().chain(rows).chain(tail).collect())
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn stat_cache_mutated(rows in vec(row(), 0..5), edits in edits(), seal in any::<bool>()) {
        let bytes = encode_shard(&inodes()[1..].iter().map(|&ino| key(ino)).zip(rows).collect());
        check_shard(&bytes)?;
        check_shard(&edited_and_sealed(&bytes, &edits, seal))?;
    }

    #[test]
    fn stat_cache_made_up(bytes in raw_shard()) {
        check_shard(&bytes)?;
    }
}

// Tensor formats

/// A file without a name.
fn memory_file(bytes: &[u8]) -> File {
    let mut file = File::from(rustix::fs::memfd_create("sample", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Spans are sorted, disjoint, not empty and inside the file; the cuts cover it.
fn check_format(bytes: &[u8]) -> Result<(), TestCaseError> {
    let file = memory_file(bytes);
    let size = bytes.len() as u64;
    let (found, peak) = peak_bytes(|| index(&file, size));
    bounded(peak, bytes, 24)?;
    let Some(spans) = found else { return Ok(()) };
    let mut end = 0;
    for span in &spans {
        prop_assert!(span.offset >= end && span.length > 0);
        end = span.offset + span.length;
    }
    prop_assert!(!spans.is_empty() && end <= size);
    let (mut carry, mut cuts) = (Carry::default(), Vec::new());
    Tensor::new(spans, size).cuts(&mut carry, 0, bytes, &[], true, &mut cuts);
    prop_assert!(cuts.is_sorted_by(|a, b| a < b) && cuts.last() == Some(&size), "{:?}", cuts);
    Ok(())
}

fn npz(zip64: bool) -> Vec<u8> {
    zip(&[("a.npy", npy(&noise(1, 50))), ("b.npy", npy(&noise(2, 9))), ("c.txt", noise(3, 9))], zip64)
}

fn made_up_safetensors() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![20 => "[a-z]{2}", 1 => Just("__metadata__".to_owned()), 1 => "\\PC{0,9}"];
    let dtype = select(vec!["U8", "BF16", "F64", "F4", "", "F8_E4M3"]);
    let tensor = (name, dtype, vec(prop_oneof![20 => 0..9u64, 1 => number()], 0..4), lie(), lie());
    let tail = prop_oneof![20 => Just(""), 1 => Just(" "), 1 => Just("}"), 1 => Just(",")];
    (vec(tensor, 0..6), lie(), lie(), tail).prop_map(|(tensors, length, size, tail)| {
        let (mut entries, mut end) = (Vec::new(), 0);
        for (name, dtype, shape, from, to) in tensors {
            let item = match dtype {
                "BF16" => 2,
                "F64" => 8,
                _ => 1,
            };
            let start = from.unwrap_or(end);
            let bytes = shape.iter().try_fold(item, |product: u64, &size| product.checked_mul(size)).unwrap_or(7);
            let stop = to.unwrap_or(start.saturating_add(bytes));
            end = stop;
            let name = name.escape_default();
            entries
                .push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{stop}]}}"#));
        }
        let header = format!("{{{}}}{tail}", entries.join(","));
        let mut file = raw_safetensors(&header, &vec![7; size.unwrap_or(end).min(5000) as usize]);
        if let Some(length) = length {
            file[..8].copy_from_slice(&length.to_le_bytes());
        }
        file
    })
}

fn made_up_npy() -> impl Strategy<Value = Vec<u8>> {
    let good = select(vec!["'<f4'", "'|u1'", "'<M8[ns]'", "'<U3'", "'>c16'", "'<V0'"]).prop_map(str::to_owned);
    let bad = select(vec!["[('a', '<f4')]", "'|O'", "'<f4", "'f4'"]).prop_map(str::to_owned);
    let descr = prop_oneof![9 => good, 1 => bad, 1 => number().prop_map(|size| format!("'<V{size}'"))];
    let shape = vec(prop_oneof![20 => 0..9u64, 1 => number()], 0..4);
    let shape = shape.prop_map(|dims| dims.iter().map(|dim| format!("{dim},")).collect::<String>());
    (descr, shape, any::<bool>(), prop_oneof![20 => 1..4u8, 1 => any::<u8>()], lie(), 0..600usize, "\\PC{0,5}")
        .prop_map(|(descr, shape, swapped, version, length, data, tail)| {
            let (descr, shape) = (format!("'descr': {descr}, "), format!("'shape': ({shape}), "));
            let fields = if swapped { shape + &descr } else { descr + &shape };
            let header = format!("{{'fortran_order': False, {fields}}}{tail}");
            let length = length.unwrap_or(header.len() as u64).to_le_bytes();
            let length = &length[..if version == 1 { 2 } else { 4 }];
            [b"\x93NUMPY", &[version, 0][..], length, header.as_bytes(), &vec![7; data]].concat()
        })
}

/// A zip of members of any names, with lies in its headers.
fn made_up_zip(members: impl Strategy<Value = Vec<(&'static str, Vec<u8>)>>) -> impl Strategy<Value = Vec<u8>> {
    let lie = (any::<Index>(), 0..60usize, select(vec![1, 2, 4, 8]), number());
    (members, any::<bool>(), vec(lie, 0..3)).prop_map(|(members, zip64, lies)| {
        let mut file = zip(&members, zip64);
        let headers: Vec<_> = (0..file.len() - 3).filter(|&at| file[at..].starts_with(b"PK")).collect();
        for (header, offset, width, value) in lies {
            let at = headers[header.index(headers.len())] + offset;
            let end = file.len().min(at + width);
            if at < end {
                file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
        }
        file
    })
}

fn torch_members() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    let name = select(vec!["x/data.pkl", "x/data/0", "x/data/1", "/data/2", "data/3", "x/data/", "x/version", ""]);
    vec((name, vec(any::<u8>(), 0..40)), 0..6).prop_map(|mut members| {
        members.push(("x/data.pkl", Vec::new()));
        members
    })
}

fn npz_members() -> impl Strategy<Value = Vec<(&'static str, Vec<u8>)>> {
    vec((select(vec!["a.npy", "b.npy", ".npy", "c.txt", "x/data/0"]), made_up_npy()), 0..5)
}

/// A value of metadata: its type and its bytes.
fn gguf_value() -> impl Strategy<Value = (u32, Vec<u8>)> {
    let scalar = prop_oneof![
        9 => select(vec![0u32, 1, 7]).prop_map(|kind| (kind, 1)),
        9 => Just((2u32, 2)),
        9 => select(vec![4u32, 5, 6]).prop_map(|kind| (kind, 4)),
        9 => select(vec![10u32, 11, 12]).prop_map(|kind| (kind, 8)),
        1 => (13..20u32).prop_map(|kind| (kind, 3)),
    ];
    let scalar = scalar.prop_map(|(kind, bytes)| (kind, vec![1; bytes]));
    let text = (lie(), ".{0,8}")
        .prop_map(|(length, text)| (8, [&length.unwrap_or(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()));
    prop_oneof![scalar, text].prop_recursive(6, 12, 3, |inner| {
        (inner, 0..3usize, lie()).prop_map(|((kind, bytes), count, lie)| {
            let length = lie.unwrap_or(count as u64).to_le_bytes();
            (9, [&kind.to_le_bytes()[..], &length, &bytes.repeat(count)].concat())
        })
    })
}

fn made_up_gguf() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop_oneof![6 => "[a-c]", 1 => Just("general.alignment".to_owned())];
    let alignment = select(vec![32u32, 64, 1, 16, 0, 48, 1 << 21]).prop_map(|value| (4, value.to_le_bytes().to_vec()));
    let key = (name(), prop_oneof![4 => gguf_value(), 1 => alignment]);
    let kind = prop_oneof![8 => select(vec![24u32, 24, 0, 30, 2, 12]), 1 => 0..45u32, 1 => any::<u32>()];
    let tensor = (name(), vec(prop_oneof![9 => select(vec![256u64, 256, 32, 1]), 1 => number()], 0..3), kind, lie());
    let counts = (lie(), lie(), select(vec![2u32, 3, 2, 3, 2, 3, 1]));
    (vec(key, 0..4), vec(tensor, 0..5), counts, 0..9000usize).prop_map(
        |(keys, tensors, (some, more, version), data)| {
            let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
            let mut file = [b"GGUF", &version.to_le_bytes()[..]].concat();
            file.extend(some.unwrap_or(tensors.len() as u64).to_le_bytes());
            file.extend(more.unwrap_or(keys.len() as u64).to_le_bytes());
            for (name, (kind, value)) in &keys {
                file.extend([text(name), kind.to_le_bytes().to_vec(), value.clone()].concat());
            }
            for (at, (name, axes, kind, offset)) in tensors.iter().enumerate() {
                file.extend([text(name), (axes.len() as u32).to_le_bytes().to_vec()].concat());
                file.extend(axes.iter().flat_map(|axis| axis.to_le_bytes()));
                file.extend([&kind.to_le_bytes()[..], &offset.unwrap_or(2048 * at as u64).to_le_bytes()].concat());
            }
            file.resize(file.len().next_multiple_of(32) + data, 7);
            file
        },
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn safetensors_mutated(edits in edits()) {
        check_format(&edited(safetensors(&small(), 3), &edits))?;
    }

    #[test]
    fn safetensors_made_up(file in made_up_safetensors()) {
        check_format(&file)?;
    }

    #[test]
    fn torch_zip_mutated(zip64 in any::<bool>(), edits in edits()) {
        check_format(&edited(torch(&small(), zip64), &edits))?;
    }

    #[test]
    fn torch_zip_made_up(file in made_up_zip(torch_members())) {
        check_format(&file)?;
    }

    #[test]
    fn npz_mutated(zip64 in any::<bool>(), edits in edits()) {
        check_format(&edited(npz(zip64), &edits))?;
    }

    #[test]
    fn npz_made_up(file in made_up_zip(npz_members())) {
        check_format(&file)?;
    }

    #[test]
    fn npy_mutated(edits in edits()) {
        check_format(&edited(npy(&noise(1, 99)), &edits))?;
    }

    #[test]
    fn npy_made_up(file in made_up_npy()) {
        check_format(&file)?;
    }

    #[test]
    fn gguf_mutated(edits in edits()) {
        check_format(&edited(raw_gguf(&[(24, 64, 0), (2, 64, 64), (9999, 5, 128)], &[7; 300]), &edits))?;
    }

    #[test]
    fn gguf_made_up(file in made_up_gguf()) {
        check_format(&file)?;
    }

    #[test]
    fn random_bytes(
        magic in select(vec![&b""[..], b"GGUF\x03\0\0\0", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{"]),
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let bytes = [magic, &bytes].concat();
        check_format(&bytes)?;
        check_manifest(&bytes)?;
        check_table(&bytes)?;
    }
}

/// How many of 1,000 made-up inputs a parser accepts.
fn accepted(inputs: &impl Strategy<Value = Vec<u8>>, accepts: impl Fn(&[u8]) -> bool) -> usize {
    let mut runner = TestRunner::deterministic();
    (0..1000).filter(|_| accepts(&inputs.new_tree(&mut runner).unwrap().current())).count()
}

#[test]
fn made_up_inputs_are_neither_all_right_nor_all_wrong() {
    let is_format = |bytes: &[u8]| index(&memory_file(bytes), bytes.len() as u64).is_some();
    for (name, accepted) in [
        ("manifest", accepted(&raw_manifest(), |bytes| Manifest::decode(bytes).is_ok_and(|m| !m.is_empty()))),
        ("chunk table", accepted(&raw_table(), |bytes| ChunkTable::decode(bytes).is_ok_and(|t| !t.chunks.is_empty()))),
        ("stat cache", accepted(&raw_shard(), |bytes| !decode_shard(bytes).is_empty())),
        ("safetensors", accepted(&made_up_safetensors(), is_format)),
        ("torch zip", accepted(&made_up_zip(torch_members()), is_format)),
        ("npz", accepted(&made_up_zip(npz_members()), is_format)),
        ("npy", accepted(&made_up_npy(), is_format)),
        ("gguf", accepted(&made_up_gguf(), is_format)),
    ] {
        assert!((100..900).contains(&accepted), "{name}: {accepted} of 1000");
    }
}

// Texts: digests, leases, roots, intents

/// `host boot process start` of a process on this host that has ended.
fn dead() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    format!("{} {} {} 4194305 1", host.trim(), boot.trim(), namespace.display())
}

/// A store with one live object and one that nothing reaches, and the artifact outside that holds the live one.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
    artifact: ArtifactDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let artifact = ArtifactDir::create(&dir.path().join("artifact")).unwrap();
        let place = Self { dir, store, artifact };
        place.object(b"live");
        let kind = EntryKind::File { size: 4, digest: Digest::of(b"live"), executable: false };
        let entry = || std::iter::once(Ok(Entry { path: "a/b".into(), kind: kind.clone() }));
        place.artifact.commit(entry, &Progress::default()).unwrap();
        place
    }

    fn object(&self, bytes: &[u8]) {
        let object = self.store.new_object(Some(Digest::of(bytes))).unwrap();
        object.file().write_all_at(bytes, 0).unwrap();
        object.publish_object(Digest::of(bytes), bytes.len() as u64, 1_700_000_000).unwrap();
    }

    fn root_file(&self) -> (PathBuf, String) {
        let text = self.artifact.root().canonicalize().unwrap().to_str().unwrap().to_owned();
        (self.dir.path().join("store/roots").join(Digest::of(text.as_bytes()).to_string()), text)
    }
}

thread_local! {
    /// Making one takes longer than asking it.
    static PLACE: Place = Place::new();
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn digest_text(text in prop_oneof!["[0-9a-f]{64}", "[0-9a-fA-F]{62,66}", ".{0,70}"]) {
        let (parsed, peak) = peak_bytes(|| text.parse::<Digest>());
        bounded(peak, text.as_bytes(), 8)?;
        if let Ok(digest) = parsed {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    /// Whatever a lease says, a live object stays; a lease of an ended process does not hold the others.
    #[test]
    fn lease_text(edits in prop_oneof![1 => Just(Vec::new()), 8 => edits()]) {
        PLACE.with(|place| {
            let (root, text) = place.root_file();
            fs::write(&root, text.as_bytes()).unwrap();
            place.object(b"dead");
            let lease = place.dir.path().join("store/leases/x");
            let bytes = edited(dead().into_bytes(), &edits);
            fs::write(&lease, &bytes).unwrap();
            let (done, peak) = peak_bytes(|| gc(&place.store, Duration::ZERO, false, &Progress::default()));
            let _ = fs::remove_file(&lease);
            bounded(peak, &bytes, 8)?;
            prop_assert!(place.store.object_path(Digest::of(b"live")).exists());
            if edits.is_empty() {
                prop_assert_eq!(done.unwrap().deleted_objects, 1);
            }
            Ok(())
        })?;
    }

    /// Whatever a root says, an object stays that an artifact of another root names.
    #[test]
    fn root_text(edits in edits()) {
        PLACE.with(|place| {
            let (root, text) = place.root_file();
            fs::write(&root, text.as_bytes()).unwrap();
            let other = place.dir.path().join("store/roots/x");
            let bytes = edited(text.into_bytes(), &edits);
            fs::write(&other, &bytes).unwrap();
            let (_, peak) = peak_bytes(|| gc(&place.store, Duration::ZERO, false, &Progress::default()));
            fs::remove_file(&other).unwrap();
            bounded(peak, &bytes, 8)?;
            prop_assert!(place.store.object_path(Digest::of(b"live")).exists());
            Ok(())
        })?;
    }

    /// Whatever an intent says, nothing outside the artifact is touched, and the entries stay what they are.
    #[test]
    fn intent_text(
        paths in vec((select(vec!["=", "+", "/", ""]), prop_oneof![path(), Just("a/b".into()), Just("../store".into())]), 0..6),
        edits in prop_oneof![2 => Just(Vec::new()), 5 => edits()],
        name in select(vec!["intent-x", "undo-x"]),
    ) {
        PLACE.with(|place| {
            let intent = place.artifact.inner().join(name);
            let paths: Vec<_> = paths.iter().map(|(what, path)| format!("{what}{path}")).collect();
            let bytes = edited([&[dead()], &paths[..]].concat().join("\0").into_bytes(), &edits);
            fs::write(&intent, &bytes).unwrap();
            let before = place.artifact.manifest().unwrap();
            let (_, peak) = peak_bytes(|| place.artifact.recover(&place.store, &Progress::default()));
            let _ = fs::remove_file(&intent);
            bounded(peak, &bytes, 16)?;
            prop_assert_eq!(place.artifact.manifest().unwrap(), before);
            let names: Vec<_> = fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            prop_assert_eq!(names.len(), 2, "{:?}", names);
            prop_assert!(place.store.object_path(Digest::of(b"live")).exists());
            Ok(())
        })?;
    }
}
