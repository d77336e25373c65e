// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Request-aware stop: the renewal rule, with downtime weighed by whom it would keep waiting.
//!
//! A pause of D keeps each of the n requests in flight waiting for D, and those that arrive
//! meanwhile, q a second, for D/2 and until the queue is worked off again: in request-seconds
//!
//! C = n D + q D^2 (1 + m) / 2
//!
//! (the fluid model of heuristics.md 2.5, with 1 / (1 - rho) = 1 + m for m requests in flight on
//! average, as under processor sharing). So a lull of the users is worth waiting for as one of
//! the writes is, and the moment when the requests in flight have drained is better than the one
//! before. The rule is put into the terms of [`Renewal`]: it is shown the downtime D' which at the
//! *average* load would cost as many request-seconds as D would now, and decides as ever.
//!
//! Discounts are given only for downtimes within the limit: nobody waiting now is no leave for a
//! pause in which many would come. A guest that says nothing of requests gets the renewal rule.

use std::time::Duration;

use super::renewal::{self, Renewal};
use super::{DowntimeLimit, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::units::{RequestLoad, Tick};

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "request-aware",
    rule: "as `renewal`, with each downtime weighed by the requests in flight and the arrivals \
           that it would keep waiting",
    source: "precopy; heuristics.md 6.6 and 2.5",
    parameters: renewal::INFO.parameters,
    build: |values| {
        Box::new(RequestAware {
            limit: DowntimeLimit::from_values(values),
            renewal: Renewal::from_values(values),
            load: Load::default(),
        })
    },
};

/// Over how long the present rate of arrivals is measured, and the average load.
const LATELY: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(20);
/// Present arrivals count as at least this share of the average: a quiet moment may end.
const QUIET: f64 = 0.25;

/// An average in which the past fades.
#[derive(Clone, PartialEq, Debug, Default)]
struct Fading {
    sum: f64,
    weight: f64,
}

impl Fading {
    /// Takes in a value that held for `time`.
    fn add(&mut self, value: f64, time: Duration, memory: Duration) {
        let kept = (-time.as_secs_f64() / memory.as_secs_f64()).exp();
        self.sum = self.sum * kept + value * (1.0 - kept);
        self.weight = self.weight * kept + (1.0 - kept);
    }

    fn get(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

/// The requests of a guest, now and on average.
#[derive(Clone, PartialEq, Debug, Default)]
struct Load {
    before: Option<(Tick, RequestLoad)>,
    /// Arrivals a second.
    arrivals_lately: Fading,
    arrivals: Fading,
    /// Requests in flight.
    in_flight: Fading,
}

impl Load {
    fn watch(&mut self, now: Tick, load: RequestLoad) {
        let Some((at, before)) = self.before else {
            self.before = Some((now, load));
            return;
        };
        let time = now.since(at);
        if time.is_zero() {
            return;
        }
        let begun = |load: RequestLoad| load.answered.saturating_add(load.in_flight.into());
        #[expect(clippy::cast_precision_loss, reason = "requests within a moment")]
        let arrived = begun(load).saturating_sub(begun(before)) as f64 / time.as_secs_f64();
        self.arrivals_lately.add(arrived, time, LATELY);
        self.arrivals.add(arrived, time, LONG);
        self.in_flight.add(before.in_flight.into(), time, LONG);
        self.before = Some((now, load));
    }

    /// Request-seconds that a pause of `down` seconds costs with so many in flight and arriving.
    fn cost(&self, down: f64, in_flight: f64, arrivals: f64) -> f64 {
        in_flight * down + arrivals * down * down * (1.0 + self.in_flight.get()) / 2.0
    }

    /// The downtime in seconds that costs at the average load what `down` seconds cost now.
    /// `down` itself as long as the average is nothing.
    fn equal(&self, down: f64) -> f64 {
        let Some((_, now)) = self.before else { return down };
        let (in_flight, arrivals) = (self.in_flight.get(), self.arrivals.get());
        if in_flight <= 0.0 || arrivals <= 0.0 {
            return down;
        }
        let lately = self.arrivals_lately.get().max(QUIET * arrivals);
        let cost = self.cost(down, now.in_flight.into(), lately);
        // Of a D^2 + n D = cost, the positive root in the form that loses no digits.
        let square = arrivals * (1.0 + in_flight) / 2.0;
        2.0 * cost / (in_flight + (in_flight * in_flight + 4.0 * square * cost).sqrt())
    }
}

/// Weighs a downtime by whom it keeps waiting.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct RequestAware {
    limit: DowntimeLimit,
    renewal: Renewal,
    load: Load,
}

impl RequestAware {
    /// The observation as at the average load: its residual weighs as much more or less.
    fn weighed(&mut self, seen: &Observation, bandwidth: Option<f64>) -> Option<Observation> {
        let load = seen.requests?;
        self.load.watch(seen.now, load);
        let (residual, fixed) = (seen.residual_time(bandwidth)?, seen.fixed_switchover_cost);
        let down = (residual + fixed).as_secs_f64();
        let mut equal = self.load.equal(down);
        if self.limit.for_pages(seen).is_none_or(|limit| residual > limit) {
            equal = equal.max(down);
        }
        let weighed = (equal - fixed.as_secs_f64()).max(0.0) * bandwidth?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive")]
        let residual_wire_bytes = weighed as u64;
        Some(Observation { residual_wire_bytes, ..seen.clone() })
    }
}

impl StopPolicy for RequestAware {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        let weighed = self.weighed(seen, seen.smooth_bandwidth_bytes_per_s);
        self.renewal.judge(weighed.as_ref().unwrap_or(seen))
    }

