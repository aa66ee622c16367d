//! GGUF, versions 2 and 3, little-endian.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; block sizes from `ggml.c`.

use super::{Dtype, MAX_INDEX_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Source, Span};

const MAX_KEYS: u64 = 1 << 16;
const MAX_DEPTH: u32 = 4;
/// ggml's own limit is 4.
const MAX_AXES: u32 = 8;
const MAX_ALIGNMENT: u64 = 1 << 20;
const BUFFER_BYTES: u64 = 256 << 10;

const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

pub(super) fn spans(source: &Source) -> Option<Vec<Span>> {
    let mut cursor = Cursor { source, at: 4, buffer: Vec::new(), buffer_at: 4 };
    if !matches!(cursor.u32()?, 2 | 3) {
        return None;
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    if tensors > MAX_TENSORS as u64 || keys > MAX_KEYS {
        return None;
    }
    let mut alignment = 32;
    for _ in 0..keys {
        let aligns = cursor.name()? == b"general.alignment";
        let kind = cursor.u32()?;
        if aligns && kind == UINT32 {
            alignment = u64::from(cursor.u32()?);
        } else {
            cursor.skip_value(kind, 0)?;
        }
    }
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return None;
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(cursor.info()?);
    }
    let data = cursor.at.checked_next_multiple_of(alignment)?;
    resolve(infos, data, alignment, source.size_bytes)
}

/// A tensor; its offset counts from the start of the data, its length is `None` for unknown types.
struct Info {
    offset: u64,
    length: Option<u64>,
    dtype: Option<Dtype>,
}

/// Absolute spans. A tensor of unknown type reaches to the next one, the last one to the end.
fn resolve(mut infos: Vec<Info>, data: u64, alignment: u64, size_bytes: u64) -> Option<Vec<Span>> {
    infos.sort_by_key(|info| (info.offset, info.length != Some(0)));
    let room = size_bytes.checked_sub(data)?;
    let mut next = room;
    let mut spans = Vec::with_capacity(infos.len());
    for info in infos.iter().rev() {
        if info.offset % alignment != 0 || info.offset > next {
            return None;
        }
        let length = info.length.unwrap_or(next - info.offset);
        if length > next - info.offset {
            return None;
        }
        next = info.offset;
        spans.push(Span { offset: data.checked_add(info.offset)?, length, dtype: info.dtype });
    }
    Some(spans)
}

/// Reads forward through the index, at most [`MAX_INDEX_BYTES`] of it.
struct Cursor<'a> {
    source: &'a Source<'a>,
    at: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl Cursor<'_> {
    fn take(&mut self, length: u64) -> Option<&[u8]> {
        let start = self.at;
        self.skip(length)?;
        let held = self.buffer_at.checked_add(self.buffer.len() as u64)?;
        if start < self.buffer_at || self.at > held {
            let window = length.max(BUFFER_BYTES).min(self.source.size_bytes.checked_sub(start)?);
            self.buffer = self.source.bytes(start, window)?;
            self.buffer_at = start;
        }
        let from = usize::try_from(start.checked_sub(self.buffer_at)?).ok()?;
        self.buffer.get(from..from.checked_add(usize::try_from(length).ok()?)?)
    }

    fn skip(&mut self, length: u64) -> Option<()> {
        let end = self.at.checked_add(length)?;
        if end > MAX_INDEX_BYTES.min(self.source.size_bytes) {
            return None;
        }
        self.at = end;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<&[u8]> {
        let length = self.u64()?;
        if length > MAX_NAME_BYTES as u64 {
            return None;
        }
        self.take(length)
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Option<()> {
        if let Some(size_bytes) = scalar_bytes(kind) {
            return self.skip(size_bytes);
        }
        match kind {
            STRING => {
                let length = self.u64()?;
                self.skip(length)
            }
            ARRAY if depth < MAX_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if let Some(size_bytes) = scalar_bytes(kind) {
                    return self.skip(count.checked_mul(size_bytes)?);
                }
                // Each element takes 8 bytes or more, so the index cap ends this loop.
                for _ in 0..count {
                    self.skip_value(kind, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn info(&mut self) -> Option<Info> {
        self.name()?;
        let axes = self.u32()?;
        if axes > MAX_AXES {
            return None;
        }
        let (mut elements, mut row) = (1u64, 1);
        for axis in 0..axes {
            let size = self.u64()?;
            elements = elements.checked_mul(size)?;
            if axis == 0 {
                row = size;
            }
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        let Some((dtype, block, block_bytes)) = block(kind) else {
            return Some(Info { offset, length: None, dtype: None });
        };
        if row % block != 0 {
            return None;
        }
        Some(Info { offset, length: Some((elements / block).checked_mul(block_bytes)?), dtype: Some(dtype) })
    }
}

/// The size of a metadata value of fixed size.
fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        UINT32 | 5 | 6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Element type, elements in a block and bytes of a block of a ggml type.
///
/// Type 9 (`Q8_1`) is missing on purpose: its block has 36 or 40 bytes, depending on who wrote it.
fn block(kind: u32) -> Option<(Dtype, u64, u64)> {
    let (block, block_bytes) = match kind {
        0 => return Some((Dtype::F32, 1, 4)),
        1 => return Some((Dtype::F16, 1, 2)),
        24 => return Some((Dtype::I8, 1, 1)),
        25 => return Some((Dtype::I16, 1, 2)),
        26 => return Some((Dtype::I32, 1, 4)),
        27 => return Some((Dtype::I64, 1, 8)),
        28 => return Some((Dtype::F64, 1, 8)),
        30 => return Some((Dtype::Bf16, 1, 2)),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        _ => return None,
    };
    Some((Dtype::Quantized, block, block_bytes))
}
