//! The manifest: one encoding per content, and nothing else decodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use em_core::{
    Digest, Kind,
    manifest::{Entry, EntryKind, Manifest, Reference},
};
use proptest::prelude::*;

fn file(path: &str, size: u64) -> Entry {
    Entry {
        path: path.into(),
        kind: EntryKind::File { size, digest: Digest::of(path.as_bytes()), executable: size % 2 == 1 },
    }
}

fn directory(path: &str) -> Entry {
    Entry { path: path.into(), kind: EntryKind::Directory }
}

fn reference(path: &str, size: Option<u64>, etag: Option<&str>, digest: Option<Digest>) -> Entry {
    let uri = format!("s3://bucket/{path}");
    Entry {
        path: path.into(),
        kind: EntryKind::Reference(Box::new(Reference { uri, size, etag: etag.map(Into::into), digest })),
    }
}

fn manifest(entries: impl IntoIterator<Item = Entry>) -> Manifest<'static> {
    Manifest::default().with(entries).unwrap()
}

/// One entry of every form, in fixed bytes: `tests/fixtures/manifest-v1.bin`.
fn fixed() -> Manifest<'static> {
    manifest([
        file("a/run.sh", 3),
        file("a/größe.txt", 1 << 40),
        directory("a/empty"),
        reference("refs/bare", None, None, None),
        reference("refs/full", Some(7), Some("\"etag\""), Some(Digest::of(b"full"))),
        reference("refs/size", Some(0), None, None),
    ])
}

