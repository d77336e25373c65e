// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A queue of pages in which a page stands once at most, and out of whose middle it can be taken.
//!
//! A ring of pages, linked both ways: 8 bytes a page. A link is stored as its distance, so that a
//! page that does not stand in the queue has zeros and a fresh queue is not touched.

use crate::bitmap::DenseBitmap;
use crate::units::{PageIndex, PageRun};

/// A queue of pages. Of guests with up to [`PAGES_MAX`](crate::limits::PAGES_MAX) pages.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Queue {
    /// Distances to the page behind and to the page before.
    links: Vec<[u32; 2]>,
    front: u32,
    pages: u64,
}

const BEHIND: usize = 0;
const BEFORE: usize = 1;

impl Queue {
    /// An empty queue for `pages` pages.
    pub(super) fn new(pages: usize) -> Self {
        Self { links: vec![[0; 2]; pages], front: 0, pages: 0 }
    }

    /// Begins anew if the guest is one of another size.
    pub(super) fn make_room(&mut self, set: &DenseBitmap) {
        let pages = PageIndex::new(set.len()).as_usize();
        if self.links.len() != pages {
            *self = Self::new(pages);
        }
    }

    fn get(&self, page: u32, side: usize) -> u32 {
        page.wrapping_add(self.links[page as usize][side])
    }

    fn put(&mut self, page: u32, side: usize, other: u32) {
        self.links[page as usize][side] = other.wrapping_sub(page);
    }

    pub(super) fn contains(&self, page: PageIndex) -> bool {
        let page = number(page);
        self.links[page as usize] != [0; 2] || (self.pages == 1 && self.front == page)
    }

    pub(super) fn clear(&mut self) {
        while let Some(page) = self.front() {
            self.remove(page);
        }
    }

    pub(super) fn front(&self) -> Option<PageIndex> {
        (self.pages > 0).then(|| PageIndex::new(u64::from(self.front)))
    }

    /// A page that does not stand in the queue, at its end.
    pub(super) fn push_back(&mut self, page: PageIndex) {
        let page = number(page);
        if self.pages == 0 {
            self.front = page;
        } else {
            let (first, last) = (self.front, self.get(self.front, BEFORE));
            self.put(last, BEHIND, page);
            self.put(page, BEFORE, last);
            self.put(page, BEHIND, first);
            self.put(first, BEFORE, page);
        }
        self.pages += 1;
    }

    /// Makes a page that stands in the queue its front; those before it follow at the end.
    pub(super) fn start_at(&mut self, page: PageIndex) {
        self.front = number(page);
    }

    /// Takes out the pages for which `keep` says no; the others keep their order.
    pub(super) fn retain(&mut self, keep: impl Fn(PageIndex) -> bool) {
        for _ in 0..self.pages {
            let page = PageIndex::new(u64::from(self.front));
            if keep(page) {
                self.front = self.get(self.front, BEHIND);
            } else {
                self.remove(page);
            }
        }
    }

    /// Takes out a page that stands in the queue.
    pub(super) fn remove(&mut self, page: PageIndex) {
        let page = number(page);
        let (behind, before) = (self.get(page, BEHIND), self.get(page, BEFORE));
        self.put(before, BEHIND, behind);
        self.put(behind, BEFORE, before);
        if self.front == page {
            self.front = behind;
        }
        self.links[page as usize] = [0; 2];
        self.pages -= 1;
    }

    /// Takes up to `pages_max` pages from the front, in up to `runs_max` runs.
    pub(super) fn take(&mut self, pages_max: u64, runs_max: usize, into: &mut Vec<PageRun>) {
        let (first, runs_end) = (into.len(), into.len() + runs_max);
        for _ in 0..pages_max {
            let Some(page) = self.front() else { return };
            let room = into.len() < runs_end;
            match into[first..].last_mut().filter(|run| run.end() == page) {
                Some(run) => *run = PageRun::from_range(run.start().get()..page.get() + 1),
                None if room => into.push(PageRun::new(page, 1)),
                None => return,
            }
            self.remove(page);
        }
    }
}

fn number(page: PageIndex) -> u32 {
    u32::try_from(page.get()).expect("a page below PAGES_MAX")
}
