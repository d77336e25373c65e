// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which page next. One file per order.
//!
//! An order is told what each harvest reported and hands out pages that are owed. It keeps its own
//! record of what is owed as far as it needs one; the session's ledger decides, so a page that an
//! order hands out without need is not sent, and one that it forgets is sent in the pause.

mod address;
mod classes;
mod clear_at_send;
mod cold_first;
mod fifo;
mod frequency;
mod history;
mod lru;
mod pace;
mod queue;
#[cfg(test)]
mod tests;
mod xen_skip;

use std::fmt::Debug;
use std::time::Duration;

use super::registry::{Catalogue, Info};
use crate::bitmap::DenseBitmap;
use crate::units::{PageRun, Tick};

pub use address::Address;
pub use clear_at_send::ClearAtSend;
pub use cold_first::ColdFirst;
pub use fifo::Fifo;
pub use frequency::Frequency;
pub use history::History;
pub use lru::Lru;
pub use xen_skip::XenSkip;

/// Decides which page is sent next. Pure: no clock, no randomness, no I/O. At most 8 bytes of
/// memory a page.
pub trait PageOrder: Send + Debug {
    /// The name by which the order is chosen.
    fn name(&self) -> &'static str;

    /// The first round begins: `owed` are the populated pages. What was learnt from harvests
    /// before ([`harvested`](Self::harvested)) stays valid; what was owed then does not.
    fn begin(&mut self, now: Tick, owed: &DenseBitmap) {
        let _ = (now, owed);
    }

    /// A harvest reported these pages as written in the `interval` up to `now`; all of them are
    /// owed.
    fn harvested(&mut self, now: Tick, interval: Duration, set: &DenseBitmap) {
        let _ = (now, interval, set);
    }

    /// Whether [`pick`](Self::pick) decides. If not, pages go in the order of their addresses.
    fn picks(&self) -> bool {
        false
    }

    /// Hands out up to `pages_max` owed pages in up to `runs_max` runs, appended to `into` in any
    /// order; none if nothing more shall be sent before the next harvest. Runs past `runs_max` are
    /// not sent and stay owed, as if they had not been picked.
    fn pick(
        &mut self,
        owed: &DenseBitmap,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        let _ = (owed, pages_max, runs_max, into);
    }

    /// Time after which a round is cut for a harvest although pages are left: the order sends
    /// continuously. `None`: whole rounds.
    fn slice(&self) -> Option<Duration> {
        None
    }

    /// Least time from a harvest to the next: a round that is over sooner waits.
    fn least_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether the dirty record of a page is cleared just before the page is read, so that a
    /// write between the harvest and the reading does not cause another send.
    fn clears_at_send(&self) -> bool {
        false
    }

    /// Whether the live round leaves out pages that are dirty again already (Xen's peek).
    fn skips_redirtied(&self, round: u32) -> bool {
        let _ = round;
        false
    }

    /// A copy in the same state.
    fn fork(&self) -> Box<dyn PageOrder>;
}

const ORDERS: &[Info<dyn PageOrder>] = &[
    address::INFO,
    xen_skip::INFO,
    clear_at_send::INFO,
    fifo::INFO,
    lru::INFO,
    frequency::INFO,
    history::INFO,
    cold_first::INFO,
];

impl Catalogue for dyn PageOrder {
    const KIND: &'static str = "page order";

    fn all() -> &'static [Info<Self>] {
        ORDERS
    }
}

/// Every page order that can be chosen by name.
#[must_use]
pub fn orders() -> &'static [Info<dyn PageOrder>] {
    ORDERS
}

type OrderInfo = Info<dyn PageOrder>;
