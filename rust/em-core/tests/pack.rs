//! Packs: the fixture, every way of reading, lying footers, packs of a store's objects.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod stores;

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, path::Path};

use em_core::{
    Digest, Error, Kind,
    chunk::{MAX_CHUNK_BYTES, format::Dtype},
    pack::{
        MAX_PACK_BYTES, MAX_RECORDS,
        codec::{Codec, Decoder, Layout},
        plan::{MIN_LIMIT_BYTES, PackPlan, Piece},
        reader::{Index, Pack, Records, Tail, verified},
        receive::PackCopier,
        writer::PackWriter,
    },
    store::Store,
};
use proptest::prelude::*;
use stores::{pieces, random, stored};
use xxhash_rust::xxh3::xxh3_64;

type Chunk = (Option<Layout>, Vec<u8>);

/// Elements whose top byte says little: `width` bytes each.
fn elements(seed: u64, count: usize, width: usize) -> Vec<u8> {
    let mut bytes = random(seed, count * width);
    for element in bytes.chunks_exact_mut(width) {
        element[width - 1] = 0x3c | element[width - 1] & 0x81;
    }
    bytes
}

fn write(chunks: &[Chunk]) -> Vec<u8> {
    let mut writer = PackWriter::new(Vec::new());
    for (layout, chunk) in chunks {
        writer.push(Digest::of(chunk), *layout, chunk).unwrap();
    }
    writer.finish().unwrap()
}

/// Every codec, both kinds of elements of every width, a phase and a tail.
fn fixed() -> Vec<Chunk> {
    vec![
        (None, b"raw".to_vec()),
        (None, b"text, text, text and again text; ".repeat(20)),
        (Layout::of(Dtype::Bf16, 0), elements(1, 256, 2)),
        (Layout::of(Dtype::F32, 3), [b"abc".to_vec(), elements(2, 200, 4), b"de".to_vec()].concat()),
        (Layout::of(Dtype::I64, 0), (0..200u64).flat_map(|n| (n * 7919).to_le_bytes()).collect()),
        (Layout::of(Dtype::U16, 0), elements(3, 300, 2)),
    ]
}

fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let (pack, mut decoder, mut chunks) = (Pack::open(bytes)?, Decoder::new()?, Vec::new());
    let mut records = pack.records();
    while let Some((record, stored)) = records.next_record()? {
        chunks.push(verified(&mut decoder, &record, stored)?.to_vec());
    }
    Ok(chunks)
}

fn raw_chunks(chunks: &[Chunk]) -> Vec<Vec<u8>> {
    chunks.iter().map(|(_, chunk)| chunk.clone()).collect()
}

/// A pack of these records and bytes with right checksums, whatever they say.
fn sealed(body: &[u8], footer: &[u8], count: u32) -> Vec<u8> {
    let footer = [footer, &count.to_le_bytes()].concat();
    let bytes = [&b"EMPACK\0\0\x01\0\0\0"[..], body, &footer, &xxh3_64(&footer).to_le_bytes()].concat();
    let checksum = xxh3_64(&bytes);
    [&bytes[..], &checksum.to_le_bytes()].concat()
}

fn record(codec: u8, stored_bytes: u32, raw_bytes: u32, digest: Digest) -> Vec<u8> {
    [&[codec][..], &stored_bytes.to_le_bytes(), &raw_bytes.to_le_bytes(), &digest.0].concat()
}

fn raw_record(chunk: &[u8]) -> Vec<u8> {
    record(0, chunk.len() as u32, chunk.len() as u32, Digest::of(chunk))
}

fn assert_refused<T>(result: Result<T, Error>, why: &str) {
    assert_eq!(result.map(drop).expect_err(why).kind, Kind::Integrity, "{why}");
}

#[test]
fn the_fixture_holds_every_codec_and_stays_readable() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/pack-v1.bin");
    if std::env::var_os("EM_WRITE_FIXTURES").is_some() {
        fs::write(path, write(&fixed())).unwrap();
    }
    let bytes = fs::read(path).unwrap();
    assert_eq!(read(&bytes).unwrap(), raw_chunks(&fixed()));
    let codecs: Vec<_> = Pack::open(&bytes).unwrap().index.entries.iter().map(|e| e.record.codec).collect();
    use Codec::*;
    assert_eq!(codecs, [Raw, Zstd, Planes, Planes, Planes, Planes]);
}

