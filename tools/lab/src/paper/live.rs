// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Live runs as the paper's experiments: the same figures from the same functions as in virtual
//! time, and the virtual run of the same parameters beside them.

use precopy::policy::{PolicyError, StrategySpec};
use webvm::site::{Action, REFERENCE_PAGES, Site, SiteConfig, WORKERS_MAX};
use webvm::sla::{self, Percentile};
use webvm::users::UsersConfig;

use super::experiments::USERS;
use super::figures::{self, Moved, Seen};
use super::run::{Ran, RunError, Scenario, run};
use crate::live::{LiveMigration, LiveOptions, LiveRun};
use crate::report::Spread;
use crate::report::data::{Fig2, MigrationFigures, SideBySide};

/// Olio's loader makes data for as many users at least.
const DATA_USERS_MIN: u32 = 25;

/// Users whom a site of so much memory has, unless told otherwise: in proportion as the paper's
/// guest of 2 GiB has 600.
#[must_use]
pub fn users_for(pages: u64) -> u32 {
    let fitting = u64::from(USERS).saturating_mul(pages) / REFERENCE_PAGES;
    u32::try_from(fitting).unwrap_or(WORKERS_MAX).clamp(DATA_USERS_MIN, WORKERS_MAX)
}

/// The site and its users for so much memory: the paper's for 2 GiB, scaled down otherwise. There
/// is data for 25 users at least, as Olio's loader makes no less.
#[must_use]
pub fn load(pages: u64, users: u32, seed: u64) -> (SiteConfig, UsersConfig) {
    let served = users.max(DATA_USERS_MIN);
    let mut site = SiteConfig { seed, ..SiteConfig::scaled(pages, served) };
    if pages >= REFERENCE_PAGES {
        site.max_workers = 640.max(served.saturating_add(40));
    } else if Site::new(site.clone()).is_err() {
        // No room for workers to spare.
        site.max_workers = served;
    }
    let upload_scale = site.upload_scale;
    // As in virtual time: clients wait as long as it takes.
    let patient = UsersConfig { time_out_s: 120.0, ..UsersConfig::default() };
    (site, UsersConfig { users, upload_scale, seed, ..patient })
}

/// A live run as its users and its prober saw it.
#[must_use]
pub fn seen(run: &LiveRun) -> Seen<'_> {
    let (start, end) = (run.users.steady_start(), run.users.steady_end());
    Seen {
        // A run that was cancelled in its ramp-up has no steady state.
        steady: start..end.min(run.end).max(start),
        samples: &run.samples,
        probes: run.probes.probes.clone(),
        probe_period: run.probes.interval,
        sla: run.sla.as_ref(),
    }
}

/// A live migration that handed the guest over.
#[must_use]
pub fn moved(migration: &LiveMigration) -> Option<Moved<'_>> {
    let (paused, resumed) = migration.pause?;
    migration.destination.as_ref()?;
    let report = migration.source.as_ref()?;
    Some(Moved {
        began: migration.started,
        paused,
        resumed,
        ended: migration.ended,
        rounds: &report.rounds,
        totals: &report.totals,
    })
}

/// All migrations of a run that handed the guest over.
#[must_use]
pub fn all(run: &LiveRun) -> Vec<Moved<'_>> {
    run.migrations.iter().filter_map(moved).collect()
}

/// The first migration of a run that handed the guest over.
#[must_use]
pub fn first(run: &LiveRun) -> Option<Moved<'_>> {
    run.migrations.iter().find_map(moved)
}

/// One live migration (Fig. 2), with its figures if it handed the guest over.
#[must_use]
pub fn fig2(run: &LiveRun) -> Fig2 {
    let (seen, moved) = (seen(run), first(run));
    let mut fig = figures::drawn(&seen, moved.as_ref(), run.users.users, run.users.seed);
    fig.runs.extend(moved.map(|moved| figures::cost(&seen, &moved, run.users.seed)));
    fig
}

