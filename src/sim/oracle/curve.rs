// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O1 along a trace: the residual tick by tick, and the front of what could have been reached.

use std::time::Duration;

use super::{
    Capacity, Clairvoyant, CostCurve, CostPoint, Looped, OracleError, Release, TraceOracleError,
};
use crate::limits;
use crate::sim::VirtualGuest;
use crate::trace::{TickSource, TraceTick};
use crate::units::{PageRun, Throttle, Tick};

/// The clairvoyant's residual R* around one tick's writes.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain numbers")]
pub struct TickResidual {
    /// Just before them: the lowest since the tick before.
    pub before_pages: f64,
    /// Just after them.
    pub after_pages: f64,
    /// What there is to send if the guest stops just before them, each page once; markers of
    /// empty pages as the pages that they cost.
    pub to_send_pages: f64,
}

/// A migration for the clairvoyant.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct ClairvoyantSetting {
    /// The link while the guest runs, and while it is paused.
    pub capacity: Capacity,
    /// Bytes that a page takes on the wire, its part of a frame included.
    pub page_wire_bytes: f64,
    /// Bytes that a page takes that holds nothing; 0 if it need not be sent.
    pub zero_page_wire_bytes: f64,
    /// Fixed part of the pause: device state, last harvest, resume.
    pub fixed_downtime: Duration,
    /// Where in the trace the migration begins; the trace is looped.
    pub offset: Tick,
    /// Pages that hold something at that point; `None` for what the trace's header says, and for
    /// all if it says nothing.
    pub populated: Option<Vec<PageRun>>,
    /// When the writes of a tick happened.
    pub release: Release,
    /// How far to look, from the beginning of the migration.
    pub horizon: Duration,
}

impl ClairvoyantSetting {
    /// From the beginning of a trace of 4 KiB pages with 24 bytes of framing each, zero pages for
    /// nothing, no fixed pause, looking `horizon` ahead.
    #[must_use]
    pub fn new(capacity: Capacity, horizon: Duration) -> Self {
        Self {
            capacity,
            page_wire_bytes: 4096.0 + 24.0,
            zero_page_wire_bytes: 0.0,
            fixed_downtime: Duration::ZERO,
            offset: Tick::ZERO,
            populated: None,
            release: Release::default(),
            horizon,
        }
    }

    fn oracle(
        &self,
        pages: u64,
        populated: Option<&[PageRun]>,
    ) -> Result<Clairvoyant, OracleError> {
        let bytes = self.page_wire_bytes;
        if !(bytes.is_finite() && bytes > 0.0) {
            return Err(OracleError::PageBytes { bytes });
        }
        Clairvoyant::new(pages, populated, self.zero_page_wire_bytes / bytes, self.release)
    }

    fn carried_pages(&self, until: Duration) -> f64 {
        self.capacity.carried_bytes(until) / self.page_wire_bytes
    }

    /// What it costs to stop just before a tick's writes; `None` if the link never carries the
    /// rest.
    fn cost(&self, at: Duration, residual: TickResidual) -> Option<CostPoint> {
        let residual_bytes = residual.before_pages * self.page_wire_bytes;
        let takes = self.capacity.time_for(at, residual_bytes)?;
        Some(CostPoint {
            at,
            residual_pages: residual.before_pages,
            residual_bytes,
            sent_bytes: residual.to_send_pages * self.page_wire_bytes - residual_bytes,
            guest_loss_s: 0.0,
            downtime: self.fixed_downtime.saturating_add(takes),
        })
    }
}

/// Follows a trace and tells `each` tick: how long after the beginning it ended, and R* around
/// its writes. The first call is for the beginning itself.
///
/// # Errors
/// [`TraceOracleError::Trace`] as the source says, [`TraceOracleError::Oracle`] if the trace names
/// pages that the guest does not have, or the setting cannot be.
pub fn clairvoyant_ticks<S: TickSource>(
    source: &mut S,
    setting: &ClairvoyantSetting,
    mut each: impl FnMut(Duration, TickResidual),
) -> Result<(), TraceOracleError<S::Error>> {
    let header = source.header();
    let populated = setting.populated.as_deref().or(header.populated.as_deref());
    let mut oracle = setting.oracle(header.pages, populated)?;
    let all = oracle.to_send_pages();
    let start = TickResidual { before_pages: all, after_pages: all, to_send_pages: all };
    each(Duration::ZERO, start);
    let mut looped = Looped::new(source, setting.offset)?;
    let mut tick = TraceTick::default();
    loop {
        let after = looped.next_tick(&mut tick)?;
        if after > setting.horizon {
            return Ok(());
        }
        each(after, oracle.tick(setting.carried_pages(after), &tick.runs)?);
    }
}

/// What the clairvoyant's stops cost: at the beginning, and for each tick the pause just before
/// its writes, with every page sent exactly once. Moments from which the link never carries the
/// rest are left out. [`CostCurve::front`] over total time is D*(T), [`CostCurve::best`] the J of
/// O1.
///
/// # Errors
/// As for [`clairvoyant_ticks`].
pub fn clairvoyant_curve<S: TickSource>(
    source: &mut S,
    setting: &ClairvoyantSetting,
) -> Result<CostCurve, TraceOracleError<S::Error>> {
    let mut points = Vec::new();
    clairvoyant_ticks(source, setting, |at, residual| points.extend(setting.cost(at, residual)))?;
    Ok(CostCurve::new(points))
}

/// The same for any guest of the simulator, which runs unthrottled from `starts_at` on and is
/// looked at every `step`. Offset and populated pages are the guest's own. A guest whose writes
/// come between two looks needs [`Release::TickStart`] for a bound that holds; it is then too low
/// by at most what the link carries in a step.
///
/// # Errors
/// [`OracleError`] if the setting cannot be, the guest names pages past its `pages`, or there are
/// more steps than an oracle looks ahead.
pub fn clairvoyant_guest(
    guest: &mut dyn VirtualGuest,
    pages: u64,
    starts_at: Tick,
    step: Duration,
    setting: &ClairvoyantSetting,
) -> Result<CostCurve, OracleError> {
    let populated: Option<Vec<PageRun>> = guest.populated().map(|set| set.runs().collect());
    let mut oracle = setting.oracle(pages, populated.as_deref())?;
    let all = oracle.to_send_pages();
    let start = TickResidual { before_pages: all, after_pages: all, to_send_pages: all };
    let mut points = Vec::from_iter(setting.cost(Duration::ZERO, start));
    let mut written = Vec::new();
    for number in 1..=limits::ORACLE_TICKS_MAX {
        let after = step.saturating_mul(number);
        if after > setting.horizon {
            return Ok(CostCurve::new(points));
        }
        written.clear();
        guest.run(starts_at + after, true, Throttle::NONE, &mut |page| written.push(page));
        let residual = oracle.tick_pages(setting.carried_pages(after), &written)?;
        points.extend(setting.cost(after, residual));
    }
    Err(OracleError::Ticks)
}
