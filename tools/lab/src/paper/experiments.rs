// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The experiments of the paper's section 4 and 5 in virtual time, one function each, over several
//! seeds. What a cancel leaves undone is missing from the result.

use precopy::policy::{PolicyError, PolicySpec, StrategySpec, USUAL_POLICIES};
use webvm::site::Workers;

use super::figures;
use super::pool::{self, Watch};
pub use super::predicted::predictions;
use super::rows::{
    Outcome, capacity_search, capacity_step, fig3_run, policy_result, search_on, spread,
    table2_column,
};
use super::run::{Migrated, Ran, RunError, Scenario, run};
use crate::report::Spread;
use crate::report::data::{
    Capacity, ContrastArm, Curve, Fig2, Fig3, Fig3Kind, Fig3Panel, Point, PolicyResult,
    Sensitivity, SensitivityPoint, Table2, Wws,
};

/// Users of the paper's main experiment.
pub const USERS: u32 = 600;
/// When its migration begins, in seconds of steady state.
pub const FIRST_S: f64 = 300.0;
/// When the second one begins after the first: a "short period" (workload.md 6.6).
pub const SHORT_PERIOD_S: f64 = 80.0;
/// And when it is far enough for no window to hold both.
pub const SPACED_S: f64 = 400.0;

/// What all experiments have in common.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Seeds.
    pub seeds: Vec<u64>,
    /// When migrations stop, and what they do until then.
    pub policy: StrategySpec,
    /// Bytes per second of the link.
    pub bandwidth_bytes_per_s: f64,
    /// Share of the processor that a migration takes.
    pub tax: f64,
    /// Settings of the site on top of the paper's, as `key=value,...`.
    pub site: String,
}

impl Default for Options {
    fn default() -> Self {
        let paper = Scenario::paper(USERS, 1);
        Self {
            seeds: (1..=5).collect(),
            policy: paper.policy,
            bandwidth_bytes_per_s: paper.bandwidth_bytes_per_s,
            tax: paper.tax,
            site: String::new(),
        }
    }
}

impl Options {
    /// A run of 10 minutes with these options.
    ///
    /// # Errors
    /// [`RunError`] if the settings of the site make no sense.
    pub fn scenario(&self, users: u32, seed: u64) -> Result<Scenario, RunError> {
        let mut scenario = Scenario::paper(users, seed);
        if !self.site.is_empty() {
            let settings = format!("{},{}", scenario.site, self.site);
            scenario.site = settings
                .parse()
                .map_err(|error| RunError::World(webvm::world::WorldError::Site(error)))?;
        }
        scenario.policy = self.policy.clone();
        scenario.bandwidth_bytes_per_s = self.bandwidth_bytes_per_s;
        scenario.tax = self.tax;
        Ok(scenario)
    }

    fn scenarios(&self, users: u32) -> Result<Vec<Scenario>, RunError> {
        self.seeds.iter().map(|seed| self.scenario(users, *seed)).collect()
    }
}

fn runs<T: Send>(
    what: &str,
    jobs: &[Scenario],
    watch: &dyn Watch,
    keep: impl Fn(&Scenario, Ran) -> T + Sync,
) -> Result<Vec<Option<T>>, RunError> {
    pool::each(what, jobs, watch, |scenario| Ok(keep(scenario, run(scenario)?)))
}

/// The search for the greatest load without a migration, in steps of 100 users, until two steps
/// have failed.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn capacity(options: &Options, watch: &dyn Watch) -> Result<Capacity, RunError> {
    let mut found = capacity_search();
    for users in (100..=1000).step_by(100) {
        let what = format!("capacity, {users} users");
        let done = runs(&what, &options.scenarios(users)?, watch, |_, ran| ran)?;
        let done: Vec<Ran> = done.into_iter().flatten().collect();
        if done.is_empty() {
            break;
        }
        let seen: Vec<_> = done.iter().map(Ran::seen).collect();
        if search_on(&mut found, capacity_step(users, &seen)) {
            break;
        }
    }
    Ok(found)
}

/// One migration after five minutes of steady state (Fig. 2).
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn fig2(options: &Options, watch: &dyn Watch) -> Result<Option<Fig2>, RunError> {
    let jobs: Vec<_> =
        options.scenarios(USERS)?.into_iter().map(|s| s.with_migrations([FIRST_S])).collect();
    let done = runs("one migration", &jobs, watch, |scenario, ran| {
        let first = scenario.site.seed == jobs[0].site.seed;
        let (seen, moved) = (ran.seen(), ran.migrations.first().map(Migrated::moved));
        let (users, seed) = (scenario.users.users, scenario.site.seed);
        let drawn = first.then(|| figures::drawn(&seen, moved.as_ref(), users, seed));
        (drawn, moved.map(|m| figures::cost(&seen, &m, seed)))
    })?;
    let mut fig = None;
    let mut costs = Vec::new();
    for (drawn, cost) in done.into_iter().flatten() {
        fig = fig.or(drawn);
        costs.extend(cost);
    }
    Ok(fig.map(|fig| Fig2 { runs: costs, ..fig }))
}

