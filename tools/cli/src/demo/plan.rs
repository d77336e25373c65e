// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the options of the web demo mean, checked.

use std::time::Duration;

use lab::live::{Link, LiveOptions};

use super::DOWNTIME_LIMIT;
use crate::args::{DemoArgs, MigrationArgs, TrackerName, untouched};
use crate::exit::usage;
use crate::plan::MigrationPlan;
use crate::site;

/// The load under which the site is before it migrates, unless told otherwise.
const WARM_UP: Duration = Duration::from_secs(8);
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

/// Refuses what would be ignored.
fn refuse(given: &MigrationArgs) -> anyhow::Result<()> {
    let plain: MigrationArgs = untouched()?;
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
    refuse(&args.migration)?;
    let migration = MigrationPlan::new(&args.migration, args.verify)?;
    let (site, mut config) = site::plan(&args.guest, memory, args.users)?;
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
    config.mean_s = MEAN_S * (f64::from(config.users) / USERS_AT_LEISURE).min(1.0);
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
