//! Cuts at tensors: formats, dedup after edits, hostile indexes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::io::Write;

use em_core::chunk::format::{Span, index};
use em_core::chunk::tensor::Tensor;
use em_core::chunk::{Carry, Chunker, MAX_CHUNK_BYTES};
use proptest::prelude::*;
use samples::{Named, every_format, noise, npy, raw_gguf, raw_safetensors, safetensors, small, tensors, torch, zip};

mod samples;

fn spans(bytes: &[u8]) -> Option<Vec<Span>> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    index(&file, bytes.len() as u64)
}

fn ranges(bytes: &[u8]) -> Vec<(u64, u64)> {
    spans(bytes).unwrap().iter().map(|span| (span.offset, span.length)).collect()
}

fn cuts(chunker: &Tensor, size: usize, block: usize) -> Vec<u64> {
    let bytes = vec![0; size];
    let (mut carry, mut cuts, mut offset) = (Carry::default(), Vec::new(), 0);
    loop {
        let end = (offset + block).min(size);
        chunker.cuts(&mut carry, offset as u64, &bytes[offset..end], &[], end == size, &mut cuts);
        offset = end;
        if end == size {
            return cuts;
        }
    }
}

fn assert_covers(cuts: &[u64], size: usize) {
    let mut start = 0;
    for &cut in cuts {
        assert!(cut > start && cut - start <= u64::from(MAX_CHUNK_BYTES));
        start = cut;
    }
    assert_eq!(start, size as u64);
}

fn chunks(bytes: &[u8]) -> Vec<Vec<u8>> {
    let tensor = Tensor::new(spans(bytes).unwrap(), bytes.len() as u64);
    let cuts = cuts(&tensor, bytes.len(), 300_000);
    assert_covers(&cuts, bytes.len());
    let mut start = 0;
    cuts.iter().map(|&cut| bytes[std::mem::replace(&mut start, cut as usize)..cut as usize].to_vec()).collect()
}

#[test]
fn test_index_every_format_finds_the_tensors() {
    for set in [tensors(), small()] {
        for file in every_format(&set) {
            let found: Vec<_> =
                ranges(&file).iter().map(|&(at, length)| file[at as usize..(at + length) as usize].to_vec()).collect();
            assert!(found == set.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>());
        }
    }
    let array = npy(&noise(5, 1000));
    assert_eq!(ranges(&array), [(array.len() as u64 - 1000, 1000)]);
}

#[test]
fn test_cuts_header_grown_keeps_every_tensor_chunk() {
    let (before, after) = (chunks(&safetensors(&tensors(), 0)), chunks(&safetensors(&tensors(), 8)));
    assert_eq!(before.len(), after.len());
    assert!(before[0] != after[0] && before[1..] == after[1..]);
}

#[test]
fn test_cuts_resharded_and_reordered_keeps_large_tensors() {
    let mut set: Vec<Named> = (0..6).map(|n| ("t", noise(n + 20, 400_000 * (n as usize + 1)))).collect();
    let names = ["a", "b", "c", "d", "e", "f"];
    set.iter_mut().zip(names).for_each(|(tensor, name)| tensor.0 = name);
    let whole: HashSet<_> = chunks(&safetensors(&set, 0)).into_iter().skip(1).collect();
    set.reverse();
    let mut others: Vec<_> = chunks(&safetensors(&set, 0)).split_off(1);
    others.extend(chunks(&safetensors(&set[..2], 0)).split_off(1));
    others.extend(chunks(&safetensors(&set[2..], 0)).split_off(1));
    assert!(others.iter().all(|chunk| whole.contains(chunk)));
    // The same tensors in another format.
    let torch: HashSet<_> = chunks(&torch(&set, false)).into_iter().collect();
    assert!(whole.iter().all(|chunk| torch.contains(chunk)));
}

#[test]
fn test_cuts_small_neighbours_share_up_to_the_floor() {
    let span = |offset, length| Span { offset, length, dtype: None };
    let k = 1024;
    // Head, 30 + 30 KiB together, 10 KiB alone (70 > 64), a large one in blocks, tail.
    let set =
        vec![span(100, 30 * k), span(100 + 30 * k, 30 * k), span(100 + 60 * k, 10 * k), span(100 + 70 * k, 1100 * k)];
    let size = 100 + 1171 * k;
    let tensor = Tensor::new(set, size);
    let large = 100 + 70 * k;
    assert_eq!(
        cuts(&tensor, size as usize, 7777),
        [100, 100 + 60 * k, large, large + 1024 * k, large + 1100 * k, size]
    );
}

