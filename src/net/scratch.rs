//! The hot scratch buffers of a worker: one for bytes just read, one for rewritten output.
//!
//! Invariant: a borrow lives inside one `poll` call and never across an await, so one pair per
//! thread serves every connection of the worker and idle connections own no buffer at all.

use std::cell::RefCell;

/// Bytes read from a socket in one call at most. Large results move in reads of this size.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// The two buffers of one worker thread.
#[derive(Debug)]
pub struct Scratch {
    /// Bytes read from a socket; always [`SCRATCH_BYTES`] long and initialised.
    pub input: Box<[u8]>,
    /// Output that had to be assembled (rewritten names, synthesised replies). Empty between uses.
    pub output: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        input: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        output: Vec::with_capacity(8 * 1024),
    });
}

/// Output capacity kept between uses; a burst beyond it gives its memory back.
const OUTPUT_KEPT_BYTES: usize = 256 * 1024;

/// Lends the thread's scratch buffers to `f`.
///
/// # Panics
/// If called within itself on one thread: that is a bug in the caller, never a peer's doing.
pub fn with_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with(|cell| {
        let mut scratch = cell.borrow_mut();
        let result = f(&mut scratch);
        scratch.output.clear();
        if scratch.output.capacity() > OUTPUT_KEPT_BYTES {
            scratch.output.shrink_to(OUTPUT_KEPT_BYTES);
        }
        result
    })
}

/// Capacity of a buffer that is kept for the next request that has to wait; longer ones are freed.
const SPARE_BYTES_MAX: usize = 4 * 1024;
/// Such buffers kept by a worker: 256 kB at most.
const SPARES_MAX: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A copy of `bytes`, in a buffer that was given back before, if there is one.
#[must_use]
pub fn keep(bytes: &[u8]) -> Vec<u8> {
    let mut kept = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
    kept.extend_from_slice(bytes);
    kept
}

/// Gives a buffer back that is needed no more, for the next [`keep`] on this thread.
pub fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE_BYTES_MAX {
        return;
    }
    buffer.clear();
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARES_MAX {
            spares.push(buffer);
        }
    });
}

/// Ciphertext read at once, behind what was kept of a record. Room for both.
pub(super) const CIPHER_BYTES: usize = SCRATCH_BYTES + 40 * 1024;

/// The two buffers for ciphertext of a worker thread. Borrowed beside [`Scratch`], never within
/// themselves.
#[derive(Debug)]
pub(super) struct CipherScratch {
    /// Ciphertext to be decrypted in place; always [`CIPHER_BYTES`] long and initialised.
    pub(super) input: Box<[u8]>,
    /// Ciphertext on its way out. Empty between uses.
    pub(super) output: Vec<u8>,
}

thread_local! {
    static CIPHER: RefCell<CipherScratch> = RefCell::new(CipherScratch {
        input: vec![0; CIPHER_BYTES].into_boxed_slice(),
        output: Vec::new(),
    });
}

/// Lends the thread's ciphertext buffers to `f`, which must not poll a TLS connection itself.
pub(super) fn with_cipher_scratch<R>(f: impl FnOnce(&mut CipherScratch) -> R) -> R {
    CIPHER.with(|cell| {
        let mut scratch = cell.borrow_mut();
        let result = f(&mut scratch);
        scratch.output.clear();
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_used_again() {
        let first = keep(b"a request");
        let place = first.as_ptr();
        give_back(first);
        let second = keep(b"another");
        assert_eq!((&second[..], second.as_ptr()), (&b"another"[..], place));
    }

    #[test]
    fn few_and_short_buffers_are_kept() {
        give_back(vec![0; SPARE_BYTES_MAX + 1]);
        give_back(Vec::new());
        assert_eq!(SPARES.with_borrow(Vec::len), 0);
        for _ in 0..SPARES_MAX + 5 {
            give_back(vec![0; 10]);
        }
        assert_eq!(SPARES.with_borrow(Vec::len), SPARES_MAX);
    }
}
