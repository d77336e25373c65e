// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where everything lies in guest memory.
//!
//! The first part holds bytes that the software reads back: device rings, worker and connection
//! tables, records, sessions. The rest is memory of which only matters which pages are written,
//! how, and when. Virtual time keeps bytes for the first part only.
//!
//! ```text
//! | header | rx | tx | workers | connections | clients | persons | events | tags | attendees |
//! | sessions |
//! | kernel | timers | logs | uploads | opcode cache | heaps ... | never written | page cache ... |
//! ```
//!
//! Where workload.md 6.1 cannot hold: 700 heaps of 620 pages and a page cache of 120,000 pages
//! are more than 2 GiB. Heaps have 580 pages here, there are as many workers as users and a few
//! more, and the page cache is what is left (about 60,000 pages for 600 users).

use precopy::units::{PageIndex, PageRun};

use super::config::{SiteConfig, SiteConfigError};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a ring slot.
pub(crate) const SLOT: usize = 2048;
/// Slots of each ring.
pub(crate) const SLOTS: usize = 256;
/// Pages of a worker's private heap.
pub(crate) const HEAP_PAGES: u64 = 580;
/// Bytes of a worker's entry, a connection's, a person's, an event's, a tag's, an attendee's.
pub(crate) const WORKER_BYTES: usize = 256;
/// Bytes of a connection's entry.
pub(crate) const CONNECTION_BYTES: usize = 64;
/// Bytes of what the site remembers of a user between requests.
pub(crate) const CLIENT_BYTES: usize = 64;
/// Bytes of a person's record.
pub(crate) const PERSON_BYTES: usize = 64;
/// Bytes of an event's record.
pub(crate) const EVENT_BYTES: usize = 128;
/// Bytes of a tag's record.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of an attendee's record.
pub(crate) const ATTENDEE_BYTES: usize = 32;

/// Pages that one upload's picture takes while it is scaled down (workload.md 1.4): 1280 x 960
/// pixels of 4 bytes, and what the library needs.
pub(crate) const GD_PAGES: u64 = 1220;

/// A table of records of one size in the first part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Byte address of the first record.
    pub(crate) start: usize,
    /// Bytes of one record: a divisor of a page, so that no record crosses a page.
    pub(crate) size: usize,
    /// Records that fit.
    pub(crate) capacity: u64,
}

impl Table {
    /// Byte address of a record.
    pub(crate) fn at(self, index: u64) -> usize {
        debug_assert!(index < self.capacity, "record {index} of {}", self.capacity);
        self.start + usize::try_from(index).unwrap_or(usize::MAX) * self.size
    }
}

/// Where everything lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Pages of the first part, whose bytes are read back.
    pub(crate) byte_pages: u64,
    pub(crate) header: usize,
    pub(crate) rx: usize,
    pub(crate) tx: usize,
    pub(crate) workers: Table,
    pub(crate) connections: Table,
    pub(crate) clients: Table,
    pub(crate) persons: Table,
    pub(crate) events: Table,
    pub(crate) tags: Table,
    pub(crate) attendees: Table,
    pub(crate) sessions: Table,
    /// Persons, events and tags that there are at the start.
    pub(crate) initial: Initial,
    pub(crate) kernel: PageRun,
    pub(crate) timers: PageRun,
    pub(crate) logs: PageRun,
    pub(crate) uploads: PageRun,
    pub(crate) opcodes: PageRun,
    pub(crate) heaps: PageRun,
    pub(crate) zero: PageRun,
    pub(crate) cache: PageRun,
}

/// Records at the start: Olio's loader (workload.md 1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Initial {
    /// Registered users.
    pub persons: u64,
    /// Tags.
    pub tags: u64,
    /// Events.
    pub events: u64,
}

impl Initial {
    /// For so many concurrent users.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 5,000 tags"
    )]
    pub fn new(users: u32) -> Self {
        // The loader's smallest scale is 25.
        let persons = u64::from(users.max(25)) * 100;
        let decay = (-(persons as f64) / 10_000.0).exp();
        let tags = (5000.0 * (1.0 - decay) / (1.0 + decay)).round().max(1.0) as u64;
        Self { persons, tags, events: tags * 3 }
    }
}

struct Builder {
    next: u64,
}

impl Builder {
    fn pages(&mut self, pages: u64) -> PageRun {
        let run = PageRun::from_range(self.next..self.next + pages);
        self.next += pages;
        run
    }

    fn bytes(&mut self, bytes: usize) -> usize {
        let start = usize::try_from(self.next).unwrap_or(usize::MAX) * PAGE;
        self.next += bytes.div_ceil(PAGE) as u64;
        start
    }

    fn table(&mut self, size: usize, capacity: u64) -> Table {
        let bytes = usize::try_from(capacity).unwrap_or(usize::MAX).saturating_mul(size);
        Table { start: self.bytes(bytes), size, capacity }
    }
}

