// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Strategies that are judged beside the one that acts.
//!
//! A shadow sees the same guest, at the same moments. If its page order is the acting one's, it
//! sees exactly what the acting strategy sees; if not, [`model`] keeps what its order would owe,
//! fed with the same harvests. Nothing that a shadow says is acted on: its first stop is noted,
//! its throttle, rate and early harvests are only counted.

mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::config::Shadow;
use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::policy::order::PageOrder;
use crate::policy::{Moment, Observation, Strategy, Verdict};
use crate::report::{ShadowOrder, ShadowReport, ShadowStop};
use crate::units::{Throttle, Tick};
use model::Model;

/// What the acting strategy's sender has done, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) bandwidth_bytes_per_s: Option<f64>,
    pub(crate) sent_pages: u64,
    /// Bytes that a page is expected to weigh on the wire.
    pub(crate) page_wire_bytes: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Shadows {
    list: Vec<Judged>,
    /// The first bandwidth that was measured: of pages sent while the guest ran. What the pause
    /// sends is too little to tell a bandwidth from, and waits for digests.
    first_bandwidth_bytes_per_s: Option<f64>,
}

/// One of them.
#[derive(Debug)]
struct Judged {
    text: String,
    strategy: Strategy,
    /// `None`: the page order is the acting one's.
    model: Option<Model>,
    judged: u64,
    harvests_asked: u64,
    throttle_asked: Throttle,
    rate_asked: Option<u64>,
    stop: Option<Noted>,
}

/// A stop, and what its cost is computed from.
#[derive(Clone, Debug)]
struct Noted {
    stop: ShadowStop,
    page_wire_bytes: u64,
    bandwidth_bytes_per_s: Option<f64>,
    fixed_cost: Duration,
    /// What was written since the last harvest is not known yet.
    wants_late: bool,
}

impl Noted {
    fn new(seen: &Observation, round: u32, page_wire_bytes: u64, verdict: &Verdict) -> Self {
        let gives_up = matches!(verdict, Verdict::GiveUp { .. });
        let stop = ShadowStop {
            at: seen.now,
            elapsed: seen.elapsed,
            round,
            rounds_sent: seen.rounds_sent,
            moment: seen.moment,
            gives_up,
            reason: verdict.reason().to_owned(),
            residual_pages: seen.residual_pages,
            late_pages: None,
            residual_wire_bytes: seen.residual_wire_bytes,
            expected_downtime: None,
            sent_pages: seen.sent_pages,
            sent_wire_bytes: seen.sent_wire_bytes,
        };
        Self {
            stop,
            page_wire_bytes,
            bandwidth_bytes_per_s: seen.round_bandwidth_bytes_per_s,
            fixed_cost: seen.fixed_switchover_cost,
            wants_late: !gives_up && seen.moment != Moment::Harvested,
        }
    }

    fn late(&mut self, pages: u64) {
        self.wants_late = false;
        self.stop.late_pages = Some(pages);
        self.stop.residual_wire_bytes += pages * self.page_wire_bytes;
    }

    /// The stop with its cost. A stop before any bandwidth was measured is charged with the first
    /// one that anybody knows.
    fn finished(&self, bandwidth_bytes_per_s: Option<f64>) -> ShadowStop {
        let bandwidth = self.bandwidth_bytes_per_s.or(bandwidth_bytes_per_s).filter(|b| *b > 0.0);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bytes = self.stop.residual_wire_bytes as f64;
        let sending = bandwidth.and_then(|b| Duration::try_from_secs_f64(bytes / b).ok());
        let expected_downtime = match self.stop.gives_up {
            true => None,
            false => sending.map(|time| time + self.fixed_cost),
        };
        ShadowStop { expected_downtime, ..self.stop.clone() }
    }
}

impl Judged {
    fn fork(&self) -> Self {
        Self {
            text: self.text.clone(),
            strategy: self.strategy.fork(),
            model: self.model.clone(),
            stop: self.stop.clone(),
            ..*self
        }
    }

