//! The digest of a large file from its blocks, which are hashed in any order.
//!
//! A chaining value of each block of a long sparse file would need more memory than there is. Two neighbours that are known
//! become one, so that there are a few for each block in work and one for each doubling of the file.

use std::collections::BTreeMap;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::Digest;

type ChainingValue = [u8; 32];

/// What is known of BLAKE3's tree of a file of at least two blocks.
#[derive(Debug)]
pub(super) struct Subtrees {
    blocks: u64,
    /// By the first block: how many there are, a power of two except at the end, and their chaining value.
    known: BTreeMap<u64, (u64, ChainingValue)>,
}

impl Subtrees {
    /// Of a file of so many blocks.
    pub(super) fn new(blocks: u64) -> Self {
        Self { blocks, known: BTreeMap::new() }
    }

    /// Adds the chaining value of a block, once for each.
    pub(super) fn add(&mut self, block: u64, mut value: ChainingValue) {
        let (mut first, mut span) = (block, 1);
        // What covers the whole file is the root, which is made in another way.
        while span < self.blocks - span {
            let other = first ^ span;
            let Some(&(_, sibling)) = self.known.get(&other).filter(|(other_span, _)| *other_span == span) else {
                break;
            };
            self.known.remove(&other);
            let (left, right) = if other < first { (sibling, value) } else { (value, sibling) };
            value = merge_subtrees_non_root(&left, &right, Mode::Hash);
            (first, span) = (first.min(other), 2 * span);
        }
        self.known.insert(first, (span, value));
    }

    /// The digest of the file, of which all blocks were added: BLAKE3's tree is the left-heavy one.
    pub(super) fn digest(&self) -> Digest {
        let mut values = self.known.values().map(|(_, value)| *value);
        let first = values.next().unwrap_or_default();
        let right = values.rev().reduce(|right, left| merge_subtrees_non_root(&left, &right, Mode::Hash));
        merge_subtrees_root(&first, &right.unwrap_or_default(), Mode::Hash).into()
    }
}

/// The chaining value of a block that is not the whole file.
pub(super) fn chaining_value(block: &[u8], offset: u64) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(block);
    hasher.finalize_non_root()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::{super::BLOCK_BYTES, *};

    /// The smallest block there may be: a chunk of BLAKE3.
    const SMALL: usize = 1024;

    fn blocks(data: &[u8]) -> Vec<ChainingValue> {
        let value = |(number, block)| chaining_value(block, (number * SMALL) as u64);
        data.chunks(SMALL).enumerate().map(value).collect()
    }

    fn bytes(count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        data
    }

    #[test]
    fn every_number_of_blocks_joins_to_the_digest_of_blake3() {
        let data = bytes(300 * SMALL);
        for count in 2..=300 {
            for end in [(count - 1) * SMALL + 1, count * SMALL - 1, count * SMALL] {
                let mut subtrees = Subtrees::new(count as u64);
                for (block, value) in blocks(&data[..end]).into_iter().enumerate() {
                    subtrees.add(block as u64, value);
                    assert_eq!(
                        subtrees.known.len() as u32,
                        (block + 1).count_ones() + u32::from(block + 1 == count && count.is_power_of_two())
                    );
                }
                assert_eq!(subtrees.digest(), Digest::of(&data[..end]), "{end} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_blocks_does_not_matter(
            (order, last) in (2..200usize).prop_flat_map(|count| (Just((0..count).collect::<Vec<_>>()).prop_shuffle(), 1..=SMALL))
        ) {
            let data = bytes((order.len() - 1) * SMALL + last);
            let (values, mut subtrees) = (blocks(&data), Subtrees::new(order.len() as u64));
            for block in order {
                subtrees.add(block as u64, values[block]);
            }
            prop_assert_eq!(subtrees.digest(), Digest::of(&data));
        }
    }

    /// 256 GiB, whose blocks are taken in order and end in any.
    #[test]
    fn few_values_are_kept_however_long_the_file_is() {
        const WORKERS: u64 = 16;
        let (mut subtrees, mut most, blocks) = (Subtrees::new(1 << 18), 0, 1 << 18);
        let (mut in_work, mut next, mut number) = (Vec::new(), 0, 1_u64);
        while next < blocks || !in_work.is_empty() {
            while next < blocks && (in_work.len() as u64) < WORKERS {
                in_work.push(next);
                next += 1;
            }
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = in_work.swap_remove((number >> 33) as usize % in_work.len());
            subtrees.add(block, [0; 32]);
            most = most.max(subtrees.known.len());
        }
        assert!(most < 200, "{most}");
    }

    #[test]
    fn the_longest_file_has_a_place_for_each_block() {
        for blocks in [i64::MAX as u64 / BLOCK_BYTES + 1, u64::MAX] {
            let mut subtrees = Subtrees::new(blocks);
            for block in [0, blocks - 1, 1, blocks - 2] {
                subtrees.add(block, [0; 32]);
            }
            assert!(subtrees.known.len() <= 4);
        }
    }
}