#[test]
fn test_cuts_rest_below_the_floor_stays_with_its_block() {
    let (m, k) = (1 << 20, 1 << 10);
    let of = |length| {
        let tensor = Tensor::new(vec![Span { offset: 0, length, dtype: None }], length);
        cuts(&tensor, length as usize, 100_000)
    };
    assert_eq!(of(m + 1), [m + 1]);
    assert_eq!(of(m + 64 * k - 1), [m + 64 * k - 1]);
    assert_eq!(of(m + 64 * k), [m, m + 64 * k]);
    assert_eq!(of(2 * m + 5), [m, 2 * m + 5]);
}

fn entry(name: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end.wrapping_sub(start))
}

#[test]
fn test_index_hostile_safetensors_is_none() {
    let file = |entries: &[String]| raw_safetensors(&format!("{{{}}}", entries.join(",")), &[7; 100]);
    assert!(spans(&file(&[entry("a", 0, 40), entry("b", 40, 100)])).is_some());
    let deep = format!("{{\"__metadata__\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let million: Vec<_> = (0..1_000_000).map(|n| entry(&n.to_string(), 0, 0)).chain([entry("a", 0, 100)]).collect();
    let hostile = [
        file(&[entry("a", 0, 40), entry("b", 30, 100)]),
        file(&[entry("a", 0, 40), entry("b", 50, 100)]),
        file(&[entry("a", 0, 90)]),
        file(&[entry("a", 10, 100)]),
        file(&[entry("a", 0, 101)]),
        file(&[entry("a", 0, 40), entry("a", 40, 100)]),
        file(&[entry("a", 0, 1 << 63)]),
        file(&[entry("a", 1 << 63, u64::MAX), entry("b", 0, 100)]),
        file(&[entry("a", 100, 0)]),
        file(&[entry("a", 0, 100).replace("[100]", "[99]")]),
        file(&[entry("a", 0, 100).replace("[100]", "[4294967296,4294967296,100]")]),
        file(&[entry("a", 0, 100).replace("[0,100]", "[0,100,100]")]),
        file(&[entry("a", 0, 100).replace("[0,100]", "[0,-1]")]),
        file(&[entry(&"n".repeat(5000), 0, 100)]),
        file(&[]),
        file(&million),
        raw_safetensors(&deep, &[7; 100]),
        raw_safetensors("{\"a\":", &[7; 100]),
    ];
    for (case, bytes) in hostile.iter().enumerate() {
        assert_eq!(spans(bytes), None, "case {case}");
    }
    for length in [1 << 63, u64::MAX, u64::MAX - 7, 1 << 40, 10_000] {
        let mut bytes = safetensors(&small(), 0);
        bytes[..8].copy_from_slice(&u64::to_le_bytes(length));
        assert_eq!(spans(&bytes), None);
    }
}

#[test]
fn test_index_hostile_gguf_is_none() {
    let data = [7; 256];
    let file = |tensors: &[(u32, u64, u64)]| raw_gguf(tensors, &data);
    assert!(spans(&file(&[(24, 64, 0), (24, 192, 64)])).is_some());
    let hostile = [
        file(&[(24, 65, 0), (24, 64, 64)]),
        file(&[(24, 257, 0)]),
        file(&[(24, 10, 1 << 63)]),
        file(&[(24, 10, u64::MAX - 63)]),
        file(&[(0, u64::MAX, 0)]),
        file(&[(0, 1 << 62, 0)]),
        file(&[(24, 10, 33)]),
        file(&[(2, 33, 0)]),
        file(&[]),
    ];
    for (case, bytes) in hostile.iter().enumerate() {
        assert_eq!(spans(bytes), None, "case {case}");
    }
    // Tensor count, key count, first key's length, first value's length.
    for at in [8, 16, 24, 48] {
        for value in [1 << 63, u64::MAX, 1_000_000] {
            let mut bytes = file(&[(24, 256, 0)]);
            bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            assert_eq!(spans(&bytes), None, "{at} {value}");
        }
    }
    // Arrays of arrays.
    let mut deep = b"GGUF\x03\0\0\0".to_vec();
    deep.extend([1u64, 1, 1].iter().flat_map(|value| value.to_le_bytes()));
    deep.push(b'k');
    deep.extend(9u32.to_le_bytes());
    for _ in 0..100_000 {
        deep.extend(9u32.to_le_bytes());
        deep.extend(1u64.to_le_bytes());
    }
    assert_eq!(spans(&deep), None);
}

#[test]
fn test_index_gguf_unknown_type_reaches_to_the_next_tensor() {
    let file = raw_gguf(&[(9999, 5, 0), (12, 256, 128), (9998, 1, 320)], &[7; 400]);
    let data = file.len() as u64 - 400;
    assert_eq!(ranges(&file), [(data, 128), (data + 128, 144), (data + 320, 80)]);
}

#[test]
fn test_index_hostile_npy_is_none() {
    let file = |header: &str| {
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[7; 64]].concat()
    };
    let header = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    assert!(spans(&file(&header("'<f4'", "(4, 4)"))).is_some());
    for (descr, shape) in [
        ("'<f4'", "(4, 5)"),
        ("'<f4'", "(9223372036854775808,)"),
        ("'<f4'", "(4294967296, 4294967296)"),
        ("'<f4'", "(-1,)"),
        ("'<f4'", "(4, 4"),
        ("'<f99999999999999999999'", "(1,)"),
        ("'|O'", "(4,)"),
        ("[('a', '<f4')]", "(4,)"),
        ("'<f4", "(4,)"),
    ] {
        assert_eq!(spans(&file(&header(descr, shape))), None, "{descr} {shape}");
    }
    let axes = format!("({})", "1,".repeat(1000));
    assert_eq!(spans(&file(&header("'<f4'", &axes))), None);
    assert_eq!(spans(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), None);
    assert_eq!(spans(b"\x93NUMPY\x01\x00\xff\xff{"), None);
}

