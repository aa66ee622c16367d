//! NumPy's `.npy`, and the members of an `.npz`.
//!
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use super::{Dtype, MAX_DIMS, Source, Span};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy itself refuses headers above 10,000 bytes unless told to trust them.
const MAX_HEADER_BYTES: u64 = 64 << 10;

/// The array data of the `.npy` that lies in `length` bytes from `offset`.
pub(super) fn span(source: &Source, offset: u64, length: u64) -> Option<Span> {
    let prefix: [u8; 10] = source.array(offset)?;
    if !prefix.starts_with(MAGIC) {
        return None;
    }
    let [major, minor, low, high] = *prefix.get(6..)?.first_chunk()?;
    let (header_start, header_bytes) = match (major, minor) {
        (1, 0) => (10, u64::from(u16::from_le_bytes([low, high]))),
        (2 | 3, 0) => (12, u64::from(u32::from_le_bytes(source.array(offset.checked_add(8)?)?))),
        _ => return None,
    };
    if header_bytes > MAX_HEADER_BYTES {
        return None;
    }
    let skipped = header_bytes.checked_add(header_start)?;
    let room = length.checked_sub(skipped)?;
    let header = source.bytes(offset.checked_add(header_start)?, header_bytes)?;
    let data = offset.checked_add(skipped)?;
    let header = std::str::from_utf8(&header).ok()?;
    let (dtype, item_bytes) = descr(header)?;
    let size_bytes = elements(header)?.checked_mul(item_bytes)?;
    (size_bytes <= room).then_some(Span { offset: data, length: size_bytes, dtype })
}

/// What follows `'key':` in a Python dict literal.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = header.split_once(key)?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

/// Type and item size of a plain type such as `'<f4'`. Structured and object arrays are `None`.
fn descr(header: &str) -> Option<(Option<Dtype>, u64)> {
    let (name, _) = value(header, "'descr'")?.strip_prefix('\'')?.split_once('\'')?;
    let mut letters = name.chars();
    if !matches!(letters.next()?, '<' | '>' | '|' | '=') {
        return None;
    }
    let kind = letters.next()?;
    let digits = letters.as_str();
    // Dates carry their unit behind the size: `<M8[ns]`.
    let digits = digits.split_once('[').map_or(digits, |(size, _)| size);
    let size: u64 = digits.parse().ok()?;
    let dtype = match (kind, size) {
        ('b', 1) => Some(Dtype::Bool),
        ('u', 1) => Some(Dtype::U8),
        ('i', 1) => Some(Dtype::I8),
        ('u', 2) => Some(Dtype::U16),
        ('i', 2) => Some(Dtype::I16),
        ('f', 2) => Some(Dtype::F16),
        ('u', 4) => Some(Dtype::U32),
        ('i', 4) => Some(Dtype::I32),
        ('f', 4) => Some(Dtype::F32),
        ('u', 8) => Some(Dtype::U64),
        ('i', 8) => Some(Dtype::I64),
        ('f', 8) => Some(Dtype::F64),
        ('c', 8) => Some(Dtype::C64),
        ('c', 16) => Some(Dtype::C128),
        ('f' | 'c' | 'V' | 'S' | 'M' | 'm', _) => None,
        // Unicode strings count characters of four bytes.
        ('U', _) => return Some((None, size.checked_mul(4)?)),
        _ => return None,
    };
    Some((dtype, size))
}

/// The product of the shape.
fn elements(header: &str) -> Option<u64> {
    let (shape, _) = value(header, "'shape'")?.strip_prefix('(')?.split_once(')')?;
    let mut product = 1u64;
    for (dim, text) in shape.split(',').map(str::trim).enumerate() {
        if dim > MAX_DIMS {
            return None;
        }
        if !text.is_empty() {
            product = product.checked_mul(text.parse().ok()?)?;
        }
    }
    Some(product)
}
