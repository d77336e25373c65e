// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Renewal-reservation stop: wait for a lull that is worth waiting for, and land in it.
//!
//! From what the residual did so far (in the pre-flight, then live) the policy knows for each
//! level *v* what it would have come to, on average, to wait until the residual is at or below it:
//! the wait w(v) and the residual g(v) that was got. Waiting costs g(v) + c w(v), c being what a
//! second more of migration is worth in downtime; the level with the least cost is the
//! *reservation* (heuristics.md 6.3; as for renewal rewards autocorrelation does no harm, unlike
//! with McCall's rule). When the residual comes below it the guest is paused at once, or at the
//! bottom of a descent ([`super::descent`]), whichever would have got more so far.
//!
//! With a deadline the reservation rises: a level that will not come in the time left t, with
//! probability e^(-t / w), is worth what a forced stop costs then, the mean residual.
//!
//! Levels that were never seen are reckoned with, too, the more so the less was seen: `hope`
//! times in the time watched. So a policy that saw only a burst waits for its end, but no longer
//! than what a low could win. When the link's rate becomes another one ([`regime`]), the law is
//! learnt anew.
//!
//! **Before there is a law** (no pre-flight, and less than `warmup_ms` since the first pass) every
//! low is descended into all the same; its bottom is taken if it is so low that even to learn the
//! law would cost more than the whole residual.
//!
//! **Hopeless.** Where over `evidence_s` at one throttle no residual came near the downtime limit
//! (1.5 times it) and the lows do not fall, the policy says so, with what it saw, and does what
//! `hopeless` says; in the pre-flight already if that saw enough. By default it gives up: the
//! guest goes on unharmed, and its owner may allow more, throttle it, or come back at a quieter
//! hour.

mod law;
mod regime;

use std::time::Duration;

use super::descent::{Descent, Step};
use super::parameters::{ParameterInfo, ParameterKind, Values};
use super::{DowntimeLimit, Moment, Observation, PolicyInfo, StopPolicy, Verdict};
use crate::units::{Throttle, Tick};
use law::{Law, Taken};
use regime::Regime;

pub(super) const INFO: PolicyInfo = PolicyInfo {
    name: "renewal",
    rule: "pause at the bottom of a lull that is lower than what waiting longer would win, by how \
           often and how far the residual has fallen so far",
    source: "precopy; heuristics.md 6.3 and 6.4",
    parameters: &[
        DowntimeLimit::PARAMETER,
        DowntimeLimit::FIXED_COST_PARAMETER,
        ParameterInfo::new(
            "wait_ms_per_s",
            ParameterKind::Number { min: 0.01, max: 1e6 },
            "5",
            "downtime that one second of migration is worth, in milliseconds",
        ),
        ParameterInfo::new(
            "warmup_ms",
            ParameterKind::Integer { min: 0, max: 600_000 },
            "1000",
            "least time after the first pass (or of pre-flight) before levels are trusted",
        ),
        ParameterInfo::new(
            "window_s",
            ParameterKind::Integer { min: 1, max: 3600 },
            "60",
            "how far back the law of residuals looks",
        ),
        ParameterInfo::new(
            "hope",
            ParameterKind::Number { min: 0.0, max: 100.0 },
            "1",
            "how often residuals below any yet are reckoned to come in the time watched",
        ),
        ParameterInfo::new(
            "evidence_s",
            ParameterKind::IntegerOr { min: 1, max: 3600, word: "off" },
            "10",
            "time without a residual within the limit after which the case may be hopeless",
        ),
        ParameterInfo::new(
            "hopeless",
            ParameterKind::Choice(&["give-up", "stop"]),
            "give-up",
            "what to do then: give up, or pause in the best lull all the same",
        ),
        Descent::GAIN,
    ],
    build: |values| Box::new(Renewal::from_values(values)),
};

/// Waits for a lull that is worth it.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Renewal {
    limit: DowntimeLimit,
    wait_ms_per_s: f64,
    hope: f64,
    warmup: Duration,
    evidence: Option<Duration>,
    gives_up: bool,
    law: Law,
    descent: Descent,
    /// Time over which residuals were seen, pre-flight included and the first pass not: the clock
    /// of the law.
    watched: Duration,
    watched_at: Option<Tick>,
    /// The throttle under which that was.
    throttle: Throttle,
    /// The link over which it was.
    regime: Regime,
    /// Whether the pre-flight's model has settled, and its last residual.
    settled: bool,
    preflight_last: Duration,
    /// The level in force, in milliseconds, and how to take it; and when it was computed.
    reservation: Option<(f64, Taken)>,
    computed_at: Option<Tick>,
}

