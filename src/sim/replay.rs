// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A recorded trace as a guest in virtual time.
//!
//! The writes of a tick are spread evenly over the tick, in an order that is scattered over its
//! pages and always the same. Where the guest stands in its trace depends only on how much time it
//! was given, never on how that time was cut into pieces, so looking at a run does not change it.

use std::sync::Arc;
use std::time::Duration;

use super::guest::VirtualGuest;
use crate::bitmap::DenseBitmap;
use crate::rng::coprime_stride;
use crate::trace::{PageContent, TickSource, TraceTick};
use crate::units::{PageIndex, RequestLoad, Throttle, Tick};

mod content;
mod populated;
#[cfg(test)]
mod tests;

use content::Contents;
pub use populated::{Populated, touched_pages};

/// What becomes of a trace while the guest is slowed down or paused.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
#[non_exhaustive]
pub enum Replay {
    /// The guest's time stretches: whatever it would have done comes later, at its own pace.
    #[default]
    Stretch,
    /// Work comes in as recorded and queues; the guest catches up in a burst.
    OpenLoop {
        /// How fast an unthrottled guest works its queue off, as a multiple of the recorded pace;
        /// the inverse of its utilization. At least 1.
        pace_max: f64,
        /// Most work that queues; users give up past it, and the recording stands still for them.
        queue_max: Duration,
    },
}

impl Replay {
    /// An open loop over a guest that is half busy, with users who wait half a minute.
    pub const OPEN_LOOP: Self =
        Self::OpenLoop { pace_max: 2.0, queue_max: Duration::from_secs(30) };
}

/// How a trace is replayed.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct ReplayOptions {
    /// Where in the trace the guest stands when its time begins; modulo the trace's length.
    pub offset: Duration,
    /// The simulator's time at which it stands there.
    pub starts_at: Tick,
    /// What a throttle or a pause does to it.
    pub replay: Replay,
    /// Which pages hold something at the start.
    pub populated: Populated,
}

impl ReplayOptions {
    /// A replay that begins at `offset` of the trace.
    #[must_use]
    pub fn at(offset: Duration) -> Self {
        Self { offset, ..Self::default() }
    }
}

/// The tick that is being replayed, on the replay's clock: that of the trace, with one lap after
/// the other.
#[derive(Debug, Default)]
struct Current {
    begin: u64,
    end: u64,
    /// Its pages, one by one.
    pages: Vec<u32>,
    written: u64,
    /// Place in `pages` of the next write, and the distance to the one after it.
    at: usize,
    stride: usize,
}

impl Current {
    /// Writes that are due when the replay stands at `position`.
    fn due(&self, position: u64) -> u64 {
        let pages = self.pages.len() as u64;
        if position >= self.end {
            return pages;
        }
        let done = u128::from(position.saturating_sub(self.begin));
        let length = u128::from((self.end - self.begin).max(1));
        u64::try_from(u128::from(pages) * done / length).unwrap_or(pages)
    }

    fn next_page(&mut self) -> PageIndex {
        let page = self.pages[self.at];
        self.at += self.stride;
        if self.at >= self.pages.len() {
            self.at -= self.pages.len();
        }
        self.written += 1;
        PageIndex::new(page.into())
    }

    /// A step through all of `count` places that goes far each time: the golden section, moved to
    /// the next number without a common factor.
    fn stride_over(count: usize) -> usize {
        let count64 = count as u64;
        // A tick has at most 2^32 pages.
        let stride = (count64.saturating_mul(0x9e37_79b9) >> 32) | 1;
        let stride = if count64 > 1 { coprime_stride(stride, count64) } else { stride };
        if stride >= count64 { 1 } else { PageIndex::new(stride).as_usize() }
    }
}

/// A guest that writes what a trace says.
///
/// The trace begins again at its end, so that a run may be longer than it. If the trace cannot be
/// read any further the guest writes nothing more, and [`take_error`](Self::take_error) tells why.
#[derive(Debug)]
pub struct TraceGuest<S: TickSource> {
    source: S,
    replay: Replay,
    /// `None`: all pages.
    populated: Option<Arc<DenseBitmap>>,
    /// On the simulator's clock.
    now: Tick,
    /// How far the guest has come, on the replay's clock.
    position: u64,
    /// Hundredths of a nanosecond by which it has come further.
    fraction: u64,
    /// How far the work has come in (open loop).
    arrived: u64,
    /// Time taken from the guest that it has not lost yet.
    debt: u64,
    /// Where the present lap of the trace began, on the replay's clock.
    lap: u64,
    tick: TraceTick,
    current: Current,
    contents: Contents,
    /// Requests answered in the ticks that are over.
    answered: u64,
    /// Nothing can be read any more.
    over: bool,
    error: Option<S::Error>,
}

impl<S: TickSource> TraceGuest<S> {
    /// A guest that stands at the offset of the options.
    ///
    /// # Errors
    /// As the source says; it is read as a whole if [`ReplayOptions::populated`] needs that.
    pub fn new(mut source: S, options: &ReplayOptions) -> Result<Self, S::Error> {
        let populated = options.populated.pages(&mut source)?;
        let offset = u64::try_from(options.offset.as_nanos()).unwrap_or(u64::MAX);
        let offset = source.end().map_or(offset, |end| offset % end.as_nanos().max(1));
        source.seek(Tick::from_nanos(offset))?;
        let mut guest = Self {
            source,
            replay: options.replay,
            populated,
            now: options.starts_at,
            position: offset,
            fraction: 0,
            arrived: offset,
            debt: 0,
            lap: 0,
            tick: TraceTick::default(),
            contents: Contents::default(),
            answered: 0,
            current: Current { begin: offset, end: offset, ..Current::default() },
            over: false,
            error: None,
        };
        guest.next_tick()?;
        let intended = guest.source.header().tick;
        let intended = u64::try_from(intended.as_nanos()).unwrap_or(u64::MAX);
        let current = &mut guest.current;
        // Only the end of a tick is recorded: the one that the guest begins in may be longer.
        current.begin = current.end.saturating_sub(intended).min(offset).max(guest.lap);
        for _ in 0..current.due(offset) {
            current.next_page();
        }
        Ok(guest)
    }

