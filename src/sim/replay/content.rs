// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the pages of a traced guest hold, compared with when they were last read.

use crate::trace::{PageContent, TraceTick};
use crate::units::{PageIndex, PageRun};

/// What is known of a page in 16 bits.
const UNCHANGED: u16 = 0;
const ZERO: u16 = 1;
const FULL: u16 = 2;
const UNKNOWN: u16 = 3;
/// A delta of d bytes is this and d.
const DELTA: u16 = 4;
const DELTA_MAX: u16 = 4095;

/// One word a page, and none at all for a trace that says nothing of contents.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pages: Vec<u16>,
}

impl Contents {
    pub(super) fn known(&self) -> bool {
        !self.pages.is_empty()
    }

    /// The trace tells of contents: its guest has so many pages.
    pub(super) fn begin(&mut self, pages: u64) {
        if self.pages.is_empty() {
            self.pages = vec![UNCHANGED; PageIndex::new(pages).as_usize()];
        }
    }

    /// The writes of a tick; pages of which it says nothing hold something unknown.
    pub(super) fn note(&mut self, tick: &TraceTick) {
        if !self.known() {
            return;
        }
        let mut told = tick.content.iter().peekable();
        for page in tick.runs.iter().flat_map(|run: &PageRun| run.iter()) {
            while told.next_if(|(run, _)| run.end() <= page).is_some() {}
            let content = told.peek().filter(|(run, _)| run.start() <= page).map(|(_, c)| *c);
            if let Some(known) = self.pages.get_mut(page.as_usize()) {
                *known = after(*known, content);
            }
        }
    }

    /// What a page holds, compared with the last time that somebody asked.
    pub(super) fn read(&mut self, page: PageIndex) -> Option<PageContent> {
        let known = self.pages.get_mut(page.as_usize())?;
        let content = match *known {
            UNCHANGED => Some(PageContent::Unchanged),
            ZERO => Some(PageContent::Zero),
            FULL => Some(PageContent::Full),
            UNKNOWN => None,
            delta => Some(PageContent::Delta(delta - DELTA)),
        };
        if *known != ZERO {
            *known = UNCHANGED;
        }
        content
    }
}

/// What is known after one more write.
fn after(known: u16, content: Option<PageContent>) -> u16 {
    let grown = |bytes: u16| match known {
        UNCHANGED => DELTA + bytes.min(DELTA_MAX),
        known if known >= DELTA => DELTA + (known - DELTA + bytes.min(DELTA_MAX)).min(DELTA_MAX),
        ZERO => FULL,
        known => known,
    };
    match content {
        None => UNKNOWN,
        Some(PageContent::Zero) => ZERO,
        Some(PageContent::Full) => FULL,
        Some(PageContent::Unchanged) => known,
        Some(PageContent::Delta(bytes)) => grown(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Tick;

    #[test]
    fn deltas_add_up_until_the_page_is_read() {
        let mut contents = Contents::default();
        let mut tick = TraceTick::new(Tick::from_nanos(1), vec![PageRun::from_range(0..4)]);
        contents.note(&tick);
        assert!(!contents.known() && contents.read(PageIndex::new(0)).is_none());
        contents.begin(8);
        tick.content = vec![
            (PageRun::from_range(0..1), PageContent::Delta(100)),
            (PageRun::from_range(1..2), PageContent::Zero),
            (PageRun::from_range(3..4), PageContent::Full),
        ];
        contents.note(&tick);
        tick.content.truncate(1);
        contents.note(&TraceTick { runs: vec![PageRun::from_range(0..1)], ..tick });
        let mut read = |page| contents.read(PageIndex::new(page));
        assert_eq!(read(0), Some(PageContent::Delta(200)));
        assert_eq!(read(0), Some(PageContent::Unchanged));
        assert_eq!((read(1), read(1)), (Some(PageContent::Zero), Some(PageContent::Zero)));
        assert_eq!((read(2), read(3)), (None, Some(PageContent::Full)));
        assert_eq!((read(7), read(8)), (Some(PageContent::Unchanged), None));
    }
}
