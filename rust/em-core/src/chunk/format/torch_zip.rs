//! Zip archives of tensors: PyTorch's (`<name>/data.pkl`, `<name>/data/<n>`) and NumPy's `.npz`.
//!
//! Members stored without compression are tensors; the others are bytes between tensors.
//! Sources: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3; PyTorch `caffe2/serialize/inline_container.h`.

use super::{Fields, MAX_NAME_BYTES, MAX_TENSORS, Source, Span, npy, ordered};

const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const MAX_COMMENT_BYTES: u64 = 0xffff;

pub(super) fn spans(source: &Source) -> Option<Vec<Span>> {
    let directory = Directory::find(source)?;
    let bytes = source.bytes(directory.offset, directory.size_bytes)?;
    let mut fields = Fields(&bytes);
    let (mut torch, mut records, mut arrays) = (false, Vec::new(), Vec::new());
    for _ in 0..directory.entries {
        let entry = Entry::read(&mut fields)?;
        torch |= entry.name.ends_with(b"/data.pkl");
        let members = match entry.name {
            name if name.ends_with(b".npy") => &mut arrays,
            name if is_record(name) => &mut records,
            _ => continue,
        };
        if entry.stored {
            let offset = entry.data_start(source)?;
            members.push(Span { offset, length: entry.size_bytes, dtype: None });
        }
    }
    if !fields.0.is_empty() {
        return None;
    }
    // `data/<n>` are tensors only beside the pickle that names them.
    if torch {
        return ordered(records, directory.offset);
    }
    // Members that share bytes are refused before their headers are read: the reads stay below the file's
    // size. An array of objects is a pickle: no tensor, but no reason to distrust the others.
    let arrays = ordered(arrays, directory.offset)?;
    Some(arrays.iter().filter_map(|member| npy::span(source, member.offset, member.length)).collect())
}

/// Whether a name is `<anything>/data/<number>`.
fn is_record(name: &[u8]) -> bool {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0
        && name.len().checked_sub(digits).and_then(|end| name.get(..end)).is_some_and(|head| head.ends_with(b"/data/"))
}

/// Where the central directory lies.
struct Directory {
    offset: u64,
    size_bytes: u64,
    entries: u64,
}

impl Directory {
    fn find(source: &Source) -> Option<Self> {
        let window = source.size_bytes.min(END_BYTES + MAX_COMMENT_BYTES);
        let start = source.size_bytes.checked_sub(window)?;
        let tail = source.bytes(start, window)?;
        let at = tail.windows(END_BYTES as usize).rposition(|end| end.starts_with(b"PK\x05\x06"))?;
        let mut end = Fields(tail.get(at..)?);
        end.take(4)?;
        let (disk, first_disk) = (end.u16()?, end.u16()?);
        let (here, entries) = (end.u16()?, end.u16()?);
        let (size_bytes, offset) = (end.u32()?, end.u32()?);
        if end.u16()? as usize != end.0.len() {
            return None;
        }
        let end_offset = start.checked_add(at as u64)?;
        let locator = end_offset.checked_sub(LOCATOR_BYTES).and_then(|at| source.array(at));
        let found = match locator {
            Some(locator) if locator.starts_with(b"PK\x06\x07") => Self::find_zip64(source, locator, end_offset)?,
            _ if disk == 0 && first_disk == 0 && here == entries => {
                let found =
                    Self { offset: u64::from(offset), size_bytes: u64::from(size_bytes), entries: u64::from(entries) };
                (found.end()? == end_offset).then_some(found)?
            }
            _ => return None,
        };
        (found.entries <= MAX_TENSORS as u64).then_some(found)
    }

    fn find_zip64(source: &Source, locator: [u8; LOCATOR_BYTES as usize], end_offset: u64) -> Option<Self> {
        let mut locator = Fields(&locator);
        locator.take(8)?;
        let at = locator.u64()?;
        let record: [u8; 56] = source.array(at)?;
        let mut record = Fields(&record);
        if record.take(4)? != b"PK\x06\x06" {
            return None;
        }
        let record_bytes = record.u64()?;
        record.take(4)?;
        let disks = (record.u32()?, record.u32()?);
        let (here, entries) = (record.u64()?, record.u64()?);
        let (size_bytes, offset) = (record.u64()?, record.u64()?);
        let found = Self { offset, size_bytes, entries };
        let whole = at.checked_add(12)?.checked_add(record_bytes)?.checked_add(LOCATOR_BYTES)? == end_offset;
        (whole && disks == (0, 0) && here == entries && found.end()? == at).then_some(found)
    }

    fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size_bytes)
    }
}

/// One member, as the central directory tells it.
struct Entry<'a> {
    name: &'a [u8],
    stored: bool,
    size_bytes: u64,
    header_offset: u64,
}

impl<'a> Entry<'a> {
    fn read(fields: &mut Fields<'a>) -> Option<Self> {
        if fields.take(4)? != b"PK\x01\x02" {
            return None;
        }
        fields.take(4)?;
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.take(8)?;
        let (packed, unpacked) = (fields.u32()?, fields.u32()?);
        let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.take(8)?;
        let header = fields.u32()?;
        if usize::from(name) > MAX_NAME_BYTES {
            return None;
        }
        let name = fields.take(name.into())?;
        let mut wide = wide_sizes(fields.take(extra.into())?)?;
        fields.take(comment.into())?;
        let mut widen = |value: u32| if value == u32::MAX { wide.u64() } else { Some(u64::from(value)) };
        let (unpacked, packed, header_offset) = (widen(unpacked)?, widen(packed)?, widen(header)?);
        let encrypted = flags & 1 != 0;
        if method == 0 && !encrypted && packed != unpacked {
            return None;
        }
        Some(Self { name, stored: method == 0 && !encrypted, size_bytes: packed, header_offset })
    }

    /// The member's first byte, told by its local header.
    fn data_start(&self, source: &Source) -> Option<u64> {
        let header: [u8; 30] = source.array(self.header_offset)?;
        let mut header = Fields(&header);
        if header.take(4)? != b"PK\x03\x04" {
            return None;
        }
        header.take(22)?;
        let (name, extra) = (header.u16()?, header.u16()?);
        if usize::from(name) != self.name.len() {
            return None;
        }
        self.header_offset.checked_add(30 + u64::from(name) + u64::from(extra))
    }
}

/// The zip64 field of an entry's extra fields, empty if it has none.
fn wide_sizes(extra: &[u8]) -> Option<Fields<'_>> {
    let mut extra = Fields(extra);
    // A rest of less than four bytes is padding.
    while extra.0.len() >= 4 {
        let (id, length) = (extra.u16()?, extra.u16()?);
        let body = extra.take(length.into())?;
        if id == 1 {
            return Some(Fields(body));
        }
    }
    Some(Fields(&[]))
}
