// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O1 along a trace: the residual tick by tick, and the front of what could have been reached.

use std::time::Duration;

use super::{
    Capacity, Clairvoyant, CostCurve, CostPoint, Looped, OracleError, Release, TraceOracleError,
};
use crate::trace::{TickSource, TraceTick};
use crate::units::{PageRun, Tick};

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
    let page_bytes = setting.page_wire_bytes;
    if !(page_bytes.is_finite() && page_bytes > 0.0) {
        return Err(OracleError::PageBytes { bytes: page_bytes }.into());
    }
    let header = source.header();
    let populated = setting.populated.as_deref().or(header.populated.as_deref());
    let zero_share = setting.zero_page_wire_bytes / page_bytes;
    let mut oracle = Clairvoyant::new(header.pages, populated, zero_share, setting.release)?;
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
        let carried_pages = setting.capacity.carried_bytes(after) / page_bytes;
        each(after, oracle.tick(carried_pages, &tick.runs)?);
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
    clairvoyant_ticks(source, setting, |at, residual| {
        let residual_bytes = residual.before_pages * setting.page_wire_bytes;
        let Some(takes) = setting.capacity.time_for(at, residual_bytes) else { return };
        points.push(CostPoint {
            at,
            residual_pages: residual.before_pages,
            residual_bytes,
            sent_bytes: residual.to_send_pages * setting.page_wire_bytes - residual_bytes,
            guest_loss_s: 0.0,
            downtime: setting.fixed_downtime.saturating_add(takes),
        });
    })?;
    Ok(CostCurve::new(points))
}
