//! Inputs that are almost right: edits of right ones, and numbers at which a size or an offset goes wrong.
#![allow(dead_code)]

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::FileFailurePersistence,
};
use xxhash_rust::xxh3::xxh3_64;

pub fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

/// A parser may hold `factor` bytes for each of the input, beside what it holds for an empty one.
pub fn bounded(peak: usize, input: &[u8], factor: usize) -> Result<(), TestCaseError> {
    let cap = (64 << 10) + factor * input.len();
    prop_assert!(peak <= cap, "{peak} bytes held for {} of input", input.len());
    Ok(())
}

#[derive(Clone, Debug)]
pub enum Edit {
    Byte(Index, u8),
    Number(Index, usize, u64),
    Truncate(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, Index, usize),
}

/// Numbers at which a size or an offset goes wrong.
pub fn number() -> impl Strategy<Value = u64> {
    let edges = select(vec![0, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 0]);
    let near = (edges, -70i64..70).prop_map(|(edge, by): (u64, i64)| edge.wrapping_add_signed(by));
    prop_oneof![0..600u64, near, any::<u64>()]
}

/// In place of a number that would be right; most often there is none.
pub fn lie() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![11 => Just(None), 1 => number().prop_map(Some)]
}

pub fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = || any::<Index>();
    let edit = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Edit::Byte(at, value)),
        4 => (at(), select(vec![2, 4, 8]), number()).prop_map(|(at, width, value)| Edit::Number(at, width, value)),
        1 => at().prop_map(Edit::Truncate),
        1 => (at(), 1..70usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        1 => (at(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (at(), at(), 1..90usize).prop_map(|(from, to, length)| Edit::Repeat(from, to, length)),
    ];
    vec(edit, 1..6)
}

pub fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        let place = |at: &Index| if length == 0 { 0 } else { at.index(length) };
        match edit {
            Edit::Byte(at, value) => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte = *value),
            Edit::Number(at, width, value) => {
                let from = place(at);
                let end = length.min(from + width);
                bytes[from..end].copy_from_slice(&value.to_le_bytes()[..end - from]);
            }
            Edit::Truncate(at) => bytes.truncate(place(at)),
            Edit::Remove(at, count) => drop(bytes.drain(place(at)..length.min(place(at) + count))),
            Edit::Insert(at, new) => drop(bytes.splice(place(at)..place(at), new.iter().copied())),
            Edit::Repeat(from, to, count) => {
                let copied = bytes[place(from)..length.min(place(from) + count)].to_vec();
                drop(bytes.splice(place(to)..place(to), copied));
            }
        }
    }
    bytes
}

/// With a checksum that fits, so that what is behind it is reached.
pub fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    let sum = xxh3_64(&body);
    body.extend_from_slice(&sum.to_le_bytes());
    body
}

/// An edit of what the checksum covers, or of all.
pub fn edited_and_sealed(bytes: &[u8], edits: &[Edit], seal: bool) -> Vec<u8> {
    if seal { sealed(edited(bytes[..bytes.len() - 8].to_vec(), edits)) } else { edited(bytes.to_vec(), edits) }
}
