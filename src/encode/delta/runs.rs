// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where two versions of a page differ, as runs; and putting runs onto a page.
//!
//! ```text
//!  run      skip varint | length varint | the new bytes
//!  skip     bytes that stay as they are, counted from the end of the run before; at least 1,
//!           but for the first run of a page
//!  length   bytes that change, at least 1
//!  varint   seven bits a byte, low ones first, at most three bytes and no more than it takes
//! ```
//!
//! A run carries what the bytes are to be, not what they differ by: putting it on is a copy, and
//! putting it on twice does no harm. (XBZRLE does the same; an XOR only says where to look.)
//! Versions are compared 64 bytes at a time and then word by word, so that what did not change is
//! passed over at the speed of memory. A run begins at the first changed byte of a word and ends at
//! the last one of a word; less than three bytes between two runs are sent along, because a run of
//! its own would cost as much.

/// Bytes that are compared at once.
const BLOCK: usize = 64;
/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// So few unchanged bytes between two runs make one of them: another run costs two bytes at least.
const GAP: usize = 2;
/// Bytes of the longest number: 21 bits, enough for any place in a page of 2 MiB.
const VARINT_MAX: usize = 3;

/// Appends the runs that turn `old` into `new`, unless that takes more than `budget` bytes: then
/// `out` is as it was, and the answer is false. Both are one page, of a multiple of 64 bytes.
pub(super) fn encode(old: &[u8], new: &[u8], budget: usize, out: &mut Vec<u8>) -> bool {
    let (olds, old_rest) = old.as_chunks::<BLOCK>();
    let (news, new_rest) = new.as_chunks::<BLOCK>();
    if old.len() != new.len() || !old_rest.is_empty() || !new_rest.is_empty() {
        return false;
    }
    let from = out.len();
    let mut runs = Runs::new(new, budget, out);
    let blocks = olds.iter().zip(news).enumerate().filter(|(_, (old, new))| old != new);
    for (at, (old, new)) in blocks {
        let words = old.as_chunks::<WORD>().0.iter().zip(new.as_chunks::<WORD>().0);
        for (word, (old, new)) in words.enumerate() {
            let differs = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
            if differs == 0 {
                continue;
            }
            let base = at * BLOCK + word * WORD;
            let first = differs.trailing_zeros() as usize / 8;
            let end = WORD - differs.leading_zeros() as usize / 8;
            if !runs.add(base + first, base + end) {
                runs.out.truncate(from);
                return false;
            }
        }
    }
    let fits = runs.close();
    if !fits {
        out.truncate(from);
    }
    fits
}

/// Appends the runs that make lines of `line` bytes what they are in `new`, those with the numbers
/// that `changed` gives, in order. False if that takes more than `budget` bytes; what was appended
/// is of no use then. All of `changed` is taken, whatever fits.
pub(super) fn of_lines(
    new: &[u8],
    line: usize,
    changed: impl Iterator<Item = usize>,
    budget: usize,
    out: &mut Vec<u8>,
) -> bool {
    let mut runs = Runs::new(new, budget, out);
    let mut fits = true;
    for at in changed {
        fits = fits && runs.add(at * line, (at + 1) * line);
    }
    fits && runs.close()
}

/// Runs on their way out; the last one may still grow.
struct Runs<'a> {
    new: &'a [u8],
    /// The open run; empty if there is none.
    start: usize,
    end: usize,
    /// Where the last run that was written ends.
    written: usize,
    /// Longest that `out` may get.
    most: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Runs<'a> {
    fn new(new: &'a [u8], budget: usize, out: &'a mut Vec<u8>) -> Self {
        Self { new, start: 0, end: 0, written: 0, most: out.len() + budget, out }
    }

    /// Bytes `start..end` change. False if there is no room for what was open.
    fn add(&mut self, start: usize, end: usize) -> bool {
        if self.start < self.end && start - self.end <= GAP {
            self.end = end;
            return true;
        }
        let fits = self.close();
        (self.start, self.end) = (start, end);
        fits
    }

    fn close(&mut self) -> bool {
        let bytes = &self.new[self.start..self.end];
        if !bytes.is_empty() {
            // What does not fit is not copied, whatever its length.
            if self.out.len() + bytes.len() + 2 > self.most {
                return false;
            }
            put(self.start - self.written, self.out);
            put(bytes.len(), self.out);
            self.out.extend_from_slice(bytes);
            self.written = self.end;
        }
        self.out.len() <= self.most
    }
}