/// How often levels are computed anew.
const COMPUTE_EVERY: Duration = Duration::from_millis(500);
/// Time over which a trend is looked for.
const TREND: Duration = Duration::from_millis(400);
/// A residual that is always good enough: no wait wins more.
const FLOOR: Duration = Duration::from_micros(500);
/// A low of this many times the limit counts as near it.
const NEAR: f64 = 1.5;

impl Renewal {
    pub(super) fn from_values(values: &Values) -> Self {
        let seconds = |s: u64| Duration::from_secs(s);
        Self {
            limit: DowntimeLimit::from_values(values),
            hope: values.number("hope"),
            wait_ms_per_s: values.number("wait_ms_per_s"),
            warmup: Duration::from_millis(values.integer("warmup_ms")),
            evidence: values.integer_or("evidence_s").map(seconds),
            gives_up: values.is("hopeless", "give-up"),
            law: Law::new(seconds(values.integer("window_s"))),
            descent: Descent::from_values(values),
            watched: Duration::ZERO,
            watched_at: None,
            throttle: Throttle::NONE,
            regime: Regime::default(),
            settled: false,
            preflight_last: Duration::ZERO,
            reservation: None,
            computed_at: None,
        }
    }

    /// Takes a residual into the law. Under another throttle the guest is another one; over another
    /// link the law is.
    fn watch(&mut self, seen: &Observation, residual: Duration, bytes_per_s: Option<f64>) {
        if seen.throttle != self.throttle {
            self.throttle = seen.throttle;
            self.law.forget();
            self.regime = Regime::default();
            (self.watched, self.watched_at) = (Duration::ZERO, None);
        }
        if let Some(before) = self.watched_at.replace(seen.now) {
            self.watched += seen.now.since(before);
        }
        if bytes_per_s.is_some_and(|rate| self.regime.changes(self.watched, rate)) {
            self.law.forget();
            (self.reservation, self.computed_at) = (None, None);
        }
        self.law.add(Tick::ZERO + self.watched, milliseconds(residual));
    }

    /// For how long the law in force was learnt.
    fn learnt(&self) -> Duration {
        self.watched.saturating_sub(self.regime.since())
    }

    /// The reservation for what time is left, computed anew now and then. Without hope, only what
    /// was seen counts.
    fn reservation(
        &mut self,
        now: Tick,
        hopeless: bool,
        left: Option<Duration>,
    ) -> Option<(f64, Taken)> {
        if self.learnt() < self.warmup {
            return None;
        }
        if self.computed_at.is_none_or(|at| now.since(at) >= COMPUTE_EVERY) {
            self.computed_at = Some(now);
            let gain = self.descent.gain();
            let hope = if hopeless { 0.0 } else { self.hope };
            // How often something lower still is hoped for falls with all the time watched.
            let hoped_wait_s = self.watched.as_secs_f64() / hope;
            self.reservation = self.law.reservation(self.wait_ms_per_s, hoped_wait_s, gain, left);
        }
        self.reservation
    }

    /// Why nothing within the limit is to be expected, if so.
    fn hopeless(&self, seen: &Observation) -> Option<String> {
        let evidence = self.evidence.filter(|evidence| self.learnt() >= *evidence)?;
        // What still falls may come down to the limit.
        if self.law.lows_fall(evidence) {
            return None;
        }
        let limit_ms = milliseconds(self.limit.for_pages(seen).unwrap_or_default());
        let lowest_ms = self.law.lowest()?;
        (lowest_ms > limit_ms * NEAR).then(|| {
            format!(
                "hopeless: in {:.0} s the residual never took less than {lowest_ms:.0} ms, and \
                 {limit_ms:.0} ms are allowed",
                self.law.seconds()
            )
        })
    }

    fn at_harvest(&mut self, seen: &Observation) -> Verdict {
        let Some(residual) = seen.residual_time(seen.smooth_bandwidth_bytes_per_s) else {
            return Verdict::go_on("the link is not known yet");
        };
        if seen.rounds_sent == 0 {
            // What passes until the next residual was not watched.
            self.watched_at = None;
            return Verdict::go_on("the first pass is not over");
        }
        self.watch(seen, residual, seen.smooth_bandwidth_bytes_per_s);
        let left = seen.deadline.map(|deadline| deadline.saturating_sub(seen.elapsed));
        let hopeless = self.hopeless(seen);
        let level = self.reservation(seen.now, hopeless.is_some(), left);
        if let Some(why) = hopeless.filter(|_| self.gives_up) {
            return Verdict::give_up(why);
        }
        let residual_ms = milliseconds(residual);
        match level {
            _ if self.descent.under_way() => {}
            Some((level, _)) if residual_ms > level => {
                return Verdict::go_on(format!("{residual_ms:.1} ms, reservation {level:.1} ms"));
            }
            Some((level, Taken::AtOnce)) if !self.falls_anew() => {
                return Verdict::stop(format!("a lull at {residual:.1?}, below {level:.1} ms"));
            }
            Some(_) | None => {}
        }
        self.descend(seen, residual, level.map(|(level, _)| level))
    }