/// Percentiles over time with no migration, with one, and with two (Fig. 3).
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn fig3(options: &Options, watch: &dyn Watch) -> Result<Fig3, RunError> {
    let kinds: [(Fig3Kind, &[f64]); 4] = [
        (Fig3Kind::None, &[]),
        (Fig3Kind::One, &[FIRST_S]),
        (Fig3Kind::TwoClose, &[FIRST_S, FIRST_S + SHORT_PERIOD_S]),
        (Fig3Kind::TwoSpaced, &[FIRST_S, FIRST_S + SPACED_S]),
    ];
    let mut jobs = Vec::new();
    for (_, at_s) in kinds {
        let all = options.scenarios(USERS)?.into_iter();
        jobs.extend(all.map(|s| s.lasting(1200.0).with_migrations(at_s.iter().copied())));
    }
    let done = runs("one and two migrations", &jobs, watch, |scenario, ran| {
        let moved: Vec<_> = ran.migrations.iter().map(Migrated::moved).collect();
        fig3_run(&ran.seen(), &moved, scenario.site.seed)
    })?;
    let panels = kinds.iter().zip(done.chunks(options.seeds.len().max(1)));
    let panels = panels.map(|((kind, _), runs)| Fig3Panel {
        kind: *kind,
        runs: runs.iter().flatten().cloned().collect(),
    });
    Ok(Fig3 { users: USERS, panels: panels.filter(|p| !p.runs.is_empty()).collect() })
}

/// Largest 99th percentiles with one migration, for 500 users and fewer (Table 2).
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn table2(options: &Options, watch: &dyn Watch) -> Result<Table2, RunError> {
    let loads = [500, 400, 300, 200, 100];
    let mut jobs = Vec::new();
    for users in loads {
        let all = options.scenarios(users)?.into_iter();
        jobs.extend(all.map(|s| s.with_migrations([FIRST_S])));
    }
    let done = runs("table 2", &jobs, watch, |_, ran| ran.sla)?;
    let mut cells = Vec::new();
    for (users, reports) in loads.into_iter().zip(done.chunks(options.seeds.len().max(1))) {
        let reports: Vec<_> = reports.iter().flatten().flatten().collect();
        cells.extend(table2_column(users, &reports));
    }
    Ok(Table2 { steady_s: 600.0, cells })
}

fn outcomes(what: &str, jobs: &[Scenario], watch: &dyn Watch) -> Result<Vec<Outcome>, RunError> {
    let done = runs(what, jobs, watch, |scenario, ran| {
        let moved = ran.migrations.first().map(Migrated::moved);
        Outcome::of(&ran.seen(), moved.as_ref(), scenario.site.seed)
    })?;
    Ok(done.into_iter().flatten().collect())
}

/// Keep-alive on, off, and a pool of PHP workers: why three seconds.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn contrast(options: &Options, watch: &dyn Watch) -> Result<Vec<ContrastArm>, RunError> {
    let mut arms = Vec::new();
    for (name, workers, tax) in [
        ("keep-alive on", Workers::KeepAlive, options.tax),
        ("keep-alive off", Workers::PerRequest, options.tax),
        ("keep-alive on, no slowdown", Workers::KeepAlive, 0.0),
        ("keep-alive off, no slowdown", Workers::PerRequest, 0.0),
        ("PHP-FPM pool of 4", Workers::Pool, options.tax),
    ] {
        let mut jobs = options.scenarios(USERS)?;
        jobs.iter_mut().for_each(|s| (s.site.workers, s.tax) = (workers, tax));
        let (mut busy, mut dirtied) = (Vec::new(), Vec::new());
        for job in jobs.iter().take(if watch.is_cancelled() { 0 } else { jobs.len() }) {
            #[expect(clippy::cast_precision_loss, reason = "some hundred workers")]
            busy.push(figures::busy_workers(job)? as f64);
            dirtied.extend(figures::working_set(job, &[3.0], 5)?.iter().map(|point| point.y));
        }
        let jobs: Vec<_> = jobs.into_iter().map(|s| s.with_migrations([FIRST_S])).collect();
        let done = outcomes(name, &jobs, watch)?;
        arms.push(ContrastArm {
            name: name.to_owned(),
            busy_workers: Spread::of(busy),
            dirtied_3s_mb: Spread::of(dirtied),
            total_s: spread(&done, |o| o.cost.total_s),
            downtime_s: spread(&done, |o| o.cost.downtime_engine_s),
            p99_s: spread(&done, |o| o.p99_s),
        });
    }
    Ok(arms)
}

