// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fingerprints of lines: which parts of a page have changed, in a small part of its memory.

use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::{AllocError, FromZeros};

use super::{framed, runs};

/// 64 bits for each line of each page.
#[derive(Debug)]
pub(super) struct Lines {
    /// Bytes of a line.
    line: usize,
    /// Lines of a page.
    count: usize,
    seed: u64,
    /// Of all pages, one after the other; not touched before a page is noted.
    prints: Vec<u64>,
}

impl Lines {
    /// For so many pages of so many bytes, with lines of `line` bytes.
    pub(super) fn new(
        pages: usize,
        page_bytes: usize,
        line: usize,
        seed: u64,
    ) -> Result<Self, AllocError> {
        let count = page_bytes / line;
        let prints = u64::new_vec_zeroed(pages.saturating_mul(count))?;
        Ok(Self { line, count, seed, prints })
    }

    /// Bytes of a page's fingerprints.
    pub(super) fn page_bytes(&self) -> u64 {
        self.count as u64 * 8
    }

    /// From now on the page is known to be `bytes`.
    pub(super) fn note(&mut self, page: usize, bytes: &[u8]) {
        self.changed(page, bytes).for_each(drop);
    }

    /// The same; and appends the delta from what it was to `out`, unless that is hardly shorter
    /// than the page. It must have been noted before.
    pub(super) fn delta(&mut self, page: usize, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let line = self.line;
        let changed = self.changed(page, bytes);
        framed(bytes, out, |budget, out| runs::of_lines(bytes, line, changed, budget, out))
    }

    /// The lines that differ from what was noted, which they are not any more once the iterator
    /// has passed them.
    fn changed(&mut self, page: usize, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let (line, seed) = (self.line, self.seed);
        let prints = &mut self.prints[page * self.count..][..self.count];
        prints.iter_mut().zip(bytes.chunks_exact(line)).enumerate().filter_map(
            move |(at, (print, line))| {
                let now = xxh3_64_with_seed(line, seed);
                (std::mem::replace(print, now) != now).then_some(at)
            },
        )
    }
}
