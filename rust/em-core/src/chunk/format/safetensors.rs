//! safetensors: a little-endian `u64` header length, a JSON header, the tensors without gaps.
//!
//! Source: <https://github.com/huggingface/safetensors#format>.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Dtype, MAX_DIMS, MAX_NAME_BYTES, MAX_TENSORS, Source, Span};

pub(super) fn spans(source: &Source) -> Option<Vec<Span>> {
    let length = u64::from_le_bytes(source.array(0)?);
    let header = source.bytes(8, length)?;
    let Header(mut spans) = serde_json::from_slice(&header).ok()?;
    let data = length.checked_add(8)?;
    spans.sort_unstable_by_key(|span| (span.offset, span.length));
    let mut end = 0u64;
    for span in &mut spans {
        if span.offset != end {
            return None;
        }
        end = end.checked_add(span.length)?;
        span.offset = span.offset.checked_add(data)?;
    }
    (end.checked_add(data)? == source.size_bytes).then_some(spans)
}

/// The tensors; offsets count from the end of the header.
struct Header(Vec<Span>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = HashSet::new();
        let mut spans = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES || names.len() > MAX_TENSORS {
                return Err(A::Error::custom("too many tensors or a name too long"));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let entry: Entry = map.next_value()?;
                spans.push(entry.span().ok_or_else(|| A::Error::custom("inconsistent tensor"))?);
            }
            if !names.insert(name) {
                return Err(A::Error::custom("a name appears twice"));
            }
        }
        Ok(Header(spans))
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Elements,
    data_offsets: [u64; 2],
}

impl Entry {
    fn span(&self) -> Option<Span> {
        let [start, end] = self.data_offsets;
        let length = end.checked_sub(start)?;
        let known = dtype(&self.dtype);
        if let Some((_, size_bytes)) = known
            && self.shape.0.checked_mul(size_bytes)? != length
        {
            return None;
        }
        Some(Span { offset: start, length, dtype: known.map(|(dtype, _)| dtype) })
    }
}

/// The product of a shape.
struct Elements(u64);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a shape")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements, A::Error> {
        let mut product = 1u64;
        let mut dims = 0;
        while let Some(size) = seq.next_element::<u64>()? {
            dims += 1;
            product = product
                .checked_mul(size)
                .filter(|_| dims <= MAX_DIMS)
                .ok_or_else(|| A::Error::custom("a shape too large"))?;
        }
        Ok(Elements(product))
    }
}

/// The type of a name and its size; types below one byte are not known here.
fn dtype(name: &str) -> Option<(Dtype, u64)> {
    Some(match name {
        "BOOL" => (Dtype::Bool, 1),
        "U8" => (Dtype::U8, 1),
        "I8" => (Dtype::I8, 1),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => (Dtype::F8, 1),
        "U16" => (Dtype::U16, 2),
        "I16" => (Dtype::I16, 2),
        "F16" => (Dtype::F16, 2),
        "BF16" => (Dtype::Bf16, 2),
        "U32" => (Dtype::U32, 4),
        "I32" => (Dtype::I32, 4),
        "F32" => (Dtype::F32, 4),
        "U64" => (Dtype::U64, 8),
        "I64" => (Dtype::I64, 8),
        "F64" => (Dtype::F64, 8),
        "C64" => (Dtype::C64, 8),
        _ => return None,
    })
}