#[expect(clippy::cast_possible_truncation, reason = "masked to seven bits")]
fn put(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Puts runs onto a page. Nothing outside the two slices is read or written, and no more is done
/// than there are bytes in `runs`.
///
/// # Errors
/// Why they are no runs of this page; it is then changed in part.
pub(super) fn apply(mut runs: &[u8], page: &mut [u8]) -> Result<(), &'static str> {
    let mut at = 0;
    while !runs.is_empty() {
        let skip = take(&mut runs)?;
        let length = take(&mut runs)?;
        if length == 0 || (skip == 0 && at > 0) {
            return Err("a run of it is empty");
        }
        let start = at + skip;
        let Some((bytes, rest)) = runs.split_at_checked(length) else {
            return Err("a run of it is cut short");
        };
        at = start + length;
        let Some(into) = page.get_mut(start..at) else {
            return Err("a run of it ends past the page");
        };
        into.copy_from_slice(bytes);
        runs = rest;
    }
    Ok(())
}

fn take(from: &mut &[u8]) -> Result<usize, &'static str> {
    let mut number = 0;
    for at in 0..VARINT_MAX {
        let Some((byte, rest)) = from.split_first() else {
            return Err("it ends inside a number");
        };
        *from = rest;
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if *byte == 0 && at > 0 {
                Err("a number has too many bytes")
            } else {
                Ok(number)
            };
        }
    }
    Err("a number has too many bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 4096;

    fn round_trip(old: &[u8], new: &[u8]) -> Option<usize> {
        let mut out = b"kept".to_vec();
        if !encode(old, new, new.len(), &mut out) {
            assert_eq!(out, b"kept", "what does not fit leaves nothing behind");
            return None;
        }
        let mut page = old.to_vec();
        apply(&out[4..], &mut page).unwrap();
        assert!(page == new, "decode(encode(old, new), old) == new");
        Some(out.len() - 4)
    }

    fn noise(mut state: u64, bytes: usize) -> Vec<u8> {
        (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Sparse(Vec<(usize, u8)>),
        Words(Vec<usize>),
        Dense(usize, usize),
        Shift(usize),
        All,
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            prop::collection::vec((0..PAGE, any::<u8>()), 0..60).prop_map(Edit::Sparse),
            prop::collection::vec(0..PAGE / 8, 0..200).prop_map(Edit::Words),
            (0..PAGE, 0..PAGE).prop_map(|(a, b)| Edit::Dense(a.min(b), a.max(b))),
            (1..PAGE).prop_map(Edit::Shift),
            Just(Edit::All),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(seed: u64, flat: bool, edit in edit(), log2 in 12u32..15) {
            let bytes = 1usize << log2;
            let old = if flat { vec![7; bytes] } else { noise(seed, bytes) };
            let mut new = old.clone();
            match edit {
                Edit::Sparse(bytes) => bytes.iter().for_each(|(at, byte)| new[*at] = *byte),
                Edit::Words(words) => words.iter().for_each(|at| new[at * 8] ^= 0x40),
                Edit::Dense(from, to) => new[from..to].copy_from_slice(&noise(!seed, to - from)),
                Edit::Shift(by) => new.rotate_right(by),
                Edit::All => new.iter_mut().for_each(|byte| *byte = !*byte),
            }
            let size = round_trip(&old, &new);
            let changed = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            // A run costs at most six bytes, and eight bytes hold at most one run's start.
            prop_assert!(size.is_none_or(|size| size >= changed));
            prop_assert!(size.is_some() || changed > bytes / 2, "{changed} of {bytes} changed");
        }

        #[test]
        fn any_bytes_give_a_page_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut page = vec![0x5a; PAGE + 64];
            let _ = apply(&body, &mut page[..PAGE]);
            prop_assert!(page[PAGE..].iter().all(|byte| *byte == 0x5a));
        }
    }

    #[test]
    fn sizes_are_what_the_format_says() {
        let old = vec![1u8; PAGE];
        let edited = |places: &[usize]| {
            let mut new = old.clone();
            places.iter().for_each(|at| new[*at] = 9);
            round_trip(&old, &new).unwrap()
        };
        assert_eq!(edited(&[]), 0, "nothing changed");
        assert_eq!(edited(&[0]), 1 + 1 + 1);
        assert_eq!(edited(&[127]), 1 + 1 + 1);
        assert_eq!(edited(&[128]), 2 + 1 + 1, "from 128 on a number has two bytes");
        assert_eq!(edited(&[4095]), 2 + 1 + 1);
        assert_eq!(edited(&[7, 10]), 1 + 1 + 4, "two bytes between them are sent along");
        assert_eq!(edited(&[7, 11]), 3 + 3, "three are not");
        assert_eq!(edited(&[8, 15]), 1 + 1 + 8, "within a word everything is");
        assert_eq!(round_trip(&old, &vec![2; PAGE]), None, "no longer than a page");
        let mut new = old.clone();
        new[..PAGE - 4].fill(2);
        assert_eq!(round_trip(&old, &new), Some(1 + 2 + PAGE - 4));
        assert!(!encode(&old, &old[1..], PAGE, &mut Vec::new()), "two lengths");
    }

    #[test]
    fn lines_are_runs() {
        let (old, mut out) = (noise(1, PAGE), Vec::new());
        let mut new = old.clone();
        new[129] ^= 1;
        new[200] ^= 1;
        new[4090] ^= 1;
        assert!(of_lines(&new, 64, [2, 3, 63].into_iter(), PAGE, &mut out));
        assert_eq!(out.len(), 2 + 2 + 128 + 2 + 1 + 64, "two lines in a row are one run");
        let mut page = old.clone();
        apply(&out, &mut page).unwrap();
        assert!(page == new);
        let mut taken = 0;
        let all = (0..64).inspect(|_| taken += 1);
        assert!(!of_lines(&new, 64, all, 100, &mut out));
        assert_eq!(taken, 64);
    }

    #[test]
    fn a_budget_is_kept() {
        let (old, new) = (vec![0u8; PAGE], noise(3, PAGE));
        let mut half = old.clone();
        half[..1000].copy_from_slice(&new[..1000]);
        let mut out = Vec::new();
        for budget in 0..1100 {
            out.clear();
            let fits = encode(&old, &half, budget, &mut out);
            assert!(out.len() <= budget && fits != out.is_empty(), "{budget}");
        }
        assert!(out.capacity() < 2 * PAGE);
    }

    #[test]
    fn hostile_runs_are_errors() {
        let mut page = vec![0u8; PAGE];
        let mut apply = |runs: &[u8]| apply(runs, &mut page);
        assert_eq!(apply(&[]), Ok(()));
        assert_eq!(apply(&[0, 1, 9]), Ok(()));
        for runs in [
            &[0][..],                  // a skip alone
            &[0, 0],                   // nothing at the start
            &[5, 0],                   // nothing, further on
            &[0, 1, 9, 0, 1, 9],       // two runs that touch
            &[0, 2, 9],                // cut short
            &[0x80, 0x20, 1, 9],       // starts at the end of the page
            &[0xff, 0x1f, 2, 9, 9],    // ends past it
            &[0xff, 0xff, 0x7f, 1, 9], // starts far past it
            &[0, 0xff, 0xff, 0x7f, 9], // longer than the page
            &[0x80],                   // a number cut short
            &[0x80, 0x80],
            &[0x80, 0x80, 0x80, 0, 1, 9], // a number of four bytes
            &[0x80, 0, 1, 9],             // one with a byte too many
            &[0, 1, 9, 3],                // something behind
            &[0, 0x81, 0, 9],
        ] {
            assert!(apply(runs).is_err(), "{runs:?}");
        }
    }
}
