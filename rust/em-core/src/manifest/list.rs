//! Entries on their way into a manifest.

use std::io::Write;

use super::{Entries, Entry, change::put_entry};
use crate::{
    Result,
    spool::{Room, Spool},
};

/// Entries between two places that reading can begin at.
const MARK_ENTRIES: u64 = 1024;

/// A list of entries that grows and is read several times, kept in a file when it is long.
#[derive(Debug)]
pub(crate) struct EntryList {
    room: Room,
    spool: Spool,
    /// Where each [`MARK_ENTRIES`]-th entry begins.
    marks: Vec<u64>,
    count: u64,
    bytes: Vec<u8>,
}

impl EntryList {
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), spool: room.spool(), marks: Vec::new(), count: 0, bytes: Vec::new() }
    }

    pub(crate) fn push(&mut self, entry: &Entry) -> Result<()> {
        if self.count.is_multiple_of(MARK_ENTRIES) {
            self.marks.push(self.spool.len());
        }
        self.count += 1;
        self.bytes.clear();
        put_entry(&mut self.bytes, entry);
        self.spool.write_all(&self.bytes).map_err(|error| self.room.error(error))
    }

    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// All of them.
    pub(crate) fn entries(&self) -> Entries<'_> {
        self.part(0, 1)
    }

    /// One of so many contiguous parts, of which the last ones may be empty.
    pub(crate) fn part(&self, part: usize, parts: usize) -> Entries<'_> {
        let marks = self.marks.len().div_ceil(parts);
        let start = (part * marks).min(self.marks.len());
        let first = start as u64 * MARK_ENTRIES;
        let offset = self.marks.get(start).copied().unwrap_or_else(|| self.spool.len());
        let count = (marks as u64 * MARK_ENTRIES).min(self.count.saturating_sub(first));
        Entries::new(Box::new(self.spool.reader(offset)), count, self.spool.len())
    }
}
