//! Buffers of the length of a chunk that are kept for the next one who needs some: touching fresh memory can take longer
//! than decoding into it.

use std::sync::Mutex;

/// So many are kept: what four threads use at once.
const KEPT: usize = 16;

/// A longer one is not kept.
const MAX_BYTES: usize = 4 << 20;

/// Never waited for: in a child that was forked while another thread held it, that would not end.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer with anything in it, which is kept for another when it is dropped.
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// One that was kept, or an empty one.
    pub fn take() -> Self {
        Self(SPARE.try_lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default())
    }

    /// Its first `length` bytes, with anything in them. It grows where it has fewer.
    pub fn part(&mut self, length: usize) -> &mut [u8] {
        if self.0.len() < length {
            self.0 = Vec::new(); // what is in it need not be copied, nor held beside the longer one
            self.0 = vec![0; length];
        }
        &mut self.0[..length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() <= MAX_BYTES
            && let Ok(mut spare) = SPARE.try_lock()
            && spare.len() < KEPT
        {
            spare.push(std::mem::take(&mut self.0));
        }
    }
}
