// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any guest in virtual time: what the pair asks of it, and how its time goes on.

use std::fmt::Debug;
use std::time::Duration;

use super::checker::Checker;
use super::source::SourceHost;
use crate::bitmap::DenseBitmap;
use crate::trace::PageContent;
use crate::units::{PageIndex, RequestLoad, Throttle, Tick};

/// A guest, with the world around it, on the simulator's clock.
///
/// Who drives it hands in the time; nothing in it may depend on anything else, so that the same
/// calls always give the same run (R8).
pub trait VirtualGuest: Debug {
    /// Goes on to `until`, which is later than in every call before. A guest that is `running`
    /// works at the speed that `throttle` leaves, and `write`s pages; one that is not stands
    /// still, and a page that it writes all the same is refused and counts as a broken rule. The
    /// world outside (users, clocks) goes on either way.
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    );

    /// Bytes per second that the guest's own traffic takes of the migration link at the moment.
    fn service_bytes_per_s(&self) -> f64 {
        0.0
    }

    /// Pages that hold something at the start, one bit for each page of the plan; `None` leaves
    /// it to the plan.
    fn populated(&self) -> Option<DenseBitmap> {
        None
    }

    /// This much of its time was taken from the guest (faults of a dirty tracker): it gets that
    /// much less done from here on. A guest whose work does not depend on time ignores it.
    fn lose(&mut self, time: Duration) {
        let _ = time;
    }

    /// Whether it knows what its pages hold.
    fn knows_content(&self) -> bool {
        false
    }

    /// What a page holds, compared with the last time that this was asked, which is when the page
    /// is read for sending; `None` if nobody knows.
    fn content(&mut self, page: PageIndex) -> Option<PageContent> {
        let _ = page;
        None
    }

    /// The requests that the guest serves, if it knows of any; policies see it.
    fn requests(&self) -> Option<RequestLoad> {
        None
    }
}

/// A guest and how far its time has come.
#[derive(Debug)]
pub(super) struct Runner<'g> {
    pub(super) guest: &'g mut dyn VirtualGuest,
    until: Tick,
    refused: u64,
    fault_cost: Duration,
    /// Time lost while it ran, in hundredths of a nanosecond.
    lost: u128,
}

impl<'g> Runner<'g> {
    pub(super) fn new(guest: &'g mut dyn VirtualGuest, now: Tick, fault_cost: Duration) -> Self {
        Self { guest, until: now, refused: 0, fault_cost, lost: 0 }
    }

    /// How far it has come.
    pub(super) fn until(&self) -> Tick {
        self.until
    }

    /// Time that it lost to throttling and faults while it ran.
    pub(super) fn lost(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.lost / 100).unwrap_or(u64::MAX))
    }

    /// Lets the guest run until `until`, on the memory of `host`, unless it is there already.
    pub(super) fn run(&mut self, host: &mut SourceHost, until: Tick) {
        if until > self.until {
            let time = until.since(self.until);
            self.until = until;
            let running = host.guest.running;
            let SourceHost { guest: memory, tracker, .. } = host;
            let pages = memory.versions.pages();
            let (mut refused, mut faults) = (0, 0u32);
            self.guest.run(until, running, host.throttle, &mut |page| {
                if running && page.get() < pages {
                    faults += u32::from(memory.write(page, tracker));
                } else {
                    refused += 1;
                }
            });
            self.refused += refused;
            if running {
                self.lost += time.as_nanos() * u128::from(host.throttle.get().min(100));
                self.fault(faults);
            }
        }
        host.requests = self.guest.requests();
    }

    /// Takes the time of so many faults from the guest.
    fn fault(&mut self, faults: u32) {
        let time = self.fault_cost.saturating_mul(faults);
        if !time.is_zero() {
            self.lost += time.as_nanos() * 100;
            self.guest.lose(time);
        }
    }

    /// Tells what the guest did that no guest may do.
    pub(super) fn report(&self, check: &mut Checker) {
        if self.refused > 0 {
            let refused = self.refused;
            check.breach("guest", format!("{refused} writes while paused or past the last page"));
        }
    }
}
