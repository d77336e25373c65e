// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a predicted migration does to the percentiles of a 5-minute window.

use serde::{Deserialize, Serialize};

use super::fluid::{Fluid, Slow, slow_at_rest, steps};
use super::load::{ActionLoad, Load};
use super::run::{Interval, PredictedRun, on_all_cores, over_seeds};

/// Longest response time that is looked for, in seconds.
const LONGEST_S: f64 = 600.0;
/// Starts of requests that are looked at for a percentile.
const STARTS: usize = 1500;

/// A percentile that a service level names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the two of Cloudstone's service level")]
pub enum Percentile {
    /// Nine of ten requests must keep the limit.
    P90,
    /// 99 of 100.
    P99,
}

impl Percentile {
    /// Share of the requests that may be slow.
    #[must_use]
    pub fn tolerates(self) -> f64 {
        match self {
            Self::P90 => 0.10,
            Self::P99 => 0.01,
        }
    }
}

/// One action under one migration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ActionRisk {
    /// Its name.
    pub name: String,
    /// Longest response time allowed, in seconds.
    pub limit_s: f64,
    /// Ninetieth percentile without a migration, in seconds (M/G/1-PS).
    pub base_p90_s: f64,
    /// 99th percentile without a migration, in seconds.
    pub base_p99_s: f64,
    /// Ninetieth percentile in the worst window, in seconds, for the run of median length.
    pub p90_s: f64,
    /// 99th percentile in the worst window, in seconds, for the run of median length.
    pub p99_s: f64,
    /// Share of the requests that are slow, in the worst window, over the runs.
    pub slow_share: Interval,
    /// Share of the runs in which the ninetieth percentile is above the limit.
    pub p90_broken: f64,
    /// Share of the runs in which the 99th percentile is above the limit.
    pub p99_broken: f64,
}

/// The risk of a migration to the service level.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Risk {
    /// Users.
    pub users: f64,
    /// Actions per second that they ask for.
    pub offered_ops_per_s: f64,
    /// Actions per second that the site can do.
    pub capacity_ops_per_s: f64,
    /// What decides: every action, or the one of this name.
    pub judged: Option<String>,
    /// Share of the runs in which an action that decides breaks the ninetieth percentile.
    pub p90_broken: f64,
    /// The same for the 99th percentile.
    pub p99_broken: f64,
    /// Action by action.
    pub actions: Vec<ActionRisk>,
}

impl Risk {
    /// Share of the runs in which this percentile is broken.
    #[must_use]
    pub fn broken(&self, percentile: Percentile) -> f64 {
        match percentile {
            Percentile::P90 => self.p90_broken,
            Percentile::P99 => self.p99_broken,
        }
    }
}

/// When a run slows the site and when it stops it, if it starts at `from_s`.
fn disturbance(load: &Load, run: &PredictedRun, from_s: f64) -> [Slow; 2] {
    let paused = from_s + run.live_s;
    [
        Slow { from_s, until_s: paused, speed: 1.0 - load.slowdown },
        Slow { from_s: paused, until_s: from_s + run.total_s, speed: 0.0 },
    ]
}

/// The site under migrations that start at these times, and the time for which it is looked at:
/// until a whole window lies behind the last one.
fn fluid_of(load: &Load, run: &PredictedRun, starts: &[f64]) -> (Fluid, usize) {
    let slow: Vec<Slow> = starts.iter().flat_map(|at| disturbance(load, run, *at)).collect();
    let end = starts.iter().copied().fold(0.0, f64::max) + run.total_s + load.window_s;
    (Fluid::run(load, &slow, end), steps(load.window_s + end))
}

/// The largest share of slow requests of an action over all windows, and where that one begins.
fn worst_window(load: &Load, action: &ActionLoad, fluid: &Fluid, end: usize) -> (f64, usize) {
    let (service, within) = (load.service_s(action), inside(action, action.limit_s));
    let (window, second) = (steps(load.window_s), steps(1.0));
    let mut sums = vec![(0.0, 0.0)];
    let (mut all, mut slow) = (0.0, 0.0);
    for step in 0..end.min(fluid.arrivals.len()) {
        all += fluid.arrivals[step];
        slow += fluid.arrivals[step] * fluid.slow(step, service, within);
        sums.push((all, slow));
    }
    let share = |from: usize| {
        let (a, b) = (sums[from], sums[from + window]);
        ((b.1 - a.1) / (b.0 - a.0).max(f64::MIN_POSITIVE), from)
    };
    let windows = (0..sums.len().saturating_sub(window)).step_by(second).map(share);
    windows.fold((0.0, 0), |worst, next| if next.0 > worst.0 { next } else { worst })
}

