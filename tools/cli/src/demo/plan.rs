// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the options of the web demo mean, checked.

use std::time::Duration;

use clap::Parser;
use lab::live::{Link, LiveOptions};
use lab::paper;
use webvm::site::{PAGES_MAX, PAGES_MIN, Site, WORKERS_MAX};

use super::DOWNTIME_LIMIT;
use crate::args::{DemoArgs, GuestArgs, MigrationArgs, TrackerName};
use crate::exit::usage;
use crate::plan::MigrationPlan;
use crate::show;

const PAGE: u64 = 4096;
/// The load under which the site is before it migrates, unless told otherwise.
const WARM_UP: Duration = Duration::from_secs(8);
/// Users of the paper's guest of 2 GiB.
const USERS: u64 = 600;
const USERS_PAGES: u64 = 524_288;
/// So few that the site has data for.
const USERS_MIN: u32 = 25;
/// As many users make 60 operations a second at Olio's pace; fewer hurry to make as many, so that
/// there is something to see of every tenth of a second.
const USERS_AT_LEISURE: f64 = 300.0;
/// Mean time between two actions of a user in the paper, and where it is cut.
const MEAN_S: f64 = 5.0;
const CAP_FACTOR: f64 = 5.0;
/// What loopback carries at least, in bytes per second, for guessing how long it will take.
const LOOPBACK: u64 = 500_000_000;
/// Longest phase.
const PHASE_MAX: Duration = Duration::from_secs(3600);

/// Options that only one kind of guest has, as they are if nobody types them.
#[derive(Parser, Debug)]
struct Untouched {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    migration: MigrationArgs,
}

/// Refuses what would be ignored.
fn refuse(args: &DemoArgs) -> anyhow::Result<()> {
    let mut untouched = Untouched::try_parse_from(["precopy"])?;
    (untouched.guest.memory, untouched.guest.seed) = (args.guest.memory, args.guest.seed);
    if untouched.guest != args.guest {
        return Err(usage(
            "Of the options under Guest, the web guest takes --memory and --seed; the others \
             belong to `--guest counters`",
        ));
    }
    let (given, plain) = (&args.migration, &untouched.migration);
    let refused = [
        (given.uncap_paused != plain.uncap_paused, "--uncap-paused"),
        (given.connect_timeout != plain.connect_timeout, "--connect-timeout"),
        (given.stall_timeout != plain.stall_timeout, "--stall-timeout"),
        (given.ready_timeout != plain.ready_timeout, "--ready-timeout"),
        (given.commit_timeout != plain.commit_timeout, "--commit-timeout"),
        (given.query_timeout != plain.query_timeout, "--query-timeout"),
        (given.tracker == TrackerName::Marked, "--tracker marked"),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, name)) => Err(usage(format!("{name} belongs to `--guest counters`"))),
        None => Ok(()),
    }
}

/// The run that the options ask for.
pub(super) fn options(args: &DemoArgs, memory: u64) -> anyhow::Result<LiveOptions> {
    refuse(args)?;
    let migration = MigrationPlan::new(&args.migration, args.verify)?;
    let pages = memory / PAGE;
    if !memory.is_multiple_of(PAGE) || !(PAGES_MIN..=PAGES_MAX).contains(&pages) {
        return Err(usage(format!(
            "--memory is {}; it must be from {} to {} in steps of 4 KiB",
            show::bytes(memory),
            show::bytes(PAGES_MIN * PAGE),
            show::bytes(PAGES_MAX * PAGE),
        )));
    }
    let fitting = || u32::try_from(USERS * pages / USERS_PAGES).unwrap_or(WORKERS_MAX);
    let users = args.users.unwrap_or_else(|| fitting().clamp(USERS_MIN, WORKERS_MAX));
    if !(1..=WORKERS_MAX).contains(&users) {
        return Err(usage(format!("--users is {users}; it must be from 1 to {WORKERS_MAX}")));
    }
    let (site, mut config) = paper::live::load(pages, users, args.guest.seed);
    if let Err(error) = Site::new(site.clone()) {
        return Err(usage(format!("--memory or --users: {error}")));
    }
    let warm_up = args.warm_up.unwrap_or(WARM_UP);
    let phases = [("--ramp", args.ramp), ("--warm-up", warm_up), ("--run-on", args.run_on)];
    if let Some((name, time)) = phases.iter().find(|(_, time)| *time > PHASE_MAX) {
        let given = time.as_secs_f64();
        return Err(usage(format!("{name} is {given} s; it must be from 0 s to 3600 s")));
    }
    // Twice the memory is what a migration may have to send.
    let rate = args.migration.bandwidth_cap.unwrap_or(LOOPBACK).min(LOOPBACK);
    #[expect(clippy::cast_precision_loss, reason = "bytes and seconds")]
    let migrates_s = memory as f64 * 2.0 / rate as f64;
    config.mean_s = MEAN_S * (f64::from(users) / USERS_AT_LEISURE).min(1.0);
    config.cap_s = config.mean_s * CAP_FACTOR;
    config.ramp_up_s = args.ramp.as_secs_f64();
    config.steady_s = (warm_up + args.run_on).as_secs_f64() + migrates_s.min(3600.0);
    config.ramp_down_s = 0.0;
    config.check().map_err(usage)?;
    let mut options = LiveOptions::new(site, config, &migration.policy.to_string());
    options.migrate_at = vec![warm_up];
    options.shadows = migration.shadows.iter().map(ToString::to_string).collect();
    options.guards = migration.guards;
    options.tracker = migration.tracker.by_name().map(str::to_owned);
    options.downtime_limit = args.migration.downtime_limit.unwrap_or(DOWNTIME_LIMIT);
    (options.deadline, options.preflight) = (migration.deadline, migration.preflight);
    options.channels = migration.channels;
    options.encoder = migration.encoder;
    options.delta_cache_bytes = migration.delta_cache_bytes;
    options.verify = migration.verify;
    options.link = match migration.bandwidth_cap_bytes_per_s {
        None => Link::Loopback,
        Some(bytes_per_s) => Link::Capped { bytes_per_s },
    };
    Ok(options)
}