/// Seals `body` as a manifest's writer would.
fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = xxhash_rust::xxh3::xxh3_64(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

/// Tag, path, and the bytes after them.
type Raw<'a> = (u8, &'a str, &'a [u8]);

fn body(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = b"EMMANIF\0\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for (tag, path, rest) in entries {
        bytes.push(*tag);
        bytes.extend_from_slice(&(path.len() as u16).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(rest);
    }
    bytes
}

#[test]
fn encoding_is_the_fixture_and_decodes_back() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/manifest-v1.bin");
    let bytes = fixed().encode().unwrap();
    if std::env::var_os("EM_WRITE_FIXTURES").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    assert_eq!(Manifest::decode(&bytes).unwrap(), fixed());
    assert_eq!(fixed().digest(), Digest::of(&bytes));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_an_error() {
    let bytes = fixed().encode().unwrap();
    for end in 0..bytes.len() {
        assert_eq!(Manifest::decode(&bytes[..end]).unwrap_err().kind, Kind::Integrity, "{end}");
    }
    for at in 0..bytes.len() {
        for mask in 1..=255 {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            assert!(Manifest::decode(&flipped).is_err(), "{at} {mask}");
        }
    }
}

#[test]
fn resealed_truncations_and_flips_decode_only_to_what_encodes_equally() {
    let bytes = fixed().encode().unwrap();
    let body = &bytes[..bytes.len() - 8];
    for end in 0..body.len() {
        assert!(Manifest::decode(&sealed(body[..end].to_vec())).is_err(), "{end}");
    }
    for at in 0..body.len() {
        for mask in 1..=255 {
            let mut flipped = body.to_vec();
            flipped[at] ^= mask;
            let flipped = sealed(flipped);
            if let Ok(decoded) = Manifest::decode(&flipped) {
                assert_eq!(decoded.encode().unwrap(), flipped, "{at} {mask}");
            }
        }
    }
}

#[test]
fn what_is_not_canonical_or_not_safe_is_refused() {
    let content = [0u8; 40];
    let refused: &[(&str, &[Raw])] = &[
        ("unsorted", &[(0, "b", &content), (0, "a", &content)]),
        ("twice", &[(0, "a", &content), (0, "a", &content)]),
        ("case", &[(0, "A/x", &content), (0, "a/y", &content)]),
        ("normalization", &[(0, "e\u{301}", &content), (0, "é", &content)]),
        ("file and directory", &[(0, "a", &content), (0, "a/b", &content)]),
        ("file and directory, not neighbours", &[(0, "a", &content), (0, "a!", &content), (0, "a/b", &content)]),
        ("reference and directory", &[(3, "a", b"\0\x01\0u"), (0, "a/b", &content)]),
        ("full directory", &[(2, "a", b""), (0, "a/b", &content)]),
        ("full directory, not neighbours", &[(2, "a", b""), (0, "a!", &content), (0, "a/b", &content)]),
        ("directory in empty directory", &[(2, "a", b""), (2, "a/b", b"")]),
        ("dots", &[(0, "a/../b", &content)]),
        ("absolute", &[(0, "/a", &content)]),
        ("reserved", &[(0, ".Artifact/x", &content)]),
        ("empty path", &[(0, "", &content)]),
        ("NUL", &[(0, "a\0", &content)]),
        ("tag", &[(4, "a", &content)]),
        ("empty URI", &[(3, "a", b"\0\0\0")]),
        ("unknown bit", &[(3, "a", b"\x08\x01\0u")]),
    ];
    for (why, entries) in refused {
        assert_eq!(Manifest::decode(&sealed(body(entries))).unwrap_err().kind, Kind::Integrity, "{why}");
    }
    assert!(Manifest::decode(&sealed(body(&[(0, "a", &content), (2, "b", b"")]))).is_ok());
}

#[test]
fn a_count_beyond_the_bytes_is_refused_before_memory_is_taken() {
    for count in [1, 10_000_000, 10_000_001, u64::MAX] {
        let mut bytes = body(&[]);
        bytes[12..20].copy_from_slice(&count.to_le_bytes());
        assert!(Manifest::decode(&sealed(bytes)).is_err());
    }
}

#[test]
fn a_newer_version_is_named_with_a_hint() {
    let mut bytes = body(&[]);
    bytes[8] = 2;
    let error = Manifest::decode(&sealed(bytes)).unwrap_err();
    assert!(error.message.contains("version 2") && error.hint.is_some(), "{error}");
}

#[test]
fn an_empty_directory_gives_way_to_what_is_put_into_it() {
    assert_eq!(manifest([directory("a"), file("a/b/c", 1)]), manifest([file("a/b/c", 1)]));
    assert_eq!(manifest([file("a/b/c", 1), directory("a")]), manifest([file("a/b/c", 1)]));
    assert_eq!(manifest([directory("a"), directory("a/b")]), manifest([directory("a/b")]));
}

#[test]
fn a_file_against_a_directory_is_invalid() {
    for (first, second) in [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("A/x", "a/y")] {
        let added = manifest([file(first, 1)]).with([file("z", 1), file(second, 1)]);
        assert_eq!(added.unwrap_err().kind, Kind::InvalidInput);
    }
    assert!(manifest([directory("a")]).with([file("a", 1)]).is_err());
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof!["[a-cA-C]{1,2}", "\\PC{1,4}", Just("é".to_owned())], 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = Entry> {
    let digest = any::<[u8; 32]>().prop_map(Digest);
    let kind = prop_oneof![
        (any::<u64>(), digest.clone(), any::<bool>()).prop_map(|(size, digest, executable)| EntryKind::File {
            size,
            digest,
            executable
        }),
        Just(EntryKind::Directory),
        ("\\PC{1,20}", any::<Option<u64>>(), prop::option::of("\\PC{0,9}"), prop::option::of(digest)).prop_map(
            |(uri, size, etag, digest)| EntryKind::Reference(Box::new(Reference { uri, size, etag, digest }))
        ),
    ];
    (path(), kind).prop_map(|(path, kind)| Entry { path, kind })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_accepted_survives_a_round_trip(entries in prop::collection::vec(entry(), 0..20)) {
        let mut manifest = Manifest::default();
        for entry in entries {
            manifest = manifest.with([entry]).unwrap_or(manifest);
        }
        let bytes = manifest.encode().unwrap();
        prop_assert_eq!(Manifest::decode(&bytes).map_err(|e| TestCaseError::fail(e.to_string()))?, manifest);
    }

    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..300), count in 0u64..9) {
        let _ = Manifest::decode(&tail);
        let mut bytes = b"EMMANIF\0\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&tail);
        let bytes = sealed(bytes);
        if let Ok(decoded) = Manifest::decode(&bytes) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }
}