#[test]
fn a_pack_without_compression_is_its_description() {
    let chunks = [random(1, 50), random(2, 30)];
    let body = [raw_record(&chunks[0]), chunks[0].clone(), raw_record(&chunks[1]), chunks[1].clone()].concat();
    let footer = [raw_record(&chunks[0]), raw_record(&chunks[1])].concat();
    let written = write(&chunks.map(|chunk| (None, chunk)));
    assert_eq!(written, sealed(&body, &footer, 2));
}

#[test]
fn the_same_chunks_give_the_same_pack() {
    assert_eq!(write(&fixed()), write(&fixed()));
}

#[test]
fn ranges_give_the_same_chunks_as_the_whole() {
    let bytes = write(&fixed());
    let (index, mut decoder) = (Pack::open(&bytes).unwrap().index, Decoder::new().unwrap());

    let size = bytes.len() as u64;
    let needs = |tail: &[u8]| match Index::from_tail(tail, size).unwrap() {
        Tail::Needs(bytes) => bytes as usize,
        Tail::Index(_) => panic!("an index from {} bytes", tail.len()),
    };
    assert_eq!(needs(&[]), 20);
    assert_eq!(needs(&bytes[bytes.len() - 20..]), 20 + 6 * 41);
    for tail in [20 + 6 * 41, 20 + 6 * 41 + 1, bytes.len()] {
        assert_eq!(Index::from_tail(&bytes[bytes.len() - tail..], size).unwrap(), Tail::Index(index.clone()));
    }

    let (first, last) = (&index.entries[1], &index.entries[4]);
    let range = &bytes[first.offset as usize..(last.offset + last.record.length()) as usize];
    let mut records = Records::new(range);
    for (_, chunk) in &fixed()[1..5] {
        let (record, stored) = records.next_record().unwrap().unwrap();
        assert_eq!(verified(&mut decoder, &record, stored).unwrap(), chunk);
    }
    assert!(records.next_record().unwrap().is_none());
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_error() {
    let bytes = write(&fixed());
    for end in 0..bytes.len() {
        assert_refused(read(&bytes[..end]), &format!("cut at {end}"));
    }
    let size = bytes.len() as u64;
    let tail = &bytes[bytes.len() - 20 - 6 * 41..];
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_refused(read(&flipped), &format!("flipped at {at}"));
        if let Some(at) = at.checked_sub(bytes.len() - tail.len()).filter(|at| at + 8 < tail.len()) {
            let mut tail = tail.to_vec();
            tail[at] ^= 1 << (at % 8);
            assert!(!matches!(Index::from_tail(&tail, size), Ok(Tail::Index(_))), "footer flipped at {at}");
        }
    }
}

