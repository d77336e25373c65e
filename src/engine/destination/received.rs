// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages something was ever written to at this destination.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::units::{PageIndex, PageRun};

/// Pages whose bits are allocated together: a sparse guest must not cost memory for its holes.
const CHUNK_PAGES: u64 = 1 << 18;
const CHUNK_WORDS: usize = 1 << 12;
const _: () = assert!(CHUNK_WORDS as u64 * 64 == CHUNK_PAGES);

/// A set that only grows. A page that is not in it is still all zeros, as it was created, and a
/// zero page that comes for it needs no write. Rounds order its users: a page comes again only
/// after every channel has ended the round in which it came before.
pub(super) struct ReceivedSet {
    chunks: Vec<OnceLock<Box<[AtomicU64]>>>,
}

impl ReceivedSet {
    pub(super) fn new(pages: u64) -> Self {
        Self { chunks: (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect() }
    }

    /// Adds the pages of a run.
    pub(super) fn insert(&self, run: PageRun) {
        let mut page = run.start().get();
        while page < run.end().get() {
            let Some(chunk) = self.chunks.get(index(page)) else { return };
            let words = chunk.get_or_init(|| (0..CHUNK_WORDS).map(|_| AtomicU64::new(0)).collect());
            let bit = page % 64;
            let count = (64 - bit).min(run.end().get() - page);
            let mask = (u64::MAX >> (64 - count)) << bit;
            let word = &words[word(page)];
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            }
            page += count;
        }
    }

    pub(super) fn contains(&self, page: PageIndex) -> bool {
        let page = page.get();
        let words = self.chunks.get(index(page)).and_then(OnceLock::get);
        words.is_some_and(|words| words[word(page)].load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    /// The parts of `run` that are in the set.
    pub(super) fn within(&self, run: PageRun) -> impl Iterator<Item = PageRun> + '_ {
        let mut pages = run.iter().peekable();
        std::iter::from_fn(move || {
            let start = pages.find(|page| self.contains(*page))?;
            let mut count = 1;
            while pages.next_if(|page| self.contains(*page)).is_some() {
                count += 1;
            }
            Some(PageRun::new(start, count))
        })
    }
}

fn index(page: u64) -> usize {
    PageIndex::new(page / CHUNK_PAGES).as_usize()
}

fn word(page: u64) -> usize {
    PageIndex::new(page % CHUNK_PAGES / 64).as_usize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn follows_a_set(runs in prop::collection::vec((0u64..600, 1u64..200), 0..20)) {
            let base = CHUNK_PAGES - 300;
            let (set, mut model) = (ReceivedSet::new(2 * CHUNK_PAGES), BTreeSet::new());
            for (start, pages) in runs {
                let run = PageRun::new(PageIndex::new(base + start), pages);
                set.insert(run);
                model.extend(run.iter());
            }
            let window = PageRun::from_range(base - 10..base + 900);
            let found: Vec<_> = set.within(window).flat_map(|run| run.iter().collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn pages_past_the_end_are_in_no_set() {
        let set = ReceivedSet::new(10);
        assert!(!set.contains(PageIndex::new(5)) && !set.contains(PageIndex::new(CHUNK_PAGES)));
        set.insert(PageRun::from_range(CHUNK_PAGES..CHUNK_PAGES + 1));
    }
}