    /// Why the trace could not be read further, if it could not.
    pub fn take_error(&mut self) -> Option<S::Error> {
        self.error.take()
    }

    /// The trace.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// How far the guest has come in its trace, laps included, since the trace's beginning.
    #[must_use]
    pub fn position(&self) -> Duration {
        Duration::from_nanos(self.position)
    }

    /// Work that has come in and was not done yet (always 0 without an open loop).
    #[must_use]
    pub fn queued(&self) -> Duration {
        Duration::from_nanos(self.arrived.saturating_sub(self.position))
    }

    /// Reads the tick after the present one, beginning again at the end of the trace.
    fn next_tick(&mut self) -> Result<(), S::Error> {
        self.answered += u64::from(self.tick.requests.unwrap_or(0));
        if !self.source.next_tick(&mut self.tick)? {
            self.lap = self.current.end;
            self.source.seek(Tick::ZERO)?;
            if !self.source.next_tick(&mut self.tick)? {
                self.over = true;
                return Ok(());
            }
        }
        let current = &mut self.current;
        current.begin = current.end;
        current.end = (self.lap + self.tick.end.as_nanos()).max(current.begin + 1);
        current.pages.clear();
        let pages = u32::try_from(self.source.header().pages).unwrap_or(u32::MAX);
        let within = |page: PageIndex| u32::try_from(page.get()).unwrap_or(pages).min(pages);
        for run in &self.tick.runs {
            current.pages.extend(within(run.start())..within(run.end()));
        }
        if !self.tick.content.is_empty() {
            self.contents.begin(self.source.header().pages);
        }
        self.contents.note(&self.tick);
        (current.written, current.at) = (0, 0);
        current.stride = Current::stride_over(current.pages.len());
        Ok(())
    }

    /// Does all work up to `target` on the replay's clock.
    fn go_to(&mut self, target: u64, write: &mut dyn FnMut(PageIndex)) {
        while !self.over {
            let due = self.current.due(target);
            while self.current.written < due {
                write(self.current.next_page());
            }
            if target < self.current.end {
                break;
            }
            if let Err(error) = self.next_tick() {
                self.error = Some(error);
                self.over = true;
            }
        }
        self.position = target;
    }

    /// Work that the guest can do in `wall` nanoseconds, in nanoseconds of the recorded pace.
    fn capacity(&mut self, wall: u64, throttle: Throttle) -> u64 {
        let stolen = self.debt.min(wall);
        self.debt -= stolen;
        let left = u128::from(wall - stolen) * u128::from(100 - throttle.get().min(100));
        let hundredths = match self.replay {
            Replay::Stretch => left,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a multiple between 1 and 1000, in 1/1024"
            )]
            Replay::OpenLoop { pace_max, .. } => {
                left * u128::from((pace_max.clamp(1.0, 1000.0) * 1024.0) as u64) / 1024
            }
        };
        let hundredths = hundredths + u128::from(self.fraction);
        self.fraction = (hundredths % 100) as u64;
        u64::try_from(hundredths / 100).unwrap_or(u64::MAX)
    }
}

impl<S: TickSource> VirtualGuest for TraceGuest<S> {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        let wall = until.as_nanos().saturating_sub(self.now.as_nanos());
        self.now = self.now.max(until);
        let capacity = if running { self.capacity(wall, throttle) } else { 0 };
        let target = match self.replay {
            Replay::Stretch => self.position.saturating_add(capacity),
            Replay::OpenLoop { queue_max, .. } => {
                self.arrived = self.arrived.saturating_add(wall);
                let target = self.position.saturating_add(capacity).min(self.arrived);
                let most = u64::try_from(queue_max.as_nanos()).unwrap_or(u64::MAX);
                self.arrived = self.arrived.min(target.saturating_add(most));
                target
            }
        };
        if running {
            self.go_to(target, write);
        }
    }

    fn populated(&self) -> Option<DenseBitmap> {
        let set = self.populated.as_deref().cloned();
        Some(set.unwrap_or_else(|| DenseBitmap::full(self.source.header().pages)))
    }

    fn lose(&mut self, time: Duration) {
        self.debt = self.debt.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn knows_content(&self) -> bool {
        self.contents.known()
    }

    fn content(&mut self, page: PageIndex) -> Option<PageContent> {
        self.contents.read(page)
    }

    /// What the recording says, and with an open loop what came in since on top.
    fn requests(&self) -> Option<RequestLoad> {
        let recorded = self.tick.in_flight?;
        let tick = (self.current.end - self.current.begin).max(1);
        let waiting = self.arrived.saturating_sub(self.position);
        let queued = u128::from(self.tick.requests.unwrap_or(0)) * u128::from(waiting);
        let queued = u32::try_from(queued / u128::from(tick)).unwrap_or(u32::MAX);
        let in_flight = recorded.saturating_add(queued);
        Some(RequestLoad { in_flight, answered: self.answered })
    }
}