    fn preflight(&mut self, seen: &Observation) -> Verdict {
        let weighed = self.weighed(seen, seen.round_bandwidth_bytes_per_s);
        self.renewal.preflight(weighed.as_ref().unwrap_or(seen))
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Moment, PolicySpec};

    fn tick(ms: u64) -> Tick {
        Tick::from_nanos(ms * 1_000_000)
    }

    /// Four in flight and 100 arrivals a second for ten seconds, then so many in flight.
    fn load(in_flight: u32) -> Load {
        let mut load = Load::default();
        for ms in (0..10_000).step_by(10) {
            load.watch(tick(ms), RequestLoad { in_flight: 4, answered: ms / 10 });
        }
        // Nothing arrived meanwhile: what is no longer in flight was answered.
        let answered = 999 + u64::from(4 - in_flight.min(4));
        load.watch(tick(10_000), RequestLoad { in_flight, answered });
        load
    }

    #[test]
    fn at_the_average_load_a_downtime_is_worth_itself() {
        let mut load = load(4);
        for ms in 10_001..12_000 {
            let answered = 999 + (ms - 10_000) / 10;
            load.watch(tick(ms), RequestLoad { in_flight: 4, answered });
        }
        for down in [0.001, 0.05, 0.3, 2.0] {
            let equal = load.equal(down);
            assert!((equal / down - 1.0).abs() < 0.03, "{down} {equal}");
        }
    }

    #[test]
    fn a_short_pause_costs_by_who_is_there_and_a_long_one_by_who_will_come() {
        let (idle, busy) = (load(0), load(40));
        assert!(idle.equal(0.01) < 0.006, "{}", idle.equal(0.01));
        assert!(busy.equal(0.01) > 0.03, "{}", busy.equal(0.01));
        // A pause of ten seconds meets a thousand arrivals whoever is there at its beginning.
        let ratio = idle.equal(10.0) / busy.equal(10.0);
        assert!((0.7..1.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_guest_that_says_nothing_is_worth_what_it_is() {
        assert_eq!(Load::default().equal(0.25), 0.25);
        let mut unknown = Load::default();
        unknown.watch(tick(0), RequestLoad::default());
        unknown.watch(tick(10), RequestLoad::default());
        assert_eq!(unknown.equal(0.25), 0.25);
    }

    /// The residual is 100 ms all the time; every second the requests drain for 50 ms.
    fn run(spec: &str, tells: bool) -> Option<(u64, Verdict)> {
        let mut policy = spec.parse::<PolicySpec>().unwrap().build();
        for step in 1..400_u64 {
            let drained = step % 20 == 0;
            let load = RequestLoad { in_flight: if drained { 0 } else { 8 }, answered: step * 5 };
            let seen = Observation {
                moment: Moment::Harvested,
                now: tick(step * 50),
                elapsed: Duration::from_millis(step * 50),
                rounds_sent: 1,
                page_bytes: 4096,
                residual_pages: 24,
                residual_wire_bytes: 100_000,
                round_bandwidth_bytes_per_s: Some(1e6),
                smooth_bandwidth_bytes_per_s: Some(1e6),
                fixed_switchover_cost: Duration::from_millis(1),
                downtime_limit: Duration::from_millis(300),
                requests: tells.then_some(load),
                ..Observation::default()
            };
            let verdict = policy.judge(&seen);
            if !matches!(verdict, Verdict::Continue { .. }) {
                return Some((step, verdict));
            }
        }
        None
    }

    #[test]
    fn it_stops_when_the_requests_have_drained() {
        let (step, verdict) = run("request-aware:hope=0,warmup_ms=3000", true).unwrap();
        assert_eq!((step % 20, verdict.word()), (0, "stop_and_copy"), "{step}");
        // Without word of requests it does as the rule that it is made of.
        let plain = run("renewal:hope=0,warmup_ms=3000", true);
        assert_eq!(run("request-aware:hope=0,warmup_ms=3000", false), plain);
        assert_ne!(plain.unwrap().0 % 20, 0);
    }
}
