//! Digests that are counted once each, with their bytes: sorted, in a file when they are many.

use std::{
    io::{self, Read},
    iter,
};

use crate::{
    Digest, Result,
    cancel::Progress,
    spool::{Record, Room, Runs, Spool, array, get_all, put_all},
};

/// The first half of a digest, which is enough for counting, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Counted {
    pub(crate) half: u128,
    pub(crate) bytes: u64,
}

const RECORD_BYTES: u64 = 24;

/// Records that a lookup reads at once.
const BLOCK_RECORDS: u64 = 128;

impl Record for Counted {
    fn put(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.half.to_le_bytes());
        bytes.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn get(input: &mut impl Read) -> io::Result<Self> {
        Ok(Self { half: u128::from_le_bytes(array(input)?), bytes: u64::from_le_bytes(array(input)?) })
    }
}

/// Collects digests in any order.
#[derive(Debug)]
pub(crate) struct Tally {
    room: Room,
    held: Vec<Counted>,
    runs: Runs<Counted>,
}

impl Tally {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), held: Vec::new(), runs: Runs::new(room) }
    }

    pub(crate) fn add(&mut self, digest: Digest, bytes: u64) -> Result<()> {
        let half = digest.0.first_chunk().map_or(0, |half| u128::from_be_bytes(*half));
        self.push(Counted { half, bytes })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.runs.is_empty()
    }

    pub(crate) fn push(&mut self, counted: Counted) -> Result<()> {
        if size_of_val(&self.held[..]) >= self.room.held_bytes() {
            self.keep()?;
        }
        self.held.push(counted);
        Ok(())
    }

    fn keep(&mut self) -> Result<()> {
        self.held.sort_unstable();
        let kept = self.runs.add(self.held.drain(..));
        kept.map_err(|error| self.room.error(error))
    }

    /// Each digest once, if it was there `times` or more. Given up when `progress` is cancelled.
    pub(crate) fn sorted(mut self, times: usize, progress: &Progress) -> Result<Sorted> {
        let mut sorted =
            Sorted { spool: self.room.spool(), room: self.room.clone(), firsts: Vec::new(), count: 0, block: None };
        let mut failed = None;
        let mut records: Box<dyn Iterator<Item = Counted> + '_> = if self.runs.is_empty() {
            self.held.sort_unstable();
            Box::new(self.held.drain(..))
        } else {
            self.keep()?;
            self.held = Vec::new();
            Box::new(self.runs.merged().map_while(|record| record.map_err(|error| failed = Some(error)).ok()))
        };
        let mut next = records.next();
        let each = iter::from_fn(|| {
            loop {
                progress.check().ok()?;
                let (first, mut seen) = (next?, 1);
                next = records.next();
                while next.is_some_and(|other| other.half == first.half) {
                    seen += 1;
                    next = records.next();
                }
                if seen >= times {
                    return Some(first);
                }
            }
        });
        let firsts = &mut sorted.firsts;
        let noted = each.enumerate().map(|(number, record)| {
            if (number as u64).is_multiple_of(BLOCK_RECORDS) {
                firsts.push(record.half);
            }
            record
        });
        let written = put_all(&mut sorted.spool, noted);
        drop(records);
        sorted.count = failed.map_or(written, Err).map_err(|error| self.room.error(error))?;
        progress.check().map(|()| sorted)
    }
}

/// Digests, sorted, each once.
#[derive(Debug)]
pub(crate) struct Sorted {
    room: Room,
    spool: Spool,
    /// The first of each block.
    firsts: Vec<u128>,
    count: u64,
    /// The block that was asked last, and its records: who asks for many asks in order.
    block: Option<(u64, Vec<Counted>)>,
}

impl Sorted {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Counted>> {
        get_all(&self.spool, 0, self.count).map(|record| record.map_err(|error| self.room.error(error)))
    }

    pub(crate) fn has(&mut self, digest: Digest) -> Result<bool> {
        self.has_half(digest.0.first_chunk().map_or(0, |half| u128::from_be_bytes(*half)))
    }

    pub(crate) fn has_half(&mut self, half: u128) -> Result<bool> {
        let Some(block) = self.firsts.partition_point(|&first| first <= half).checked_sub(1) else { return Ok(false) };
        let block = block as u64;
        let records = match self.block.take() {
            Some((held, records)) if held == block => records,
            _ => {
                let (first, count) = (block * BLOCK_RECORDS, BLOCK_RECORDS.min(self.count - block * BLOCK_RECORDS));
                let read: io::Result<Vec<Counted>> = get_all(&self.spool, first * RECORD_BYTES, count).collect();
                read.map_err(|error| self.room.error(error))?
            }
        };
        let found = records.binary_search_by_key(&half, |record| record.half).is_ok();
        self.block = Some((block, records));
        Ok(found)
    }
}