/// A parameter to vary: name, unit, default, values, and how a scenario takes one.
type Varied = (&'static str, &'static str, f64, &'static [f64], fn(&mut Scenario, f64));

const VARIED: [Varied; 4] = [
    ("w", "pages/op", 200.0, &[150.0, 175.0, 200.0, 225.0, 250.0, 300.0], |s, v| {
        s.site.private_pages = v;
    }),
    ("bandwidth", "MB/s", 117.5, &[97.0, 105.0, 111.0, 117.5, 125.0, 250.0, 1175.0], |s, v| {
        s.bandwidth_bytes_per_s = v * 1e6;
    }),
    ("capacity C0", "op/s", 132.0, &[128.0, 130.0, 131.0, 132.0, 133.0, 134.0, 140.0], |s, v| {
        s.site.capacity = v;
    }),
    ("slowdown", "share", 0.15, &[0.0, 0.05, 0.1, 0.15, 0.2], |s, v| s.tax = v),
];

/// How the result of one migration hangs on what is uncertain.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn sensitivity(options: &Options, watch: &dyn Watch) -> Result<Vec<Sensitivity>, RunError> {
    let mut all = Vec::new();
    let few = Options { seeds: options.seeds.iter().take(3).copied().collect(), ..options.clone() };
    for (parameter, unit, default, values, set) in VARIED {
        let mut points = Vec::new();
        for value in values {
            let mut jobs = few.scenarios(USERS)?;
            for job in &mut jobs {
                set(job, *value);
                job.migrations = vec![FIRST_S];
            }
            let done = outcomes(&format!("{parameter} = {value}"), &jobs, watch)?;
            if done.is_empty() {
                break;
            }
            points.push(SensitivityPoint {
                value: *value,
                total_s: spread(&done, |o| o.cost.total_s),
                downtime_s: spread(&done, |o| o.cost.downtime_engine_s),
                p90_s: spread(&done, |o| o.p90_s),
                p99_s: spread(&done, |o| o.p99_s),
            });
        }
        let (parameter, unit) = (parameter.to_owned(), unit.to_owned());
        all.push(Sensitivity { parameter, unit, default, points });
    }
    Ok(all)
}

/// The policies to rank: the usual ones of the engine, and variants worth a look.
///
/// # Errors
/// [`PolicyError`] if one does not exist.
pub fn ranked_policies(paper: &StrategySpec) -> Result<Vec<StrategySpec>, PolicyError> {
    // Stopping when rounds grow is what workload.md 2.4 finds closest to the paper's Xen.
    let mut all = vec![StrategySpec::parse("xen-legacy:growth=dirty,skip=false")?];
    for name in USUAL_POLICIES {
        all.push(PolicySpec::new(name, [])?.into());
    }
    if !all.contains(paper) {
        all.push(paper.clone());
    }
    Ok(all)
}

/// Time after which the guest is paused under any policy: a rule that never finds a good moment
/// while the load lasts would otherwise wait for its end.
pub const PATIENCE_S: f64 = 120.0;

/// What the policies of [`ranked_policies`] make of the same guests.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn rank(options: &Options, watch: &dyn Watch) -> Result<Vec<PolicyResult>, RunError> {
    let mut all = Vec::new();
    for policy in ranked_policies(&options.policy)? {
        let jobs: Vec<_> = Options { policy: policy.clone(), ..options.clone() }
            .scenarios(USERS)?
            .into_iter()
            .map(|s| Scenario { max_time_s: Some(PATIENCE_S), ..s.with_migrations([FIRST_S]) })
            .collect();
        let done = outcomes(&format!("policy {policy}"), &jobs, watch)?;
        if done.is_empty() {
            break;
        }
        all.push(policy_result(&policy.to_string(), &done));
    }
    Ok(all)
}

/// The working set against time for several loads, beside what the link sends, and where the two
/// meet: rounds grow no shorter than that.
///
/// # Errors
/// [`RunError`] if the options make no sense.
pub fn working_sets(options: &Options, watch: &dyn Watch) -> Result<Wws, RunError> {
    const WINDOWS_S: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0];
    let seed = options.seeds.first().copied().unwrap_or(1);
    let loads = [100_u32, 200, 300, 400, 500, 600];
    let curves = pool::each("working sets", &loads, watch, |users| {
        let points = figures::working_set(&options.scenario(*users, seed)?, &WINDOWS_S, 6)?;
        Ok::<_, RunError>(Curve { name: format!("{users} users"), points })
    })?;
    let curves: Vec<Curve> = curves.into_iter().flatten().collect();
    let bandwidth_mb_s = options.bandwidth_bytes_per_s / 1e6;
    let fixed_points = curves.iter().filter_map(|c| fixed_point(&c.points, bandwidth_mb_s));
    Ok(Wws { fixed_points: fixed_points.collect(), curves, bandwidth_mb_s })
}

/// Where D(t) = B t, by linear interpolation; nothing if the curve lies below the line.
#[must_use]
pub fn fixed_point(curve: &[Point], bandwidth_mb_s: f64) -> Option<Point> {
    let above = |p: &Point| p.y - bandwidth_mb_s * p.x;
    curve.windows(2).rev().find_map(|pair| {
        let (a, b) = (above(&pair[0]), above(&pair[1]));
        (a >= 0.0 && b < 0.0).then(|| {
            let x = pair[0].x + (pair[1].x - pair[0].x) * a / (a - b);
            Point::new(x, bandwidth_mb_s * x)
        })
    })
}