/// The part of a response time that is spent in the guest.
fn inside(action: &ActionLoad, response_s: f64) -> f64 {
    (response_s - action.db_ms / 1e3).max(0.0)
}

/// The response time that a share of `tolerated` requests exceeds.
fn percentile(tolerated: f64, slow_share: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, LONGEST_S);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if slow_share(middle) > tolerated {
            low = middle;
        } else {
            high = middle;
        }
        if high - low < 1e-3 {
            break;
        }
    }
    high
}

/// The percentile of an action in one window.
fn percentile_in(
    load: &Load,
    action: &ActionLoad,
    fluid: &Fluid,
    from: usize,
    which: Percentile,
) -> f64 {
    let window = steps(load.window_s);
    let until = (from + window).min(fluid.arrivals.len());
    let stride = (window / STARTS).max(1);
    let service = load.service_s(action);
    percentile(which.tolerates(), |response| {
        let within = inside(action, response);
        let (mut all, mut slow) = (0.0, 0.0);
        for step in (from..until).step_by(stride) {
            all += fluid.arrivals[step];
            slow += fluid.arrivals[step] * fluid.slow(step, service, within);
        }
        slow / f64::max(all, f64::MIN_POSITIVE)
    })
}

/// The share of slow requests of each action in its worst window, for each run; 0 for actions
/// that are passed over.
fn worst_shares(
    load: &Load,
    runs: &[PredictedRun],
    starts: &[f64],
    wanted: impl Fn(&ActionLoad) -> bool + Sync,
) -> Vec<Vec<f64>> {
    on_all_cores(u32::try_from(runs.len()).unwrap_or(u32::MAX), |at| {
        let run = &runs[at as usize];
        // The next migration begins when the one before is over, at the earliest.
        let begin = |at: &f64| if *at > 0.0 { at.max(run.total_s) } else { 0.0 };
        let starts: Vec<f64> = starts.iter().map(begin).collect();
        let (fluid, end) = fluid_of(load, run, &starts);
        let share = |action| match wanted(action) {
            true => worst_window(load, action, &fluid, end).0,
            false => 0.0,
        };
        load.actions.iter().map(share).collect()
    })
}

/// Share of the runs in which an action that decides has more slow requests than tolerated.
fn broken(load: &Load, shares: &[Vec<f64>], which: Percentile) -> f64 {
    let breaks = |shares: &&Vec<f64>| {
        let mut judged = load.actions.iter().zip(*shares).filter(|(a, _)| load.judges(a));
        judged.any(|(_, share)| *share > which.tolerates())
    };
    over_seeds(shares.iter().filter(breaks).count(), shares.len())
}

/// Share of the runs in which migrations that start at these times break p90, and p99.
pub(super) fn broken_by(load: &Load, runs: &[PredictedRun], starts: &[f64]) -> Broken {
    let shares = worst_shares(load, runs, starts, |action| load.judges(action));
    Broken {
        p90: broken(load, &shares, Percentile::P90),
        p99: broken(load, &shares, Percentile::P99),
    }
}

/// Shares of runs that break a percentile.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Broken {
    p90: f64,
    p99: f64,
}

impl Broken {
    pub(super) fn of(self, which: Percentile) -> f64 {
        match which {
            Percentile::P90 => self.p90,
            Percentile::P99 => self.p99,
        }
    }
}

/// The risk of one migration.
pub(super) fn of(load: &Load, runs: &[PredictedRun]) -> Risk {
    let shares = worst_shares(load, runs, &[0.0], |_| true);
    let mut by_length: Vec<&PredictedRun> = runs.iter().collect();
    by_length.sort_by(|a, b| a.total_s.total_cmp(&b.total_s));
    let typical = by_length.get(by_length.len() / 2).map(|run| fluid_of(load, run, &[0.0]));
    let action_risk = |(at, action): (usize, &ActionLoad)| {
        let own: Vec<f64> = shares.iter().map(|shares| shares[at]).collect();
        action_risk(load, action, &own, typical.as_ref())
    };
    Risk {
        users: load.users,
        offered_ops_per_s: load.offered_ops_per_s(),
        capacity_ops_per_s: load.capacity_ops_per_s,
        judged: load.judged.clone(),
        p90_broken: broken(load, &shares, Percentile::P90),
        p99_broken: broken(load, &shares, Percentile::P99),
        actions: load.actions.iter().enumerate().map(action_risk).collect(),
    }
}

