// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Copying between live guest memory and private buffers.
//!
//! Guest memory is a slice of relaxed atomic words. Long copies are the processor's own string
//! move where there is one (x86-64: `rep movsb`; 1.3 to 1.5 times as fast as a loop of moves on
//! memory that is in no cache, and more on memory that is), and a loop over words elsewhere.
//! Neither is `memcpy`, whose behaviour on memory that others write is undefined: to the compiler
//! the string move is opaque, and to the processor it is a row of plain loads and stores. It may
//! tear a word that the guest writes at that moment. That is harmless: the write is recorded, and
//! the page is sent again.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// Words that one unrolled step moves: a cache line.
const LINE_WORDS: usize = 8;
/// From this length on the string move is clearly faster than the loop: at 256 bytes it is
/// slower, at 512 they are equal.
#[cfg(target_arch = "x86_64")]
const STRING_MOVE_BYTES: usize = 1024;
/// Words that [`is_zero`] gathers before it looks: long enough to be cheap, short enough to stop
/// early in a page that is not zero.
const LOOK_WORDS: usize = 32;

/// Copies words into a private buffer; each byte is read once.
///
/// # Panics
/// If `into` is not exactly as long as `words`.
pub fn copy_from_words(words: &[AtomicU64], into: &mut [u8]) {
    assert_eq!(words.len() * WORD, into.len(), "buffer length");
    #[cfg(target_arch = "x86_64")]
    if into.len() >= STRING_MOVE_BYTES {
        // SAFETY: both ranges are valid for so many bytes and lie in different allocations: one
        // is borrowed exclusively. Atomics may be read while others write them.
        unsafe { string_move(words.as_ptr().cast(), into.as_mut_ptr(), into.len()) };
        return;
    }
    let (lines, rest) = words.as_chunks::<LINE_WORDS>();
    let (out, out_rest) = into.as_chunks_mut::<{ LINE_WORDS * WORD }>();
    for (line, out) in lines.iter().zip(out) {
        let (out, _) = out.as_chunks_mut::<WORD>();
        for (word, out) in line.iter().zip(out) {
            *out = word.load(Relaxed).to_ne_bytes();
        }
    }
    for (word, out) in rest.iter().zip(out_rest.as_chunks_mut::<WORD>().0) {
        *out = word.load(Relaxed).to_ne_bytes();
    }
}

/// Copies a private buffer into words; each byte is written once.
///
/// # Panics
/// If `bytes` is not exactly as long as `words`.
pub fn copy_to_words(words: &[AtomicU64], bytes: &[u8]) {
    assert_eq!(words.len() * WORD, bytes.len(), "buffer length");
    #[cfg(target_arch = "x86_64")]
    if bytes.len() >= STRING_MOVE_BYTES {
        let to = words.as_ptr().cast_mut().cast();
        // SAFETY: both ranges are valid for so many bytes and do not overlap (private buffers are
        // never guest memory). Atomics may be written through a shared reference.
        unsafe { string_move(bytes.as_ptr(), to, bytes.len()) };
        return;
    }
    let (lines, rest) = words.as_chunks::<LINE_WORDS>();
    let (from, from_rest) = bytes.as_chunks::<{ LINE_WORDS * WORD }>();
    for (line, from) in lines.iter().zip(from) {
        let (from, _) = from.as_chunks::<WORD>();
        for (word, from) in line.iter().zip(from) {
            word.store(u64::from_ne_bytes(*from), Relaxed);
        }
    }
    for (word, from) in rest.iter().zip(from_rest.as_chunks::<WORD>().0) {
        word.store(u64::from_ne_bytes(*from), Relaxed);
    }
}

/// Copies `count` bytes with the processor's string move.
///
/// # Safety
/// Both ranges must be valid for `count` bytes, and must not overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn string_move(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: `rep movsb` copies rcx bytes from rsi to rdi, which the caller vouches for; the
    // direction flag is clear in every function, and no other register or flag changes.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") count => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Whether all words are zero. Reads each at most once and stops soon after the first that is not.