#[test]
fn resealed_lies_are_refused() {
    let (a, b) = (random(1, 50), random(2, 60));
    let (ra, rb) = (raw_record(&a), raw_record(&b));
    let body = [&ra[..], &a, &rb, &b].concat();
    let footer = [&ra[..], &rb].concat();
    assert_eq!(read(&sealed(&body, &footer, 2)).unwrap(), [a.clone(), b.clone()]);
    let other = record(0, 50, 50, Digest::of(b"other"));
    let longer = record(0, 51, 51, Digest::of(&a));
    for (why, body, footer, count) in [
        ("no chunks", vec![], vec![], 0),
        ("a count of none", body.clone(), footer.clone(), 0),
        ("fewer in the count", body.clone(), footer.clone(), 1),
        ("more in the count", body.clone(), footer.clone(), 3),
        ("the largest count", body.clone(), footer.clone(), u32::MAX),
        ("a count just above the cap", body.clone(), footer.clone(), MAX_RECORDS as u32 + 1),
        ("reordered footer", body.clone(), [&rb[..], &ra].concat(), 2),
        ("another digest in the footer", body.clone(), [&other[..], &rb].concat(), 2),
        ("a chunk that reaches into the next", body.clone(), [&longer[..], &rb].concat(), 2),
        ("a gap", [&ra[..], &a, b"x", &rb, &b].concat(), footer.clone(), 2),
        ("a chunk that the footer hides", body.clone(), ra.clone(), 1),
        ("the same chunk twice", [&ra[..], &a, &ra, &a].concat(), [&ra[..], &ra].concat(), 2),
        ("another digest", [&other[..], &a].concat(), other.clone(), 1),
    ] {
        assert_refused(read(&sealed(&body, &footer, count)), why);
    }
    let digest = Digest::of(&a);
    for (why, record) in [
        ("an unknown codec", record(3, 50, 60, digest)),
        ("an empty chunk", record(0, 0, 0, digest)),
        ("an empty frame", record(1, 0, 50, digest)),
        ("raw and shorter", record(0, 49, 50, digest)),
        ("a frame as long as its chunk", record(1, 50, 50, digest)),
        ("a frame longer than its chunk", record(2, 50, 49, digest)),
        ("a chunk too long", record(1, 50, MAX_CHUNK_BYTES + 1, digest)),
        ("the longest chunk", record(1, 50, u32::MAX, digest)),
        ("the longest stored", record(0, u32::MAX, u32::MAX, digest)),
        ("no frame", record(1, 50, 60, digest)),
        ("no planes", record(2, 50, 60, digest)),
    ] {
        assert_refused(read(&sealed(&[&record[..], &a].concat(), &record, 1)), why);
        assert_refused(
            Records::new(&[&record[..], &a].concat()).next_record().and_then(|found| {
                let (record, stored) = found.unwrap();
                verified(&mut Decoder::new().unwrap(), &record, stored).map(<[u8]>::to_vec)
            }),
            why,
        );
    }
}

#[test]
fn a_pack_of_more_than_the_caps_is_refused_before_its_chunks_are_read() {
    // 130 chunks of zeros and a number, each a frame of a few bytes.
    let (mut body, mut footer) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; MAX_CHUNK_BYTES as usize];
    for number in 0..130u8 {
        chunk[0] = number;
        let frame = zstd::bulk::compress(&chunk, 1).unwrap();
        let record = record(1, frame.len() as u32, MAX_CHUNK_BYTES, Digest::of(&chunk));
        body.extend([&record[..], &frame].concat());
        footer.extend(record);
    }
    let error = Pack::open(&sealed(&body, &footer, 130)).expect_err("260 MiB of zeros");
    assert!(error.message.contains("longer than a pack may hold"), "{error}");
    for size in [MAX_PACK_BYTES + 1, 1 << 63, u64::MAX] {
        assert_refused(Index::from_tail(&[0; 20], size), &format!("{size} bytes"));
    }
    assert_refused(Index::from_tail(&[0; 40], 39), "a tail longer than the pack");
    assert_refused(Pack::open(&vec![0; MAX_PACK_BYTES as usize + 1]), "a buffer too long");
}

#[test]
fn a_newer_version_is_named_with_a_hint() {
    let mut bytes = write(&fixed());
    bytes[8] = 2;
    bytes.truncate(bytes.len() - 8);
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    let error = Pack::open(&bytes).expect_err("version 2");
    assert!(error.message.contains("version") && error.hint.is_some(), "{error}");
}

#[test]
fn the_writer_refuses_what_no_reader_takes() {
    let writer = || PackWriter::new(Vec::new());
    let kind = |result: Result<(), Error>| result.expect_err("refused").kind;
    assert_eq!(kind(writer().finish().map(drop)), Kind::InvalidInput);
    assert_eq!(kind(writer().push(Digest::of(b""), None, b"")), Kind::InvalidInput);
    let long = vec![0; MAX_CHUNK_BYTES as usize + 1];
    assert_eq!(kind(writer().push(Digest::of(&long), None, &long)), Kind::InvalidInput);

    let mut full = writer();
    let mut count = 0;
    while full.fits(MAX_CHUNK_BYTES) {
        let chunk = random(count, MAX_CHUNK_BYTES as usize);
        full.push(Digest::of(&chunk), None, &chunk).unwrap();
        count += 1;
    }
    assert_eq!(count, 31);
    let chunk = random(count, MAX_CHUNK_BYTES as usize);
    assert_eq!(kind(full.push(Digest::of(&chunk), None, &chunk)), Kind::InvalidInput);
    let bytes = full.finish().unwrap();
    assert_eq!(Pack::open(&bytes).unwrap().index.entries.len(), 31);
}

