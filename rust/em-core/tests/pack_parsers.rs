//! Packs, runs of records and stored chunks, mutated and made up: no panic, memory by the caps and not by the claims,
//! and no chunk that is not its digest's.
//!
//! How to run a million of each is told in `parsers.rs`. Failures are kept in `pack_parsers.regressions`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::cell::RefCell;

use counting::peak_bytes;
use edits::{Edit, bounded, config, edited, edits, lie, number, sealed};
use em_core::{
    Digest, Kind,
    chunk::MAX_CHUNK_BYTES,
    pack::{
        MAX_PACK_BYTES,
        codec::{
            Codec, Decoder, Encoder, Layout,
            split::{Element, Isa, split},
        },
        reader::{Index, Pack, Records, Tail, verified},
        receive::{self, ObjectHasher},
    },
};
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};
use xxhash_rust::xxh3::xxh3_64;

mod counting;
mod edits;

thread_local! {
    /// Made once: a context costs more than a case.
    static CODECS: RefCell<(Encoder, Decoder)> = RefCell::new((Encoder::new().unwrap(), Decoder::new().unwrap()));
}

/// A chunk of a kind that is stored raw, as a frame, or as planes.
fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let seeded = |length: usize, seed: u64| {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let length = || prop_oneof![1..40usize, 60..600usize];
    prop_oneof![
        (length(), any::<u64>()).prop_map(move |(length, seed)| seeded(length, seed)),
        (length(), any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        (length(), 0..20u8).prop_map(|(length, word)| (0..length).map(|at| (at as u8 / 7) ^ word).collect()),
        // Two bytes of noise, then one that says little.
        (length(), any::<u64>()).prop_map(move |(length, seed)| {
            let noise = seeded(length, seed);
            noise.iter().enumerate().map(|(at, byte)| if at % 4 < 2 { *byte } else { byte & 3 }).collect()
        }),
    ]
}

fn element() -> impl Strategy<Value = Element> {
    (select(vec![2, 4, 8]), any::<bool>()).prop_map(|(width, rotated)| Element { width, rotated })
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

/// Planes by their description, each raw or a frame, whichever is shorter.
fn planes(chunk: &[u8], element: Element, phase: usize) -> Vec<u8> {
    let phase = phase % element.width;
    let (head, rest) = chunk.split_at(phase.min(chunk.len()));
    let count = rest.len() / element.width;
    let (elements, tail) = rest.split_at(count * element.width);
    let mut bytes = vec![0; elements.len()];
    split(Isa::best(), element, elements, &mut bytes);
    let stored: Vec<Vec<u8>> = bytes
        .chunks(count.max(1))
        .map(|plane| Some(frame(plane)).filter(|frame| frame.len() < plane.len()).unwrap_or_else(|| plane.to_vec()))
        .collect();
    let lengths = (0..element.width).flat_map(|plane| (stored.get(plane).map_or(0, Vec::len) as u32).to_le_bytes());
    let fixed = [element.width.trailing_zeros() as u8 | u8::from(element.rotated) << 2, head.len() as u8];
    [&fixed[..], &lengths.collect::<Vec<_>>(), head, &stored.concat(), tail].concat()
}

/// A record with its stored bytes; each claim is perhaps another one.
fn raw_record() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let lies = (lie(), lie(), prop::option::weighted(0.05, any::<u8>()), prop::bool::weighted(0.95));
    (chunk(), 0..3u8, element(), 0..8usize, lies).prop_map(|(chunk, codec, element, phase, lies)| {
        let stored = match codec {
            0 => chunk.clone(),
            1 => frame(&chunk),
            _ => planes(&chunk, element, phase),
        };
        // What does not help is raw, most often.
        let (codec, stored) = if stored.len() < chunk.len() { (codec, stored) } else { (0, chunk.clone()) };
        let (stored_bytes, raw_bytes, other_codec, right) = lies;
        let digest = if right { Digest::of(&chunk) } else { Digest([7; 32]) };
        let mut record = vec![other_codec.unwrap_or(codec)];
        record.extend_from_slice(&stored_bytes.map_or(stored.len() as u32, |lie| lie as u32).to_le_bytes());
        record.extend_from_slice(&raw_bytes.map_or(chunk.len() as u32, |lie| lie as u32).to_le_bytes());
        record.extend_from_slice(&digest.0);
        (record, stored)
    })
}

/// A run of records.
fn raw_run() -> impl Strategy<Value = Vec<u8>> {
    vec(raw_record(), 0..5).prop_map(|records| records.into_iter().flat_map(|(a, b)| [a, b].concat()).collect())
}

/// A pack whose footer is perhaps not that of its records, with a right checksum.
fn raw_pack() -> impl Strategy<Value = Vec<u8>> {
    (vec(raw_record(), 0..5), lie(), prop::option::weighted(0.1, edits())).prop_map(|(records, count, lies)| {
        let body: Vec<u8> = records.iter().flat_map(|(record, stored)| [&record[..], stored].concat()).collect();
        let mut footer = records.iter().flat_map(|(record, _)| record.clone()).collect::<Vec<u8>>();
        if let Some(lies) = lies {
            footer = edited(footer, &lies);
        }
        footer.extend_from_slice(&count.map_or(records.len() as u32, |lie| lie as u32).to_le_bytes());
        let footer = sealed(footer);
        sealed([&b"EMPACK\0\0\x01\0\0\0"[..], &body, &footer].concat())
    })
}

/// Which checksums are made to fit again after an edit.
#[derive(Clone, Copy, Debug)]
enum Reseal {
    Nothing,
    Pack,
    FooterToo,
}

fn resealed(pack: &[u8], edits: &[Edit], reseal: Reseal, count: usize) -> Vec<u8> {
    let footer_start = pack.len() - 20 - 41 * count;
    match reseal {
        Reseal::Nothing => edited(pack.to_vec(), edits),
        Reseal::Pack => sealed(edited(pack[..pack.len() - 8].to_vec(), edits)),
        Reseal::FooterToo => {
            let body = pack[..footer_start].to_vec();
            let footer = sealed(edited(pack[footer_start..pack.len() - 16].to_vec(), edits));
            sealed([body, footer].concat())
        }
    }
}

/// Decodes a stored chunk, and holds no more than two chunks of the length that it claims.
fn check_stored(codec: Codec, stored: &[u8], raw_bytes: u32) -> Result<Option<Vec<u8>>, TestCaseError> {
    let mut decoder = Decoder::new().unwrap();
    let (decoded, peak) = peak_bytes(|| decoder.decode(codec, stored, raw_bytes).map(<[u8]>::len));
    let cap = if raw_bytes <= MAX_CHUNK_BYTES { 2 * raw_bytes as usize } else { 0 };
    prop_assert!(peak <= cap + (4 << 10), "{peak} bytes held for a chunk of {raw_bytes}");
    match decoded {
        Ok(length) => {
            prop_assert_eq!(length, raw_bytes as usize);
            Ok(Some(decoder.decode(codec, stored, raw_bytes).unwrap().to_vec()))
        }
        Err(error) => {
            prop_assert_eq!(error.kind, Kind::Integrity);
            Ok(None)
        }
    }
}

/// Reads a pack in every way; the answers agree.
fn check_pack(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (opened, peak) = peak_bytes(|| Pack::open(bytes));
    // A record of 41 bytes is an entry and a digest in a table that grows by doubling.
    bounded(peak, bytes, 16)?;
    let tail = Index::from_tail(bytes, bytes.len() as u64);
    let verified_whole = receive::verify(bytes, 1);
    let Ok(pack) = opened else {
        prop_assert_eq!(verified_whole.expect_err("not a pack").kind, Kind::Integrity);
        return Ok(());
    };
    prop_assert_eq!(tail.unwrap(), Tail::Index(pack.index.clone()));
    let (mut records, mut all_right) = (pack.records(), true);
    CODECS.with_borrow_mut(|(_, decoder)| {
        let (mut count, mut offset) = (0, 12);
        while let Some((record, stored)) = records.next_record().unwrap() {
            let entry = pack.index.entries[count];
            prop_assert_eq!((record, offset), (entry.record, entry.offset));
            match verified(decoder, &record, stored) {
                Ok(chunk) => prop_assert_eq!(Digest::of(chunk), record.digest),
                Err(error) => {
                    prop_assert_eq!(error.kind, Kind::Integrity);
                    all_right = false;
                }
            }
            count += 1;
            offset += record.length();
        }
        prop_assert_eq!(count, pack.index.entries.len());
        Ok(())
    })?;
    match verified_whole {
        Ok(index) => prop_assert!(all_right && index == pack.index),
        Err(error) => prop_assert!(!all_right && error.kind == Kind::Integrity),
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pack_mutated(
        chunks in vec(chunk(), 1..5), edits in edits(),
        reseal in select(vec![Reseal::Nothing, Reseal::Pack, Reseal::FooterToo]),
    ) {
        let mut writer = em_core::pack::writer::PackWriter::new(Vec::new());
        for chunk in &chunks {
            writer.push(Digest::of(chunk), None, chunk).unwrap();
        }
        let pack = writer.finish().unwrap();
        let count = Pack::open(&pack).unwrap().index.entries.len();
        check_pack(&resealed(&pack, &edits, reseal, count))?;
    }

    #[test]
    fn pack_made_up(bytes in raw_pack()) {
        check_pack(&bytes)?;
    }

    #[test]
    fn tail_made_up(bytes in raw_pack(), cut in any::<prop::sample::Index>(), size in lie()) {
        let tail = &bytes[cut.index(bytes.len())..];
        let size = size.unwrap_or(bytes.len() as u64);
        let (read, peak) = peak_bytes(|| Index::from_tail(tail, size));
        bounded(peak, tail, 16)?;
        match read {
            Ok(Tail::Needs(more)) => prop_assert!(more > tail.len() as u64 && more <= size),
            Ok(Tail::Index(index)) => prop_assert!(index.entries.iter().all(|entry| entry.offset < size)),
            Err(error) => prop_assert_eq!(error.kind, Kind::Integrity),
        }
        prop_assert!(size <= MAX_PACK_BYTES || Index::from_tail(tail, size).is_err());
    }

    #[test]
    fn run_of_records(run in raw_run(), edits in prop::option::of(edits()), offsets in vec(number(), 0..4)) {
        let run = edits.map_or(run.clone(), |edits| edited(run, &edits));
        let (mut records, mut offset, mut right) = (Records::new(&run), 0, Vec::new());
        CODECS.with_borrow_mut(|(_, decoder)| {
            while let Ok(Some((record, stored))) = records.next_record() {
                if let Ok(chunk) = verified(decoder, &record, stored) {
                    right.push((offset, chunk.to_vec()));
                }
                offset += record.length();
            }
            for offset in right.iter().map(|(offset, _)| *offset).chain(offsets) {
                match receive::chunk_at(decoder, &run, offset, |digest, chunk| (digest, Digest::of(chunk))) {
                    Ok((named, is)) => prop_assert_eq!(named, is),
                    Err(error) => prop_assert_eq!(error.kind, Kind::Integrity),
                }
            }
            Ok(())
        })?;
        let mut hasher = ObjectHasher::new().unwrap();
        hasher.push(&run, &right.iter().map(|(offset, _)| *offset).collect::<Vec<_>>()).unwrap();
        let object: Vec<u8> = right.into_iter().flat_map(|(_, chunk)| chunk).collect();
        prop_assert_eq!((hasher.digest(), hasher.size_bytes()), (Digest::of(&object), object.len() as u64));
        prop_assert_eq!(hasher.push(&run, &[run.len() as u64]).expect_err("behind it").kind, Kind::Integrity);
    }

    #[test]
    fn frame_mutated(chunk in chunk(), edits in edits(), raw_bytes in lie()) {
        let raw_bytes = raw_bytes.map_or(chunk.len() as u32, |lie| lie as u32);
        check_stored(Codec::Zstd, &edited(frame(&chunk), &edits), raw_bytes)?;
    }

    #[test]
    fn planes_mutated(
        chunk in chunk(), element in element(), phase in 0..8usize, edits in edits(), raw_bytes in lie(),
    ) {
        let raw_bytes = raw_bytes.map_or(chunk.len() as u32, |lie| lie as u32);
        check_stored(Codec::Planes, &edited(planes(&chunk, element, phase), &edits), raw_bytes)?;
    }

    #[test]
    fn planes_by_their_description_are_read(chunk in chunk(), element in element(), phase in 0..8usize) {
        let stored = planes(&chunk, element, phase);
        // A chunk without a whole element has no planes.
        if chunk.len() >= phase % element.width + element.width {
            prop_assert_eq!(check_stored(Codec::Planes, &stored, chunk.len() as u32)?, Some(chunk));
        } else {
            prop_assert_eq!(check_stored(Codec::Planes, &stored, chunk.len() as u32)?, None);
        }
    }

    #[test]
    fn stored_random(codec in select(vec![Codec::Raw, Codec::Zstd, Codec::Planes]), bytes in vec(any::<u8>(), 0..200),
        raw_bytes in number(),
    ) {
        check_stored(codec, &bytes, raw_bytes as u32)?;
    }

    #[test]
    fn what_the_encoder_stores_is_read(chunk in chunk(), element in prop::option::of(element()), phase in 0..8usize) {
        let layout = element.map(|element| Layout { element, phase: phase % element.width });
        CODECS.with_borrow_mut(|(encoder, decoder)| {
            let mut stored = Vec::new();
            let codec = encoder.encode(&chunk, layout, &mut stored);
            prop_assert!(stored.len() <= chunk.len());
            prop_assert_eq!(decoder.decode(codec, &stored, chunk.len() as u32).unwrap(), chunk);
            Ok(())
        })?;
    }
}

#[test]
fn made_up_packs_are_neither_all_right_nor_all_wrong() {
    let mut runner = TestRunner::deterministic();
    let packs = (0..300).map(|_| raw_pack().new_tree(&mut runner).unwrap().current());
    let (mut opened, mut right, mut total) = (0, 0, 0);
    for pack in packs {
        total += 1;
        opened += usize::from(Pack::open(&pack).is_ok());
        right += usize::from(receive::verify(&pack, 2).is_ok());
        assert_eq!(xxh3_64(&pack[..pack.len() - 8]).to_le_bytes(), pack[pack.len() - 8..]);
    }
    assert!(right > total / 10 && opened > right && opened < total * 9 / 10, "{right} {opened} of {total}");
}