/// Share of the guest's processor that the first migration took, as the guest measured it.
#[must_use]
pub fn measured_slowdown(run: &LiveRun) -> Option<f64> {
    let migration = run.migrations.iter().find(|m| moved(m).is_some())?;
    let (paused, _) = migration.pause?;
    let live_s = paused.since(migration.started).as_secs_f64();
    (live_s > 0.0).then(|| (migration.stolen.as_secs_f64() / live_s).min(0.95))
}

/// Bytes per second that a migration could use: what one connection got of the shaped link, or
/// the cap, or what the first migration did get, or nothing if none of that is known.
#[must_use]
pub fn measured_bandwidth(run: &LiveRun, cap_bytes_per_s: Option<u64>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "bytes per second")]
    let known = run.link_bytes_per_s.or(cap_bytes_per_s).map(|rate| rate as f64);
    let rounds = first(run).map(|moved| moved.rounds).unwrap_or_default();
    // The longest round says most about a link that nobody has measured.
    let longest = rounds.iter().filter(|r| !r.paused).max_by_key(|r| r.duration);
    known.or_else(|| longest?.bandwidth_bytes_per_s).filter(|rate| *rate >= 1.0)
}

/// The scenario in virtual time with the parameters of a live run.
///
/// # Errors
/// [`PolicyError`] if the policy does not exist.
pub fn scenario(
    options: &LiveOptions,
    bandwidth_bytes_per_s: f64,
    tax: f64,
) -> Result<Scenario, PolicyError> {
    Ok(Scenario {
        site: options.site.clone(),
        users: options.users.clone(),
        migrations: options.migrate_at.iter().map(std::time::Duration::as_secs_f64).collect(),
        policy: StrategySpec::parse(&options.policy)?,
        bandwidth_bytes_per_s,
        tax,
        max_time_s: options.guards.max_duration.map(|time| time.as_secs_f64()),
    })
}

/// The virtual run of the same parameters, judged in windows of the same length.
///
/// # Errors
/// [`RunError`] as [`run`].
pub fn beside(
    options: &LiveOptions,
    bandwidth_bytes_per_s: f64,
    tax: f64,
) -> Result<Ran, RunError> {
    let mut ran = run(&scenario(options, bandwidth_bytes_per_s, tax)?)?;
    let levels = sla::Options { window: options.sla_window, ..sla::Options::default() };
    if levels != sla::Options::default() {
        ran.sla = sla::evaluate(&ran.samples, ran.steady.clone(), &levels).ok();
    }
    Ok(ran)
}

/// One side of the comparison.
struct Figures {
    throughput: f64,
    dirty_pages_per_s: f64,
    cost: Option<MigrationFigures>,
    /// Largest 90th and 99th percentile by action, in the order of [`Action::ALL`].
    levels: [[f64; 2]; 7],
}

impl Figures {
    fn of(seen: &Seen<'_>, moved: Option<&Moved<'_>>, seed: u64) -> Self {
        // Round 0 has no window before it, and the paused one's is cut short by the pause.
        let rates = moved.map(|m| m.rounds).unwrap_or_default().iter().filter(|r| !r.paused);
        let rates: Spread = rates.filter_map(|r| r.dirty_pages_per_s).collect();
        Self {
            throughput: seen.throughput(),
            dirty_pages_per_s: rates.median().unwrap_or(f64::NAN),
            cost: moved.map(|moved| figures::cost(seen, moved, seed)),
            levels: Action::ALL.map(|a| Percentile::ALL.map(|p| seen.worst_s(a, p))),
        }
    }
}