#[test]
fn a_chunk_pushed_twice_is_there_once() {
    let chunk = random(1, 100);
    let once = write(&[(None, chunk.clone())]);
    assert_eq!(write(&[(None, chunk.clone()), (None, chunk)]), once);
}

#[test]
fn records_are_copied_as_they_are_stored() {
    let (one, chunks) = (write(&fixed()), fixed());
    let two = write(&[(None, random(7, 300)), (None, b"again ".repeat(50))]);
    let (first, second) = (Pack::open(&one).unwrap().index, Pack::open(&two).unwrap().index);
    let mut copier = PackCopier::new(0).unwrap();
    let wanted: Vec<u64> = first.entries.iter().skip(1).map(|entry| entry.offset).collect();
    assert!(copier.push(&one, &wanted).unwrap().is_empty());
    // Of a run that begins somewhere in the pack; what is there already is not added twice.
    let start = second.entries[1].offset;
    assert!(copier.push(&two[start as usize..], &[0]).unwrap().is_empty());
    assert!(copier.push(&one, &wanted[..1]).unwrap().is_empty());
    let (pack, index) = copier.finish().unwrap();

    let expected: Vec<Vec<u8>> =
        chunks.into_iter().skip(1).map(|(_, chunk)| chunk).chain([b"again ".repeat(50)]).collect();
    assert_eq!(read(&pack).unwrap(), expected);
    assert_eq!(index, Pack::open(&pack).unwrap().index);
    let sources = first.entries[1..].iter().map(|entry| (&one, entry)).chain([(&two, &second.entries[1])]);
    for (copied, (source, entry)) in index.entries.iter().zip(sources) {
        assert_eq!(copied.record, entry.record);
        let part = |bytes: &[u8], at: u64| bytes[at as usize..(at + entry.record.length()) as usize].to_vec();
        assert_eq!(part(&pack, copied.offset), part(source, entry.offset));
    }
}

#[test]
fn damaged_records_are_not_copied() {
    let mut bytes = write(&fixed());
    let entries = Pack::open(&bytes).unwrap().index.entries;
    // In the chunk's bytes, in its digest, in its codec; and one that is cut off.
    for (entry, at) in [(0, 42), (1, 20), (2, 0)] {
        bytes[(entries[entry].offset + at) as usize] ^= 0x40;
    }
    let cut = entries[5].offset + entries[5].record.length() - 1;
    let offsets: Vec<u64> = entries.iter().map(|entry| entry.offset).collect();
    let mut copier = PackCopier::new(1 << 20).unwrap();
    let left_out = copier.push(&bytes[..cut as usize], &offsets).unwrap();
    assert_eq!(left_out.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 2, 5].map(|at| offsets[at]));
    assert!(left_out.iter().all(|(_, error)| error.kind == Kind::Integrity));
    let (pack, index) = copier.finish().unwrap();
    assert_eq!(index.entries.iter().map(|entry| entry.record).collect::<Vec<_>>(), [3, 4].map(|at| entries[at].record));
    assert!(read(&pack).is_ok());

    let mut nothing = PackCopier::new(0).unwrap();
    assert_eq!(nothing.push(&bytes, &[u64::MAX, bytes.len() as u64]).unwrap().len(), 2);
    assert_eq!(nothing.finish().expect_err("no chunk").kind, Kind::InvalidInput);
}

