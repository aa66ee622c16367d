//! Elements to planes of equal significance and back.
//!
//! Plane `p` of `n` elements of `W` bytes holds byte `p` (0 is the least significant) of each element, at
//! `planes[p * n..][..n]`. A rotated split turns each element left by one bit first: the sign of a float
//! leaves its top byte, which is then all of the exponent (BF16, FP32) or its upper bits (FP16, FP64).
//!
//! One source for all CPUs, in blocks of fixed size that compilers turn into vector code, compiled once per
//! instruction set: the versions cannot differ. GB/s of split and merge at 1 MiB, AMD EPYC (Zen 5):
//! 2 bytes 7 and 38 portable, 35 and 57 AVX2, 49 and 55 AVX-512; 4 bytes 13, 15; 19, 33; 52, 51; 8 bytes
//! 6, 5; 9, 17; 27, 33.

/// An instruction set that split and merge are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of the target has (SSE2, NEON).
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VBMI.
    Avx512,
}

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The fastest that this CPU has.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }
}

/// Bytes of an element and whether it is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// 2, 4 or 8.
    pub width: usize,
    /// Left by one bit.
    pub rotated: bool,
}

/// Splits `elements` into `planes`, both of the same length, a multiple of the width. An instruction set that
/// this CPU lacks falls back to the portable one.
pub fn split(isa: Isa, element: Element, elements: &[u8], planes: &mut [u8]) {
    debug_assert!(elements.len() == planes.len() && elements.len().is_multiple_of(element.width));
    match isa {
        // SAFETY: the CPU has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => unsafe { avx2::split(element, elements, planes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => unsafe { avx512::split(element, elements, planes) },
        _ => split_any(element, elements, planes),
    }
}

/// Merges `planes`, the least significant first and each of the same length, into `elements`.
pub fn merge(isa: Isa, element: Element, planes: &[&[u8]], elements: &mut [u8]) {
    debug_assert!(planes.iter().all(|plane| plane.len() * element.width == elements.len()));
    match isa {
        // SAFETY: the CPU has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => unsafe { avx2::merge(element, planes, elements) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => unsafe { avx512::merge(element, planes, elements) },
        _ => merge_any(element, planes, elements),
    }
}

#[inline(always)]
fn split_any(element: Element, elements: &[u8], planes: &mut [u8]) {
    match (element.width, element.rotated) {
        (2, false) => width2::split::<false>(elements, planes),
        (2, true) => width2::split::<true>(elements, planes),
        (4, false) => width4::split::<false>(elements, planes),
        (4, true) => width4::split::<true>(elements, planes),
        (8, false) => width8::split::<false>(elements, planes),
        (8, true) => width8::split::<true>(elements, planes),
        _ => planes.copy_from_slice(elements),
    }
}

#[inline(always)]
fn merge_any(element: Element, planes: &[&[u8]], elements: &mut [u8]) {
    match (planes, element.rotated) {
        (&[a, b], false) => width2::merge::<false>([a, b], elements),
        (&[a, b], true) => width2::merge::<true>([a, b], elements),
        (&[a, b, c, d], false) => width4::merge::<false>([a, b, c, d], elements),
        (&[a, b, c, d], true) => width4::merge::<true>([a, b, c, d], elements),
        (&[a, b, c, d, e, f, g, h], false) => width8::merge::<false>([a, b, c, d, e, f, g, h], elements),
        (&[a, b, c, d, e, f, g, h], true) => width8::merge::<true>([a, b, c, d, e, f, g, h], elements),
        (planes, _) => planes.iter().for_each(|plane| elements.copy_from_slice(plane)),
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($module:ident, $features:literal) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            pub(super) fn split(element: Element, elements: &[u8], planes: &mut [u8]) {
                split_any(element, elements, planes);
            }

            #[target_feature(enable = $features)]
            pub(super) fn merge(element: Element, planes: &[&[u8]], elements: &mut [u8]) {
                merge_any(element, planes, elements);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, "avx2");
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, "avx512f,avx512bw,avx512vl,avx512vbmi");

/// Elements of a block: one AVX-512 register of each plane.
const LANES: usize = 64;

macro_rules! of_width {
    ($module:ident, $uint:ty, $width:literal) => {
        mod $module {
            use super::LANES;

            const WIDTH: usize = $width;

            #[inline(always)]
            fn load<const ROTATED: bool>(bytes: [u8; WIDTH]) -> $uint {
                let value = <$uint>::from_le_bytes(bytes);
                if ROTATED { value.rotate_left(1) } else { value }
            }

            #[inline(always)]
            fn store<const ROTATED: bool>(value: $uint) -> [u8; WIDTH] {
                if ROTATED { value.rotate_right(1).to_le_bytes() } else { value.to_le_bytes() }
            }

            #[inline(always)]
            pub(super) fn split<const ROTATED: bool>(elements: &[u8], planes: &mut [u8]) {
                let (elements, _) = elements.as_chunks::<WIDTH>();
                let count = elements.len();
                let (blocks, rest) = elements.as_chunks::<LANES>();
                for (index, block) in blocks.iter().enumerate() {
                    let mut values = [0; LANES];
                    for (value, bytes) in values.iter_mut().zip(block) {
                        *value = load::<ROTATED>(*bytes);
                    }
                    for plane in 0..WIDTH {
                        let mut bytes = [0; LANES];
                        for (byte, value) in bytes.iter_mut().zip(values) {
                            *byte = (value >> (8 * plane)) as u8;
                        }
                        planes[plane * count + index * LANES..][..LANES].copy_from_slice(&bytes);
                    }
                }
                for (index, bytes) in rest.iter().enumerate() {
                    let value = load::<ROTATED>(*bytes);
                    for plane in 0..WIDTH {
                        planes[plane * count + blocks.len() * LANES + index] = (value >> (8 * plane)) as u8;
                    }
                }
            }

            #[inline(always)]
            pub(super) fn merge<const ROTATED: bool>(planes: [&[u8]; WIDTH], elements: &mut [u8]) {
                let (elements, _) = elements.as_chunks_mut::<WIDTH>();
                let planes = planes.map(|plane| &plane[..elements.len()]);
                let (blocks, rest) = elements.as_chunks_mut::<LANES>();
                let done = blocks.len() * LANES;
                for (index, block) in blocks.iter_mut().enumerate() {
                    let mut values = [0; LANES];
                    for (place, plane) in planes.iter().enumerate() {
                        for (value, byte) in values.iter_mut().zip(&plane[index * LANES..][..LANES]) {
                            *value |= <$uint>::from(*byte) << (8 * place);
                        }
                    }
                    for (bytes, value) in block.iter_mut().zip(values) {
                        *bytes = store::<ROTATED>(value);
                    }
                }
                for (index, bytes) in rest.iter_mut().enumerate() {
                    let mut value = 0;
                    for (place, plane) in planes.iter().enumerate() {
                        value |= <$uint>::from(plane[done + index]) << (8 * place);
                    }
                    *bytes = store::<ROTATED>(value);
                }
            }
        }
    };
}

of_width!(width2, u16, 2);
of_width!(width4, u32, 4);
of_width!(width8, u64, 8);
