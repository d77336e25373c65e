// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O1 along a trace: the residual tick by tick, and the front of what could have been reached.

use std::time::Duration;

use super::{
    Capacity, Clairvoyant, CostCurve, CostPoint, DeltaOracle, DeltaShare, Looped, OracleError,
    Release, TraceOracleError,
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
        self.check()?;
        let zero_page_cost = self.zero_page_wire_bytes / self.page_wire_bytes;
        Clairvoyant::new(pages, populated, zero_page_cost, self.release)
    }

    fn check(&self) -> Result<(), OracleError> {
        let bytes = self.page_wire_bytes;
        if !(bytes.is_finite() && bytes > 0.0) {
            return Err(OracleError::PageBytes { bytes });
        }
        Ok(())
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

/// The clairvoyant's stops as they become known.
#[derive(Debug, Default)]
struct Stops {
    points: Vec<CostPoint>,
    /// Time and residual just after the last tick's writes.
    last: Option<(Duration, f64)>,
}

impl Stops {
    /// A tick that ended at `at`. From one tick's writes to the next nothing happens but that the
    /// residual drains: where it is gone before the next tick, the best stop of the two ticks is
    /// there, and not at the end of a tick that may be seconds long.
    fn tick(&mut self, setting: &ClairvoyantSetting, at: Duration, residual: TickResidual) {
        if let Some((from, left)) = self.last
            && left > 0.0
            && residual.before_pages <= 0.0
        {
            let takes = setting.capacity.time_for(from, left * setting.page_wire_bytes);
            let gone = takes.map(|takes| from.saturating_add(takes)).filter(|gone| *gone < at);
            let point = gone.and_then(|gone| setting.cost(gone, residual));
            self.points.extend(point);
        }
        self.points.extend(setting.cost(at, residual));
        self.last = Some((at, residual.after_pages));
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

/// What the clairvoyant's stops cost: at the beginning, for each tick the pause just before its
/// writes, and where nothing is left between two ticks the first moment of that, with every page
/// sent exactly once. Moments from which the link never carries the
/// rest are left out. [`CostCurve::front`] over total time is D*(T), [`CostCurve::best`] the J of
/// O1.
///
/// # Errors
/// As for [`clairvoyant_ticks`].
pub fn clairvoyant_curve<S: TickSource>(
    source: &mut S,
    setting: &ClairvoyantSetting,
) -> Result<CostCurve, TraceOracleError<S::Error>> {
    let mut stops = Stops::default();
    clairvoyant_ticks(source, setting, |at, residual| stops.tick(setting, at, residual))?;
    Ok(CostCurve::new(stops.points))
}

/// O4 along a trace: what stopping costs at the beginning and once every `every`, just before a
/// tick's writes, if the pause may send deltas of `unknown` size where the trace does not tell.
/// Bytes before the pause are those of one full send for each page that there was time for. Zero
/// pages cost nothing. Takes time in proportion to the square of the horizon.
///
/// # Errors
/// As for [`clairvoyant_ticks`].
pub fn delta_curve<S: TickSource>(
    source: &mut S,
    setting: &ClairvoyantSetting,
    unknown: DeltaShare,
    every: Duration,
) -> Result<CostCurve, TraceOracleError<S::Error>> {
    setting.check()?;
    let header = source.header();
    let populated = setting.populated.as_deref().or(header.populated.as_deref());
    let (pages, size) = (header.pages, header.page_size);
    let mut oracle = DeltaOracle::new(pages, size, populated, unknown, setting.release)?;
    let mut looped = Looped::new(source, setting.offset)?;
    let (mut points, mut tick, mut due) = (Vec::new(), TraceTick::default(), Duration::ZERO);
    let all = oracle.residual_pages();
    loop {
        let after = if due.is_zero() { Duration::ZERO } else { looped.next_tick(&mut tick)? };
        if after > setting.horizon {
            return Ok(CostCurve::new(points));
        }
        let carried_pages = setting.carried_pages(after);
        if after >= due {
            due = after.saturating_add(every.max(Duration::from_nanos(1)));
            let before_pages = oracle.residual_pages_after(carried_pages);
            let to_send_pages = carried_pages.min(all) + before_pages;
            let residual = TickResidual { before_pages, after_pages: before_pages, to_send_pages };
            points.extend(setting.cost(after, residual));
        }
        if !after.is_zero() {
            oracle.tick(carried_pages, &tick)?;
        }
    }
}

/// [`clairvoyant_curve`] for any guest of the simulator, which runs unthrottled from `starts_at` on
/// and is looked at every `step`. Offset and populated pages are the guest's own. A guest whose
/// writes come between two looks needs [`Release::TickStart`] for a bound that holds; the finer
/// the step, the closer. For replays that spread a tick's writes this is closer than the trace
/// itself, whose ticks are longer.
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
    let mut stops = Stops::default();
    stops.tick(setting, Duration::ZERO, start);
    let mut written = Vec::new();
    for number in 1..=limits::ORACLE_TICKS_MAX {
        let after = step.saturating_mul(number);
        if after > setting.horizon {
            return Ok(CostCurve::new(stops.points));
        }
        written.clear();
        guest.run(starts_at + after, true, Throttle::NONE, &mut |page| written.push(page));
        let residual = oracle.tick_pages(setting.carried_pages(after), &written)?;
        stops.tick(setting, after, residual);
    }
    Err(OracleError::Ticks)
}