fn safetensors(tensors: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (index, (dtype, bytes)) in tensors.iter().enumerate() {
        let (start, end) = (data.len(), data.len() + bytes.len());
        let count = bytes.len() / if *dtype == "BF16" { 2 } else { 4 };
        header.push(format!(
            "\"{index}\":{{\"dtype\":\"{dtype}\",\"shape\":[{count}],\"data_offsets\":[{start},{end}]}}"
        ));
        data.extend_from_slice(bytes);
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// A store with these files, and their digests.
fn named(root: &Path, files: &[Vec<u8>]) -> (Store, Vec<Digest>) {
    (stored(root, files), files.iter().map(|bytes| Digest::of(bytes)).collect())
}

fn all(store: &Store, objects: &[Digest]) -> Vec<(Digest, Vec<Piece>)> {
    objects.iter().map(|&digest| (digest, pieces(store, digest))).collect()
}

fn unpacked(store: &Store, plan: &PackPlan) -> Vec<Vec<u8>> {
    (0..plan.len()).flat_map(|index| read(&plan.build(store, index).unwrap().bytes).unwrap()).collect()
}

#[test]
fn the_packs_of_a_store_hold_each_chunk_once_and_give_back_the_objects() {
    let directory = tempfile::tempdir().unwrap();
    let model =
        safetensors(&[("BF16", elements(1, 3 << 20, 2)), ("F32", elements(2, 1 << 20, 4)), ("F32", vec![0; 8])]);
    let noise = random(3, 5 << 20);
    let files = [model, noise.clone(), b"small".to_vec(), Vec::new(), [&noise[..], b"tail"].concat()];
    let (store, objects) = named(directory.path(), &files);
    let plan = PackPlan::new(&store, &all(&store, &objects), 4 << 20).unwrap();

    let mut chunks = std::collections::HashMap::new();
    for index in 0..plan.len() {
        let built = plan.build(&store, index).unwrap();
        assert!(built.bytes.len() <= 4 << 20);
        assert_eq!(built.bytes, plan.build(&store, index).unwrap().bytes);
        let pack = Pack::open(&built.bytes).unwrap();
        let entries = &pack.index.entries;
        assert_eq!(entries.iter().map(|entry| entry.record.digest).collect::<Vec<_>>(), built.chunks);
        assert_eq!(entries.iter().map(|entry| u64::from(entry.record.raw_bytes)).sum::<u64>(), built.raw_bytes);
        for chunk in read(&built.bytes).unwrap() {
            assert!(chunks.insert(Digest::of(&chunk), chunk).is_none());
        }
    }
    for (object, file) in objects.iter().zip(&files) {
        let whole: Vec<u8> = pieces(&store, *object).iter().flat_map(|(_, digest, _)| chunks[digest].clone()).collect();
        assert!(whole == *file);
    }
}

#[test]
fn tensors_are_packed_as_planes_of_their_type() {
    let directory = tempfile::tempdir().unwrap();
    let model = safetensors(&[("BF16", elements(1, 3 << 20, 2)), ("F32", elements(2, 1 << 20, 4))]);
    let (store, objects) = named(directory.path(), &[model]);
    let plan = PackPlan::new(&store, &all(&store, &objects), MAX_PACK_BYTES).unwrap();
    assert_eq!(plan.len(), 1);
    let built = plan.build(&store, 0).unwrap();
    let mut records = Pack::open(&built.bytes).unwrap().records();
    let mut layouts = Vec::new();
    while let Some((record, stored)) = records.next_record().unwrap() {
        layouts.push((record.codec == Codec::Planes).then(|| (stored[0], stored[1])));
    }
    // The header, six blocks of BF16 (width 2, rotated), four of FP32 (width 4, rotated).
    assert_eq!(layouts, [vec![None], vec![Some((0b101, 0)); 6], vec![Some((0b110, 0)); 4]].concat());
}

#[test]
fn only_the_wanted_chunks_are_packed_in_the_order_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (store, objects) = named(directory.path(), &[random(1, 3 << 20)]);
    let chunks = pieces(&store, objects[0]);
    let wanted = [7, 2, 2, 0].map(|number: usize| chunks[number]).to_vec();
    let plan = PackPlan::new(&store, &[(objects[0], wanted)], MAX_PACK_BYTES).unwrap();
    let digests: Vec<_> = unpacked(&store, &plan).iter().map(|chunk| Digest::of(chunk)).collect();
    assert_eq!(digests, [chunks[7].1, chunks[2].1, chunks[0].1]);
    let none = PackPlan::new(&store, &[(objects[0], vec![])], MAX_PACK_BYTES).unwrap();
    assert!(none.is_empty());
}

#[test]
fn impossible_plans_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, objects) = named(directory.path(), &[random(1, 100), Vec::new()]);
    let whole = (0, objects[0], 100);
    let plan = |wanted, limit| PackPlan::new(&store, &[wanted], limit).map(drop).expect_err("refused").kind;
    assert_eq!(plan((objects[1], vec![(0, objects[1], 0)]), MAX_PACK_BYTES), Kind::InvalidInput);
    assert_eq!(plan((objects[0], vec![(0, objects[0], u32::MAX)]), MAX_PACK_BYTES), Kind::InvalidInput);
    assert_eq!(plan((objects[0], vec![(u64::MAX, objects[0], 100)]), MAX_PACK_BYTES), Kind::InvalidInput);
    assert_eq!(plan((objects[0], vec![whole]), MAX_PACK_BYTES + 1), Kind::InvalidInput);
    assert_eq!(plan((objects[0], vec![whole]), MIN_LIMIT_BYTES - 1), Kind::InvalidInput);
    assert_eq!(plan((Digest::of(b"absent"), vec![whole]), MAX_PACK_BYTES), Kind::NotFound);
    let one = PackPlan::new(&store, &[(objects[0], vec![whole])], MIN_LIMIT_BYTES).unwrap();
    assert_eq!(one.build(&store, 1).map(drop).expect_err("no such pack").kind, Kind::InvalidInput);
    for piece in [(1, objects[0], 100), (1 << 40, objects[0], 100), (0, objects[0], 99)] {
        let none = PackPlan::new(&store, &[(objects[0], vec![piece])], MIN_LIMIT_BYTES).unwrap();
        assert_eq!(none.build(&store, 0).map(drop).expect_err("no such chunk").kind, Kind::Integrity);
    }
}

