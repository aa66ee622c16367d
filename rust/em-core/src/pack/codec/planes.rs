//! The codec `planes`: a chunk of elements, split by significance, each plane a zstd frame or raw.
//! `docs/formats.md` has the bytes.

use zstd::bulk::Decompressor;

use super::{
    max_stored,
    probe::{Layout, Probe},
    split::{Element, Isa, merge, split},
    zstd::{Frames, decompress},
};
use crate::{Error, Result, buffer::Buffer};

const WIDTH_BITS: u8 = 0b11;
const ROTATED_BIT: u8 = 0b100;
const FIXED_BYTES: usize = 2;

/// Appends the planes of `chunk` to `out`; whether that saved anything is for the caller to see.
pub(super) fn encode(
    layout: Layout,
    chunk: &[u8],
    probe: &Probe,
    frames: &mut Frames,
    planes: &mut Buffer,
    out: &mut Vec<u8>,
) {
    let Layout { element, phase } = layout;
    let (head, rest) = chunk.split_at(phase.min(chunk.len()));
    let count = rest.len() / element.width;
    let (elements, tail) = rest.split_at(count * element.width);
    let planes = planes.part(elements.len());
    split(Isa::best(), element, elements, planes);

    let start = out.len();
    out.push(element.width.trailing_zeros() as u8 | if element.rotated { ROTATED_BIT } else { 0 });
    out.push(head.len() as u8);
    out.resize(start + FIXED_BYTES + 4 * element.width, 0);
    out.extend_from_slice(head);
    for (index, plane) in planes.chunks_exact(count.max(1)).enumerate() {
        let before = out.len();
        let method = probe.method(plane, frames);
        let frame = method.and_then(|method| frames.compress(method, plane, max_stored(count)));
        out.extend_from_slice(frame.unwrap_or(plane));
        let length = (out.len() - before) as u32;
        out[start + FIXED_BYTES + 4 * index..][..4].copy_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(tail);
}

/// Fills `raw` from the planes in `stored`, which may be anything. `scratch` grows to the length of `raw`.
pub(super) fn decode(
    context: &mut Decompressor<'_>,
    stored: &[u8],
    scratch: &mut Buffer,
    raw: &mut [u8],
) -> Result<()> {
    let damaged = || Error::integrity("not planes: the lengths do not fit");
    let (&[flags, phase], rest) = stored.split_first_chunk::<FIXED_BYTES>().ok_or_else(damaged)?;
    let element = Element { width: 1 << (flags & WIDTH_BITS), rotated: flags & ROTATED_BIT != 0 };
    if flags & !(WIDTH_BITS | ROTATED_BIT) != 0 || element.width == 1 || usize::from(phase) >= element.width {
        return Err(Error::integrity("not planes: unknown layout").hint("upgrade the package"));
    }
    let (lengths, rest) = rest.split_at_checked(4 * element.width).ok_or_else(damaged)?;
    let (head, mut rest) = rest.split_at_checked(phase.into()).ok_or_else(damaged)?;
    let (raw_head, raw) = raw.split_at_mut_checked(head.len()).ok_or_else(damaged)?;
    raw_head.copy_from_slice(head);
    let count = raw.len() / element.width;
    if count == 0 {
        return Err(damaged());
    }

    let mut planes: [&[u8]; 8] = [&[]; 8];
    let scratch = scratch.part(raw.len()).chunks_exact_mut(count);
    for ((plane, length), buffer) in planes.iter_mut().zip(lengths.as_chunks::<4>().0).zip(scratch) {
        let bytes;
        (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        *plane = if bytes.len() == count {
            bytes
        } else if bytes.len() < count {
            decompress(context, bytes, buffer)?;
            buffer
        } else {
            return Err(damaged());
        };
    }
    let (elements, raw_tail) = raw.split_at_mut(count * element.width);
    if rest.len() != raw_tail.len() {
        return Err(damaged());
    }
    raw_tail.copy_from_slice(rest);
    merge(Isa::best(), element, &planes[..element.width], elements);
    Ok(())
}