impl Layout {
    /// Lays the guest out.
    ///
    /// # Errors
    /// [`SiteConfigError`] if the configuration is out of range or does not fit its memory.
    pub fn new(config: &SiteConfig) -> Result<Self, SiteConfigError> {
        config.check()?;
        let initial = Initial::new(config.users);
        let grown = |n: u64| n + (n / 4).max(4096);
        let scaled = |pages: u64, least: u64| scale(pages, config.share()).max(least);
        let mut b = Builder { next: 0 };
        let header = b.bytes(PAGE);
        let (rx, tx) = (b.bytes(SLOT * SLOTS), b.bytes(SLOT * SLOTS));
        let connections = u64::from(config.users.max(config.max_workers)) + 64;
        let workers = b.table(WORKER_BYTES, u64::from(config.worker_count()));
        let connections = b.table(CONNECTION_BYTES, connections);
        let clients = b.table(CLIENT_BYTES, connections.capacity);
        let persons = b.table(PERSON_BYTES, grown(initial.persons));
        let events = b.table(EVENT_BYTES, grown(initial.events));
        let tags = b.table(TAG_BYTES, initial.tags);
        let attendees = b.table(ATTENDEE_BYTES, grown(0) * 4);
        let sessions = b.table(PAGE, connections.capacity);
        let byte_pages = b.next;
        // Rings and tables are hot, too, and come on top.
        let kernel = b.pages(scaled(config.kernel_pages, 64));
        let timers = b.pages(scaled(80, 8));
        let logs = b.pages(scaled(64, 4));
        let upload = scale(GD_PAGES, config.upload_scale) + 1;
        let uploads = b.pages(scaled(8192, upload * 4));
        let opcodes = b.pages(scaled(8192, 16));
        let heaps = b.pages(workers.capacity * HEAP_PAGES);
        let cache_least = scaled(4096, 256).max(scale(164 * 4, config.upload_scale) * 2);
        let left = config.pages.saturating_sub(b.next + cache_least);
        let zero = b.pages(scale(config.pages, config.zero_share).min(left));
        let needed = b.next + cache_least;
        if needed > config.pages {
            let (pages, needed_mib) = (config.pages, needed.div_ceil(256));
            let workers = config.worker_count();
            return Err(SiteConfigError::TooSmall { pages, needed, needed_mib, workers });
        }
        let cache = b.pages(config.pages - b.next);
        Ok(Self {
            byte_pages,
            header,
            rx,
            tx,
            workers,
            connections,
            clients,
            persons,
            events,
            tags,
            attendees,
            sessions,
            initial,
            kernel,
            timers,
            logs,
            uploads,
            opcodes,
            heaps,
            zero,
            cache,
        })
    }

    /// Pages whose bytes the software reads back.
    #[must_use]
    pub fn byte_pages(&self) -> u64 {
        self.byte_pages
    }

    /// The worker whose heap this page is part of.
    #[must_use]
    pub fn worker_of(&self, page: PageIndex) -> Option<u64> {
        let inside = page >= self.heaps.start() && page < self.heaps.end();
        inside.then(|| (page.get() - self.heaps.start().get()) / HEAP_PAGES)
    }

    /// Regions by name, in order, each with its pages.
    #[must_use]
    pub fn regions(&self) -> Vec<(&'static str, PageRun)> {
        vec![
            ("records", PageRun::from_range(0..self.byte_pages)),
            ("kernel", self.kernel),
            ("timers", self.timers),
            ("logs", self.logs),
            ("uploads", self.uploads),
            ("opcode cache", self.opcodes),
            ("heaps", self.heaps),
            ("never written", self.zero),
            ("page cache", self.cache),
        ]
    }
}

/// `share` of `n`, rounded.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "page counts of a guest"
)]
pub(crate) fn scale(n: u64, share: f64) -> u64 {
    (n as f64 * share).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_cover_the_guest_without_overlap() {
        for (pages, users) in [(524_288, 600), (524_288, 100), (16_384, 19), (8192, 2)] {
            let layout = Layout::new(&SiteConfig::scaled(pages, users)).unwrap();
            let mut next = 0;
            for (name, run) in layout.regions() {
                assert_eq!(run.start().get(), next, "{name}");
                next += run.pages();
            }
            assert_eq!(next, pages);
        }
    }

    #[test]
    fn data_scale_is_that_of_the_loader() {
        let of = |users| Initial::new(users);
        assert_eq!(of(100), Initial { persons: 10_000, tags: 2311, events: 6933 });
        assert_eq!(of(600), Initial { persons: 60_000, tags: 4975, events: 14_925 });
    }

    #[test]
    fn what_does_not_fit_says_what_is_needed() {
        let error = Layout::new(&SiteConfig::scaled(16_384, 60)).unwrap_err().to_string();
        assert!(error.starts_with("memory of 16384 pages is too small for 64 workers"), "{error}");
    }
}