/// Figures of a live run and of the virtual one, one row each.
#[must_use]
pub fn side_by_side(live: &LiveRun, model: &Ran) -> Vec<SideBySide> {
    let seed = live.users.seed;
    let ours = Figures::of(&seen(live), first(live).as_ref(), seed);
    let moved = model.migrations.first().map(super::Migrated::moved);
    let theirs = Figures::of(&model.seen(), moved.as_ref(), seed);
    let mut rows = Vec::new();
    // What neither run has (no migration, no window) is no row.
    let mut row = |name: &str, tolerance: Option<f64>, value: &dyn Fn(&Figures) -> f64| {
        let (live, model) = (value(&ours), value(&theirs));
        if live.is_nan() && model.is_nan() {
            return;
        }
        let spread = |value: f64| Spread::of(Some(value).filter(|value| !value.is_nan()));
        let (virtual_run, live_run) = (spread(model), spread(live));
        rows.push(SideBySide { name: name.to_owned(), virtual_run, live_run, tolerance });
    };
    let cost = |get: fn(&MigrationFigures) -> f64| {
        move |figures: &Figures| figures.cost.as_ref().map_or(f64::NAN, get)
    };
    // Where the link was not the model's, only the load can be compared.
    let alike = live.link_bytes_per_s.map(|_| 0.15);
    row("operations (op/s)", Some(0.02), &|f| f.throughput);
    row("dirty pages (pages/s, median of rounds)", alike, &|f| f.dirty_pages_per_s);
    row("rounds", None, &cost(|c| f64::from(c.rounds)));
    row("sent (MB)", None, &cost(|c| c.sent_mb));
    row("total time (s)", None, &cost(|c| c.total_s));
    row("downtime by prober (s)", None, &cost(|c| c.downtime_probe_s));
    row("downtime by users (s)", None, &cost(|c| c.downtime_gap_s));
    row("downtime by engine (s)", alike, &cost(|c| c.downtime_engine_s));
    row("recovery (s)", None, &cost(|c| c.recovery_s));
    #[expect(clippy::cast_precision_loss, reason = "a handful of requests")]
    row("dropped requests", None, &cost(|c| c.dropped as f64));
    for (at, action) in Action::ALL.into_iter().enumerate() {
        for percentile in Percentile::ALL {
            let name = format!("{} p{} (s)", action.name(), percentile.percent());
            row(&name, None, &move |f| f.levels[at][percentile.index()]);
        }
    }
    rows
}

/// The rows of several runs as one table, by name.
#[must_use]
pub fn merge(runs: impl IntoIterator<Item = Vec<SideBySide>>) -> Vec<SideBySide> {
    let mut all: Vec<SideBySide> = Vec::new();
    for row in runs.into_iter().flatten() {
        let Some(found) = all.iter_mut().find(|found| found.name == row.name) else {
            all.push(row);
            continue;
        };
        let both = |a: &Spread, b: &Spread| Spread::of([a.values(), b.values()].concat());
        found.virtual_run = both(&found.virtual_run, &row.virtual_run);
        found.live_run = both(&found.live_run, &row.live_run);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_guests_have_room_for_their_users_and_the_papers_is_the_papers() {
        for (pages, users) in [(16_384, 25), (16_384, 1), (65_536, 75), (262_144, 300)] {
            let (site, config) = load(pages, users, 7);
            assert!(Site::new(site.clone()).is_ok(), "{users} users in {pages} pages");
            assert_eq!((config.users, config.seed, site.seed), (users, 7, 7));
            assert_eq!(config.upload_scale, site.upload_scale);
            assert!(site.users >= DATA_USERS_MIN);
        }
        let (site, users) = load(REFERENCE_PAGES, 600, 1);
        let paper = Scenario::paper(600, 1);
        assert_eq!((site, users), (paper.site, paper.users));
    }

    #[test]
    fn rows_of_the_same_name_become_one() {
        let row = |name: &str, live: f64| SideBySide {
            name: name.to_owned(),
            virtual_run: Spread::of([1.0]),
            live_run: Spread::of([live]),
            tolerance: None,
        };
        let merged = merge([vec![row("a", 1.0), row("b", 2.0)], vec![row("b", 3.0)]]);
        assert_eq!(merged.len(), 2);
        assert_eq!(merged[1].live_run.values(), [2.0, 3.0]);
        assert_eq!(merged[1].virtual_run.values(), [1.0, 1.0]);
    }
}