#[test]
fn test_index_hostile_zip_is_none() {
    for zip64 in [false, true] {
        let file = torch(&small(), zip64);
        assert!(spans(&file).is_some());
        for cut in 1..200 {
            assert_eq!(spans(&file[..file.len() - cut]), None);
        }
        let end = file.len() - 22;
        // Directory offset, size and entry count.
        let fields: &[usize] = if zip64 {
            &[end - 20 + 8, end - 76 + 24, end - 76 + 32, end - 76 + 40, end - 76 + 48]
        } else {
            &[end + 8, end + 12, end + 16]
        };
        for &at in fields {
            for byte in [0x7f, 0x80, 0xff] {
                for offset in 0..2 {
                    let mut file = file.clone();
                    file[at + offset] = byte;
                    assert_eq!(spans(&file), None, "{at} {offset} {byte}");
                }
            }
        }
    }
    // Two members that share a local header.
    let mut file = torch(&small(), false);
    let entries: Vec<_> = (0..file.len() - 4).filter(|&at| file[at..].starts_with(b"PK\x01\x02")).collect();
    let first: Vec<u8> = file[entries[1] + 42..entries[1] + 46].to_vec();
    file[entries[2] + 42..entries[2] + 46].copy_from_slice(&first);
    assert_eq!(spans(&file), None);
    // A deflated record is no tensor, a zip without tensors has no index.
    let mut file = torch(&small(), false);
    file[entries[1] + 10] = 8;
    assert_eq!(ranges(&file).len(), 2);
    assert_eq!(spans(&zip(&[("a.txt", noise(1, 100))], false)), None);
    assert_eq!(spans(&zip(&[("a/data/0", noise(1, 100))], false)), None);
}

#[test]
fn test_index_truncated_or_empty_is_none() {
    assert_eq!(spans(b""), None);
    for file in every_format(&small()) {
        for length in (0..file.len()).step_by(7) {
            if let Some(found) = spans(&file[..length]) {
                // A GGUF file may lack padding only.
                assert!(found.iter().all(|span| span.offset + span.length <= length as u64));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn test_index_mutated_files_never_panic_and_cuts_cover(
        format in 0usize..7,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        keep in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
        block in 1usize..5000,
    ) {
        let mut file = every_format(&small()).into_iter().chain([npy(&[7; 99])]).nth(format).unwrap();
        for (at, value) in edits {
            let at = at.index(file.len());
            file[at] = value;
        }
        if truncate {
            file.truncate(keep.index(file.len()));
        }
        if let Some(found) = spans(&file) {
            let tensor = Tensor::new(found, file.len() as u64);
            let reference = cuts(&tensor, file.len(), usize::MAX / 2);
            assert_covers(&reference, file.len());
            prop_assert_eq!(cuts(&tensor, file.len(), block), reference);
        }
    }

    #[test]
    fn test_index_random_bytes_never_panic(
        magic in prop::sample::select(vec![&b""[..], b"GGUF\x03\0\0\0", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{"]),
        bytes in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let file = [magic, &bytes].concat();
        if let Some(found) = spans(&file) {
            assert_covers(&cuts(&Tensor::new(found, file.len() as u64), file.len(), 64), file.len());
        }
    }

    #[test]
    fn test_cuts_any_spans_cover_for_any_block(
        set in prop::collection::vec((0u64..6_000_000, 0u64..3_000_000), 0..20),
        wild in prop::collection::vec((any::<u64>(), any::<u64>()), 0..3),
        size in 0usize..6_000_000,
        block in 1000usize..4_000_000,
    ) {
        let set = set.into_iter().chain(wild).map(|(offset, length)| Span { offset, length, dtype: None }).collect();
        let tensor = Tensor::new(set, size as u64);
        let reference = cuts(&tensor, size, usize::MAX / 2);
        assert_covers(&reference, size);
        prop_assert_eq!(cuts(&tensor, size, block), reference);
    }
}