    fn ask(&mut self, seen: &Observation, round: u32, page_wire_bytes: u64) {
        self.judged += 1;
        let verdict = self.strategy.stop.judge(seen);
        if let Some(policy) = &mut self.strategy.throttle {
            self.throttle_asked = self.throttle_asked.max(policy.throttle(seen));
        }
        if let Some(policy) = &mut self.strategy.rate
            && let Some(rate) = policy.rate(seen)
        {
            self.rate_asked = Some(self.rate_asked.map_or(rate, |asked| asked.min(rate)));
        }
        match &verdict {
            Verdict::Continue { throttle, .. } => {
                self.throttle_asked = self.throttle_asked.max(*throttle);
            }
            Verdict::Harvest { .. } => self.harvests_asked += 1,
            Verdict::StopAndCopy { .. } | Verdict::GiveUp { .. } => {
                self.stop = Some(Noted::new(seen, round, page_wire_bytes, &verdict));
            }
        }
    }

    fn judge(&mut self, seen: &Observation, round: u32, link: Carried) {
        let Some(model) = &mut self.model else {
            return self.ask(seen, round, link.page_wire_bytes);
        };
        model.advance(seen.now, link, &mut *self.strategy.order);
        let (views, count) = model.views(seen, link);
        for view in &views[..count] {
            if self.stop.is_none() {
                self.ask(view, round, link.page_wire_bytes);
            }
        }
        // A round that ended while nobody looked is judged at the harvest that follows: what was
        // written meanwhile is known at once.
        if seen.moment == Moment::Harvested
            && let (Some(noted), Some(model)) = (&mut self.stop, &self.model)
            && noted.wants_late
        {
            noted.late(model.known_pages().saturating_sub(noted.stop.residual_pages));
        }
    }

    fn harvested(&mut self, began: Tick, interval: Duration, set: &DenseBitmap, link: Carried) {
        match (&mut self.model, &self.stop) {
            (Some(model), None) => {
                model.advance(began, link, &mut *self.strategy.order);
                model.harvested(began, set);
                self.strategy.order.harvested(began, interval, set);
            }
            (Some(model), Some(noted)) if noted.wants_late => model.add(set),
            _ => {}
        }
    }

    /// A harvest of `reported` pages after a stop; `owed` are owed in all now.
    fn late(&mut self, reported: u64, owed: u64) {
        let Some(noted) = self.stop.as_mut().filter(|noted| noted.wants_late) else { return };
        let before = noted.stop.residual_pages;
        let owed = self.model.as_ref().map_or(owed, Model::known_pages);
        // At a round's end nothing was sent since; within one something was, and what is owed
        // now is not what was owed then.
        let exact = noted.stop.moment == Moment::Sent || self.model.is_some();
        noted.late(if exact { owed.saturating_sub(before) } else { reported });
    }

    fn report(&self, bandwidth_bytes_per_s: Option<f64>) -> ShadowReport {
        let order = &self.strategy.order;
        ShadowReport {
            strategy: self.text.clone(),
            order: match self.model {
                None => ShadowOrder::Shared,
                Some(_) => ShadowOrder::Modelled,
            },
            judged: self.judged,
            harvests_asked: self.harvests_asked,
            throttle_asked: self.throttle_asked,
            rate_asked: self.rate_asked,
            skips: self.strategy.stop.skips_redirtied(1)
                || order.skips_redirtied(1)
                || order.clears_at_send(),
            stop: self.stop.as_ref().map(|noted| noted.finished(bandwidth_bytes_per_s)),
        }
    }
}

/// Whether two orders are alike, as long as nothing happened to them: one kind, same parameters.
fn alike(one: &dyn PageOrder, other: &dyn PageOrder) -> bool {
    one.name() == other.name() && format!("{one:?}") == format!("{other:?}")
}