#[test]
fn a_damaged_object_is_named_and_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let (store, objects) = named(directory.path(), &[random(1, 3 << 20), random(2, 100)]);
    let plan = PackPlan::new(&store, &all(&store, &objects), MAX_PACK_BYTES).unwrap();
    let path = store.object_path(objects[0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1 << 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = plan.build(&store, 0).expect_err("damaged");
    assert_eq!(error.kind, Kind::Integrity);
    assert!(error.message.contains(path.to_str().unwrap()) && error.hint.is_some(), "{error}");
    assert!(!path.exists());
    assert_eq!(plan.build(&store, 0).expect_err("gone").kind, Kind::NotFound);

    let path = store.object_path(objects[1]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"short").unwrap();
    let plan = PackPlan::new(&store, &[(objects[1], vec![(0, objects[1], 100)])], MAX_PACK_BYTES).unwrap();
    assert_eq!(plan.build(&store, 0).expect_err("cut").kind, Kind::Integrity);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_chunks_come_back_in_order(lengths in prop::collection::vec(1..3000usize, 1..40), seed in any::<u64>()) {
        let chunks: Vec<Chunk> = lengths.iter().enumerate().map(|(i, &n)| match i % 3 {
            0 => (None, random(seed ^ i as u64, n)),
            1 => (None, elements(seed ^ i as u64, n, 4)),
            _ => (Layout::of(Dtype::F16, i as u64), elements(seed ^ i as u64, n, 2)),
        }).collect();
        let distinct: HashSet<_> = chunks.iter().map(|(_, chunk)| chunk).collect();
        prop_assume!(distinct.len() == chunks.len());
        let bytes = write(&chunks);
        prop_assert_eq!(read(&bytes).unwrap(), raw_chunks(&chunks));
        let lengths: u64 = Pack::open(&bytes).unwrap().index.entries.iter().map(|e| e.record.length()).sum();
        prop_assert_eq!(bytes.len() as u64, 12 + lengths + 41 * chunks.len() as u64 + 20);
    }
}