    /// Whether the residual is far lower than ever, or comes down to where it never was: then the
    /// law does not know how far down this goes, and how soon it is over.
    fn falls_anew(&self) -> bool {
        self.law.is_new_low(self.descent.gain())
            || self.law.slides() && self.law.falls(TREND, self.wait_ms_per_s)
    }

    /// One step of a descent. Its bottom is taken at or below the reservation; without one, if
    /// the whole of it is worth less than what learning the law would cost.
    fn descend(&mut self, seen: &Observation, residual: Duration, level: Option<f64>) -> Verdict {
        if self.descent.step(residual, seen.fixed_switchover_cost) == Step::Falling {
            return Verdict::go_on(format!("{residual:.1?} and falling"));
        }
        self.descent.end();
        let to_learn_ms = self.wait_ms_per_s * self.warmup.as_secs_f64();
        if self.law.falls(TREND, self.wait_ms_per_s) {
            return Verdict::go_on(format!("{residual:.1?} after a fall"));
        }
        let enough_ms = level.unwrap_or(to_learn_ms).max(milliseconds(FLOOR));
        if milliseconds(residual) <= enough_ms {
            Verdict::stop(format!("the bottom of a lull at {residual:.1?}"))
        } else {
            Verdict::go_on(format!("{residual:.1?} is no bottom to stay at"))
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl StopPolicy for Renewal {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn judge(&mut self, seen: &Observation) -> Verdict {
        match seen.moment {
            Moment::Harvested => self.at_harvest(seen),
            Moment::Cadence | Moment::Sent => self.descent.between_harvests(seen),
        }
    }

    fn preflight(&mut self, seen: &Observation) -> Verdict {
        let Some(residual) = seen.residual_time(seen.round_bandwidth_bytes_per_s) else {
            return Verdict::go_on("the link is not known");
        };
        // The modelled sender starts with everything sent: until its residual has risen and fallen
        // once it is too low to be true.
        self.settled |= seen.elapsed >= self.warmup && residual < self.preflight_last;
        self.preflight_last = residual;
        if !self.settled {
            return Verdict::go_on("until the model has settled");
        }
        self.watch(seen, residual, seen.round_bandwidth_bytes_per_s);
        match self.hopeless(seen) {
            Some(why) if self.gives_up => Verdict::give_up(why),
            _ => Verdict::go_on("learning"),
        }
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicySpec;

    /// A harvest at `ms` that finds `residual_ms` at 1 MB/s, with a fixed cost of 1 ms and a limit
    /// of 300 ms, after the first pass.
    fn harvested(ms: u64, residual_ms: u64) -> Observation {
        Observation {
            moment: Moment::Harvested,
            now: Tick::from_nanos(ms * 1_000_000),
            elapsed: Duration::from_millis(ms),
            rounds_sent: 1,
            page_bytes: 4096,
            residual_pages: residual_ms,
            residual_wire_bytes: residual_ms * 1000,
            round_bandwidth_bytes_per_s: Some(1e6),
            smooth_bandwidth_bytes_per_s: Some(1e6),
            fixed_switchover_cost: Duration::from_millis(1),
            downtime_limit: Duration::from_millis(300),
            ..Observation::default()
        }
    }

    fn policy(text: &str) -> Box<dyn StopPolicy> {
        text.parse::<PolicySpec>().unwrap().build()
    }

    /// Judges a residual every 100 ms, from 100 ms on; the step and verdict at the end.
    fn run(policy: &mut dyn StopPolicy, residuals: impl Iterator<Item = u64>) -> (u64, Verdict) {
        for (step, residual) in (1..).zip(residuals) {
            let verdict = policy.judge(&harvested(step * 100, residual));
            if !matches!(verdict, Verdict::Continue { .. }) {
                return (step, verdict);
            }
        }
        (0, Verdict::go_on("never"))
    }

    /// Lulls of two harvests every five seconds: 40 ms, then 41.
    fn lulls(step: u64) -> u64 {
        match step % 50 {
            25 => 40,
            26 => 41,
            _ => 150,
        }
    }

    #[test]
    fn it_waits_for_a_lull_that_it_has_seen_before_and_stops_in_it() {
        let mut policy = policy("renewal:hope=0,warmup_ms=6000");
        let (step, verdict) = run(&mut *policy, (1..500).map(lulls));
        assert_eq!((step, verdict.word()), (75, "stop_and_copy"));
    }

    #[test]
    fn where_waiting_is_dear_it_takes_what_there_is() {
        let mut policy = policy("renewal:hope=0,wait_ms_per_s=100");
        let (step, verdict) = run(&mut *policy, (1..500).map(lulls));
        assert_eq!(verdict.word(), "stop_and_copy");
        assert!((11..=13).contains(&step), "{step}");
    }

    #[test]
    fn a_case_without_hope_is_given_up_with_the_figures() {
        let (step, verdict) = run(&mut *policy("renewal"), std::iter::repeat_n(2000, 500));
        assert_eq!((step, verdict.word()), (101, "give_up"));
        assert!(verdict.reason().contains("2000 ms, and 300 ms"), "{}", verdict.reason());
        let mut stops = policy("renewal:hopeless=stop");
        let (_, verdict) = run(&mut *stops, std::iter::repeat_n(2000, 5000));
        assert_eq!(verdict.word(), "stop_and_copy");
    }

    #[test]
    fn what_still_falls_is_not_hopeless() {
        // From 2 s to under 0.3 s within half a minute, with a jagged edge.
        let falling = (0..400).map(|step| 2000_u64.saturating_sub(step * 6) + step % 7 * 20);
        let (step, verdict) = run(&mut *policy("renewal"), falling);
        assert_eq!(verdict.word(), "stop_and_copy", "{step}: {}", verdict.reason());
    }

    #[test]
    fn a_preflight_tells_before_anything_is_sent() {
        let mut policy = policy("renewal");
        let mut words = Vec::new();
        for step in 1..=150 {
            // The model rises from nothing, then settles.
            let residual = (step * 100).min(2000) - step % 2;
            words.push(policy.preflight(&harvested(step * 100, residual)).word());
        }
        assert_eq!(words[..100], ["continue"; 100]);
        assert!(words.contains(&"give_up"));
    }

    #[test]
    fn the_first_pass_is_no_time_watched() {
        let mut policy = policy("renewal");
        for step in 1..=20 {
            let seen = Observation { rounds_sent: 0, ..harvested(step * 100, 2000 - step % 2) };
            policy.preflight(&seen);
        }
        // Two seconds were seen, and seventy were not.
        policy.judge(&Observation { rounds_sent: 0, ..harvested(2_000, 2000) });
        assert_eq!(policy.judge(&harvested(72_000, 2000)).word(), "continue");
        assert_eq!(policy.judge(&harvested(82_000, 2000)).word(), "give_up");
    }

    #[test]
    fn what_never_changes_is_not_hoped_away_for_ever() {
        // Far longer than the window: the hope for less must fade with all the time watched.
        let (step, verdict) = run(&mut *policy("renewal"), std::iter::repeat_n(250, 50_000));
        assert_eq!(verdict.word(), "stop_and_copy");
        assert!(step < 3000, "{step}");
    }

    /// What a residual at 1 MB/s is over a link of so many MB/s.
    fn over(link: f64, seen: &Observation) -> Observation {
        let rate = Some(link * 1e6);
        Observation {
            round_bandwidth_bytes_per_s: rate,
            smooth_bandwidth_bytes_per_s: rate,
            ..seen.clone()
        }
    }

    #[test]
    fn a_link_that_recovers_is_no_lull() {
        // Over a slow link 2 s; over the fast one 5 ms in the end, by a steep or a gentle slope.
        for (kept, lasts) in [(80, 27), (94, 80)] {
            let mut policy = policy("renewal:evidence_s=off");
            let judged = (1..400).find_map(|step| {
                // The residual is in ms of the link of its time.
                let (rate, residual_ms) = match step {
                    1..=80 => (1, 2000 + step % 7 * 10),
                    _ => (4, (81..=step).fold(2000, |ms, _| 5.max(ms * kept / 100))),
                };
                let seen = harvested(step * 100, residual_ms * rate);
                let verdict = policy.judge(&over(rate as f64, &seen));
                (verdict.word() != "continue").then_some((step, verdict))
            });
            let (step, verdict) = judged.unwrap();
            assert!(verdict.word() == "stop_and_copy", "{step}: {}", verdict.reason());
            assert!(step >= 80 + lasts, "{step}: {}", verdict.reason());
        }
    }

    #[test]
    fn another_link_makes_another_law() {
        let mut policy = policy("renewal");
        for step in 1..=99 {
            policy.judge(&over(1.0, &harvested(step * 100, 2000)));
        }
        // Ten seconds without hope are over at the hundredth step, but not over this link.
        let mut words =
            (100..250).map(|step| policy.judge(&over(4.0, &harvested(step * 100, 8000))).word());
        assert_eq!(words.position(|word| word == "give_up"), Some(100));
    }

    #[test]
    fn another_throttle_makes_another_law() {
        let mut policy = policy("renewal");
        for step in 1..=99 {
            policy.judge(&harvested(step * 100, 2000));
        }
        let throttled = Observation { throttle: Throttle::percent(50), ..harvested(10_100, 2000) };
        assert_eq!(policy.judge(&throttled).word(), "continue");
    }
}