/// Shadows whose page order is not the acting strategy's.
pub(crate) fn own_orders(shadows: &[Shadow], acting: &Strategy) -> usize {
    shadows.iter().filter(|s| !alike(&*s.strategy.order, &*acting.order)).count()
}

impl Shadows {
    /// The first [`limits::SHADOWS_MAX`] of `shadows`, of which the first
    /// [`limits::SHADOW_ORDERS_MAX`] with orders of their own.
    pub(crate) fn new(shadows: &[Shadow], acting: &dyn PageOrder) -> Self {
        let mut own = 0;
        let list = shadows.iter().take(limits::SHADOWS_MAX).filter_map(|shadow| {
            let strategy = shadow.strategy.fork();
            let model = (!alike(&*strategy.order, acting)).then(|| {
                own += 1;
                Model::new(strategy.order.slice().is_some())
            });
            (model.is_none() || own <= limits::SHADOW_ORDERS_MAX).then(|| Judged {
                text: shadow.text.clone(),
                strategy,
                model,
                judged: 0,
                harvests_asked: 0,
                throttle_asked: Throttle::NONE,
                rate_asked: None,
                stop: None,
            })
        });
        Self { list: list.collect(), first_bandwidth_bytes_per_s: None }
    }

    pub(crate) fn fork(&self) -> Self {
        Self { list: self.list.iter().map(Judged::fork).collect(), ..*self }
    }

    /// A harvest of a pre-flight: orders and stop policies learn from it. What an order of its own
    /// would owe is not told.
    pub(crate) fn preflight(
        &mut self,
        began: Tick,
        interval: Duration,
        set: &DenseBitmap,
        seen: &Observation,
    ) {
        for shadow in &mut self.list {
            let mut seen = seen.clone();
            if shadow.model.is_some() {
                shadow.strategy.order.harvested(began, interval, set);
                (seen.residual_pages, seen.round_bandwidth_bytes_per_s) = (0, None);
            }
            if shadow.stop.is_none()
                && let verdict @ Verdict::GiveUp { .. } = shadow.strategy.stop.preflight(&seen)
            {
                shadow.stop = Some(Noted::new(&seen, 0, 0, &verdict));
            }
        }
    }

    /// The first round begins.
    pub(crate) fn begin(&mut self, now: Tick, owed: &DenseBitmap, page_bytes: u64) {
        for shadow in &mut self.list {
            if let Some(model) = &mut shadow.model {
                shadow.strategy.order.begin(now, owed);
                model.begin(now, owed, page_bytes);
            }
        }
    }

    /// A harvest that began at `began`; `owed` pages are owed in all now. In the pause
    /// (`interval` is `None`) it only completes what was noted before.
    pub(crate) fn harvested(
        &mut self,
        began: Tick,
        interval: Option<Duration>,
        set: &DenseBitmap,
        owed: u64,
        link: Carried,
    ) {
        if self.list.is_empty() {
            return;
        }
        let reported = set.count();
        for shadow in &mut self.list {
            if interval.is_some() || shadow.stop.is_some() {
                shadow.harvested(began, interval.unwrap_or_default(), set, link);
            }
            shadow.late(reported, owed);
        }
    }

    /// The acting strategy was asked.
    pub(crate) fn judge(&mut self, seen: &Observation, round: u32, link: Carried) {
        self.first_bandwidth_bytes_per_s =
            self.first_bandwidth_bytes_per_s.or(link.bandwidth_bytes_per_s);
        for shadow in self.list.iter_mut().filter(|shadow| shadow.stop.is_none()) {
            shadow.judge(seen, round, link);
        }
    }

    /// What became of each; `bandwidth_bytes_per_s` is the last that was measured.
    pub(crate) fn reports(&self, bandwidth_bytes_per_s: Option<f64>) -> Vec<ShadowReport> {
        let bandwidth_bytes_per_s = self.first_bandwidth_bytes_per_s.or(bandwidth_bytes_per_s);
        self.list.iter().map(|shadow| shadow.report(bandwidth_bytes_per_s)).collect()
    }
}