/// The risk to one action, from its share of slow requests in each run, and the site under a
/// typical run.
fn action_risk(
    load: &Load,
    action: &ActionLoad,
    shares: &[f64],
    typical: Option<&(Fluid, usize)>,
) -> ActionRisk {
    let count = |which: Percentile| {
        let over = shares.iter().filter(|share| **share > which.tolerates());
        over_seeds(over.count(), shares.len())
    };
    let service = load.service_s(action);
    let base = |which: Percentile| {
        percentile(which.tolerates(), |r| slow_at_rest(load, service, inside(action, r)))
    };
    let worst = typical.map(|(fluid, end)| (fluid, worst_window(load, action, fluid, *end).1));
    let migrated = |which: Percentile| match worst {
        Some((fluid, from)) => percentile_in(load, action, fluid, from, which),
        None => base(which),
    };
    let nothing = Interval { p10: 0.0, median: 0.0, p90: 0.0 };
    ActionRisk {
        name: action.name.clone(),
        limit_s: action.limit_s,
        base_p90_s: base(Percentile::P90),
        base_p99_s: base(Percentile::P99),
        p90_s: migrated(Percentile::P90),
        p99_s: migrated(Percentile::P99),
        slow_share: Interval::of(shares.iter().copied()).unwrap_or(nothing),
        p90_broken: count(Percentile::P90),
        p99_broken: count(Percentile::P99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A migration with these times, as the simulator would report it.
    fn run(live_s: f64, downtime_s: f64) -> PredictedRun {
        let text = format!(
            r#"{{"seed":1,"handed_over":true,"rounds":5,"total_s":{},"live_s":{live_s},
                "downtime_s":{downtime_s},"wire_bytes":0,"reason":"","history":[]}}"#,
            live_s + downtime_s
        );
        serde_json::from_str(&text).unwrap()
    }

    /// workload.md 6.5: response times of a discrete-event run of the same site.
    #[test]
    fn the_fluid_agrees_with_the_discrete_event_run() {
        for (users, live, pause, home_p90, home_p99) in [
            (600.0, 0.0, 0.0, 0.19, 0.47),
            (600.0, 41.0, 3.0, 0.68, 2.83),
            (500.0, 41.0, 0.5, 0.09, 0.24),
        ] {
            let load = Load::web(users);
            let risk = of(&load, &[run(live, pause)]);
            let home = &risk.actions[0];
            let near = |ours: f64, theirs: f64| (0.6..1.6).contains(&(ours / theirs));
            assert!(near(home.p90_s, home_p90), "{users}: {} {home_p90}", home.p90_s);
            assert!(near(home.p99_s, home_p99), "{users}: {} {home_p99}", home.p99_s);
        }
    }

    #[test]
    fn what_the_paper_says_of_the_service_level() {
        let home = |users: f64| {
            let mut load = Load::web(users);
            load.judged = Some("HomePage".to_owned());
            load
        };
        let paper = run(41.0, 3.0);
        let (six, five) = (home(600.0), home(500.0));
        let broken = |load: &Load, run: &PredictedRun, starts: &[f64]| {
            let Broken { p90, p99 } = broken_by(load, std::slice::from_ref(run), starts);
            (p90 > 0.5, p99 > 0.5)
        };
        let none = run(0.0, 0.0);
        assert_eq!(broken(&six, &none, &[0.0]), (false, false), "600 pass without a migration");
        assert_eq!(broken(&home(700.0), &none, &[0.0]), (true, true), "700 fail without one");
        assert_eq!(broken(&six, &paper, &[0.0]), (false, true), "one breaks p99 and not p90");
        assert_eq!(broken(&six, &paper, &[0.0, 80.0]), (true, true), "two break p90");
        assert_eq!(broken(&five, &run(38.0, 0.5), &[0.0]), (false, false), "500 users keep both");
    }
}