#[must_use]
pub fn is_zero(words: &[AtomicU64]) -> bool {
    let (blocks, rest) = words.as_chunks::<LOOK_WORDS>();
    blocks.iter().all(|block| block.iter().fold(0, |all, word| all | word.load(Relaxed)) == 0)
        && rest.iter().all(|word| word.load(Relaxed) == 0)
}

/// Copies bytes at any offset into `into`.
///
/// # Panics
/// If the range does not lie inside `words`.
pub fn read_bytes(words: &[AtomicU64], offset: usize, into: &mut [u8]) {
    let mut done = 0;
    while done < into.len() {
        let at = offset + done;
        let (word, low) = (words[at / WORD].load(Relaxed).to_ne_bytes(), at % WORD);
        let taken = (WORD - low).min(into.len() - done);
        into[done..done + taken].copy_from_slice(&word[low..low + taken]);
        done += taken;
    }
}

/// Writes bytes at any offset. Words that are covered in part are changed by a read-modify-write,
/// so neighbouring bytes that somebody else writes at the same time are not undone.
///
/// # Panics
/// If the range does not lie inside `words`.
pub fn write_bytes(words: &[AtomicU64], offset: usize, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done;
        let (word, low) = (&words[at / WORD], at % WORD);
        let taken = (WORD - low).min(bytes.len() - done);
        let new = &bytes[done..done + taken];
        if let Ok(whole) = <[u8; WORD]>::try_from(new) {
            word.store(u64::from_ne_bytes(whole), Relaxed);
        } else {
            let patched = |old: u64| {
                let mut old = old.to_ne_bytes();
                old[low..low + taken].copy_from_slice(new);
                Some(u64::from_ne_bytes(old))
            };
            let result = word.fetch_update(Relaxed, Relaxed, patched);
            debug_assert!(result.is_ok(), "the update never declines");
        }
        done += taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(bytes: &[u8]) -> Vec<AtomicU64> {
        bytes.as_chunks::<WORD>().0.iter().map(|b| AtomicU64::new(u64::from_ne_bytes(*b))).collect()
    }

    proptest! {
        /// Copies, byte access and the zero test agree with a plain byte vector.
        #[test]
        fn agrees_with_bytes(
            len_words in 0usize..80,
            seed in any::<u64>(),
            offset in 0usize..640,
            patch in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut model: Vec<u8> = (0..len_words * WORD)
                .map(|i| (seed.rotate_left(i as u32) >> 3) as u8).collect();
            let live = words(&model);
            let mut copy = vec![0; model.len()];
            copy_from_words(&live, &mut copy);
            prop_assert_eq!(&copy, &model);
            let end = (offset + patch.len()).min(model.len());
            let offset = offset.min(end);
            model[offset..end].copy_from_slice(&patch[..end - offset]);
            write_bytes(&live, offset, &patch[..end - offset]);
            let mut part = vec![0; end - offset];
            read_bytes(&live, offset, &mut part);
            prop_assert_eq!(&part[..], &model[offset..end]);
            copy_from_words(&live, &mut copy);
            prop_assert_eq!(&copy, &model);
            let other = words(&vec![0; model.len()]);
            prop_assert!(is_zero(&other));
            copy_to_words(&other, &model);
            copy_from_words(&other, &mut copy);
            prop_assert_eq!(&copy, &model);
            prop_assert_eq!(is_zero(&live), model.iter().all(|b| *b == 0));
        }

        /// One bit anywhere makes a page non-zero.
        #[test]
        fn one_bit_is_not_zero(
            len_words in 1usize..1100,
            at in any::<prop::sample::Index>(),
            bit in 0u32..64,
        ) {
            let live = words(&vec![0; len_words * WORD]);
            live[at.index(len_words)].store(1 << bit, Relaxed);
            prop_assert!(!is_zero(&live));
        }
    }
}
