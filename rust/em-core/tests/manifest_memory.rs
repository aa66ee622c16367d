//! What decoding a manifest allocates: in proportion to its bytes, whatever it holds.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use em_core::{
    Digest,
    manifest::{Entry, EntryKind, Manifest},
};

/// Counts the bytes that are allocated, and their peak.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn encoded(paths: impl Iterator<Item = String>) -> Vec<u8> {
    let kind = EntryKind::File { size: 1, digest: Digest::of(b"x"), executable: false };
    Manifest::default().with(paths.map(|path| Entry { path, kind: kind.clone() })).unwrap().encode().unwrap()
}

#[test]
fn memory_is_in_proportion_to_the_bytes() {
    let deep = encoded((0..500).map(|i| format!("{i:03}/{}", "a/".repeat(2040) + "b")));
    let spelled = encoded((0..500).map(|i| format!("{i:03}/{}", "Ä/".repeat(1300) + "B")));
    let wide = encoded((0..100_000).map(|i| format!("data/train/{:03}/sample-{i:06}.png", i / 100)));
    for (what, bytes) in [("deep", deep), ("spelled", spelled), ("wide", wide)] {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let manifest = Manifest::decode(&bytes).unwrap();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        assert!(peak <= 4 * bytes.len(), "{what}: {peak} bytes for {}", bytes.len());
        drop(manifest);
    }
}
