// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a trace consists of, and the seam at which it is read.

use std::fmt::Debug;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{PageRun, PageSize, Tick};

/// Whose time the ticks of a trace are stamped with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Clock {
    /// The host's.
    #[default]
    Host,
    /// The guest's: it stands still while the guest is paused.
    Guest,
    /// A simulator's.
    Virtual,
}

/// What holds for a whole trace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TraceHeader {
    /// Size of a page.
    pub page_size: PageSize,
    /// Pages of the guest.
    pub pages: u64,
    /// Intended length of a tick; the ticks' own times are exact.
    pub tick: Duration,
    /// Whose time it is.
    pub clock: Clock,
    /// What was traced, and how.
    pub origin: String,
    /// Remarks.
    pub notes: String,
    /// Pages that held something when the trace began, ascending; `None` if nobody knows.
    pub populated: Option<Vec<PageRun>>,
}

impl TraceHeader {
    /// A trace of `pages` pages of 4 KiB in ticks of 10 ms of the host's clock.
    #[must_use]
    pub fn new(pages: u64, origin: impl Into<String>) -> Self {
        Self {
            page_size: PageSize::BASE,
            pages,
            tick: Duration::from_millis(10),
            clock: Clock::Host,
            origin: origin.into(),
            notes: String::new(),
            populated: None,
        }
    }
}

/// What a written page holds, as far as the recorder could tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PageContent {
    /// Nothing but zeros.
    Zero,
    /// The same as before the write.
    Unchanged,
    /// Something that takes this many bytes as a delta to what was there before.
    Delta(u16),
    /// Something that no delta describes in less than a page.
    Full,
}

/// The pages written since the tick before.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct TraceTick {
    /// When this tick ended, from the beginning of the trace; later than the tick before.
    pub end: Tick,
    /// The pages: ascending, disjoint, not adjacent.
    pub runs: Vec<PageRun>,
    /// Requests that the guest answered in this tick.
    pub requests: Option<u32>,
    /// Requests that it was working on at the tick's end.
    pub in_flight: Option<u32>,
    /// Time for which the guest ran in this tick.
    pub guest_time: Option<Duration>,
    /// What some of the pages hold now: ascending, disjoint, within `runs`.
    pub content: Vec<(PageRun, PageContent)>,
}

impl TraceTick {
    /// A tick that says only which pages were written.
    #[must_use]
    pub fn new(end: Tick, runs: Vec<PageRun>) -> Self {
        Self { end, runs, ..Self::default() }
    }

    /// Pages written.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.pages()).sum()
    }

    /// Makes it as new, with the memory kept.
    pub fn clear(&mut self) {
        self.end = Tick::ZERO;
        self.runs.clear();
        self.requests = None;
        self.in_flight = None;
        self.guest_time = None;
        self.content.clear();
    }
}

/// Where ticks come from, in order of time.
pub trait TickSource: Send + Debug {
    /// Why a tick cannot be had.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What holds for the whole trace.
    fn header(&self) -> &TraceHeader;

    /// Puts the next tick into `into`; `false` at the end, with `into` cleared.
    ///
    /// # Errors
    /// As the source says; it must not be used any more but to seek.
    fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, Self::Error>;

    /// Goes to the first tick that ends after `at` ([`Tick::ZERO`]: the beginning).
    ///
    /// # Errors
    /// As the source says.
    fn seek(&mut self, at: Tick) -> Result<(), Self::Error>;

    /// End of the last tick, if that is known without reading everything.
    fn end(&self) -> Option<Tick>;
}

/// A trace that can be opened any number of times, from any thread.
pub trait Trace: Send + Sync + Debug {
    /// What one reading gives.
    type Source: TickSource;

    /// Starts a reading at the beginning.
    ///
    /// # Errors
    /// As the source says.
    fn open(&self) -> Result<Self::Source, <Self::Source as TickSource>::Error>;
}
