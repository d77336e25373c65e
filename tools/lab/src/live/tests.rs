// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Small guests of 64 MiB with 25 users who are in a hurry, migrated for real.

use webvm::net::rig::RigOptions;
use webvm::site::REFERENCE_PAGES;
use webvm::sla::Status;

use super::*;
use precopy::engine::CancelToken;
use precopy::report::Outcome;

/// 64 MiB.
const PAGES: u64 = REFERENCE_PAGES / 32;
/// As many as have room there, at 2.4 MB each, and as few as Olio's data can be made for; they do
/// as much as 300 at their leisure.
const USERS: u32 = 25;

/// Longer than any of these runs: who can tell how long a migration takes on a busy machine?
const LONG_S: f64 = 600.0;

fn small(steady_s: f64, migrate_at_s: &[f64]) -> LiveOptions {
    let mut site = SiteConfig::scaled(PAGES, USERS);
    site.max_workers = USERS;
    let users = UsersConfig {
        users: USERS,
        mean_s: 0.4,
        cap_s: 2.0,
        ramp_up_s: 0.5,
        steady_s,
        ramp_down_s: 0.0,
        upload_scale: site.upload_scale,
        ..UsersConfig::default()
    };
    let mut options = LiveOptions::new(site, users, "fixed-rounds:rounds=3");
    options.migrate_at = migrate_at_s.iter().map(|s| Duration::from_secs_f64(*s)).collect();
    options.link = Link::Loopback;
    options
}

/// Runs until every migration has been tried, and until the users have gone on for some time after
/// the last.
fn run_until_moved(
    options: &LiveOptions,
    mut see: impl FnMut(&LiveEvent),
) -> Result<LiveRun, LiveError> {
    let (cancel, mut tried, mut enough) = (CancelToken::new(), 0, None);
    run(options, &cancel, &mut |event| {
        see(event);
        match event {
            LiveEvent::Migrated(_) => tried += 1,
            LiveEvent::Progress { clients, .. } if tried == options.migrate_at.len() => {
                let completed = clients.counters.completed;
                if completed >= *enough.get_or_insert(completed + 50) {
                    cancel.cancel();
                }
            }
            _ => {}
        }
    })
}

fn run_quietly(options: &LiveOptions) -> LiveRun {
    run_until_moved(options, |_| {}).unwrap()
}

/// Nothing lost, nothing doubled, nobody dropped.
fn assert_unharmed(run: &LiveRun) {
    let audit = run.audit.as_ref().unwrap();
    assert!(audit.is_clean(), "{audit} {:?}", audit.faults);
    assert!(audit.sessions > 0 && run.counters.completed > 0);
    let counters = run.counters;
    let harm = (counters.resets, counters.timed_out, counters.refused, counters.violations);
    let bad = run.samples.iter().find(|sample| sample.status != Status::Ok);
    assert_eq!(harm, (0, 0, 0, 0), "{:?}, first {bad:?}", run.notes);
    assert_eq!((run.resets, run.probes.failed), (0, 0), "{:?}", run.notes);
    for migration in &run.migrations {
        assert_eq!(migration.dropped, 0);
        if let Some(audit) = &migration.audit {
            assert!(audit.is_clean(), "{audit} {:?}", audit.faults);
        }
    }
}

fn assert_handed_over(run: &LiveRun, migrations: usize) {
    assert_eq!(run.migrations.len(), migrations, "{:?}", run.notes);
    for migration in &run.migrations {
        let report = migration.source.as_ref().unwrap();
        assert_eq!(report.outcome, Outcome::HandedOver, "{:?}", migration.failure);
        assert_eq!(migration.failure, None);
        assert!(migration.pause.is_some() && migration.destination.is_some());
        let downtime = migration.downtime;
        assert!(downtime.users.is_some() && downtime.engine.is_some());
        // Unless the prober stood still from then on.
        let probed = run.probes.longest_gap(migration.started, Tick::from_nanos(u64::MAX));
        assert_eq!(downtime.prober.is_some(), probed.is_some());
    }
}

#[test]
fn a_small_guest_moves_there_and_back() {
    let mut options = small(LONG_S, &[0.5, 1.0]);
    options.verify = true;
    options.audit_each = true;
    let (mut notes, mut progress, mut migrated) = (0, 0, 0);
    let run = run_until_moved(&options, |event| match event {
        LiveEvent::Note(_) => notes += 1,
        LiveEvent::Progress { .. } => progress += 1,
        LiveEvent::Migrated(_) => migrated += 1,
        _ => {}
    });
    let run = run.unwrap();
    assert_handed_over(&run, 2);
    assert_unharmed(&run);
    let hosts: String = run.migrations.iter().map(|migration| migration.from).collect();
    assert_eq!((hosts.as_str(), migrated, notes), ("AB", 2, 0));
    assert!(progress > 1);
    assert!(run.migrations.iter().all(|m| m.audit.is_some()));
}

#[test]
fn a_run_that_nobody_ends_is_whole() {
    let run = run(&small(0.5, &[]), &CancelToken::new(), &mut |_| {}).unwrap();
    assert_unharmed(&run);
    assert!(!run.partial);
    let json = serde_json::to_string(&run).unwrap();
    assert!(json.contains("\"partial\":false"));
}

#[test]
fn a_connection_for_each_request_survives_too() {
    let mut options = small(LONG_S, &[0.5]);
    options.site.workers = webvm::site::Workers::PerRequest;
    let run = run_quietly(&options);
    assert_handed_over(&run, 1);
    assert_unharmed(&run);
}

#[test]
fn a_destination_that_dies_leaves_the_guest_where_it_was() {
    let mut options = small(LONG_S, &[0.5, 1.0]);
    // A first round of more than a second.
    options.link = Link::Capped { bytes_per_s: 40_000_000 };
    options.policy = "fixed-rounds:rounds=1".to_owned();
    options.destination_dies = Some((0, Duration::from_millis(300)));
    let run = run_quietly(&options);
    assert_unharmed(&run);
    let [failed, moved] = &run.migrations[..] else {
        panic!("{} migrations", run.migrations.len())
    };
    let report = failed.source.as_ref().unwrap();
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning);
    assert!(failed.failure.as_ref().is_some_and(|why| !why.is_empty()));
    assert!(failed.pause.is_none() && failed.destination.is_none());
    assert_eq!((failed.from, moved.from), ('A', 'A'));
    assert_eq!(moved.source.as_ref().unwrap().outcome, Outcome::HandedOver);
}

#[test]
fn a_cancelled_run_keeps_what_it_has_and_says_so() {
    let options = small(LONG_S, &[0.5, 500.0]);
    let (cancel, mut migrated) = (CancelToken::new(), false);
    let run = run(&options, &cancel, &mut |event| match event {
        LiveEvent::Migrated(_) => migrated = true,
        LiveEvent::Progress { clients, .. } if migrated && clients.counters.completed > 0 => {
            cancel.cancel();
        }
        _ => {}
    });
    let run = run.unwrap();
    assert!(run.partial && run.notes.iter().any(|note| note.starts_with("PARTIAL")));
    assert!(run.notes.iter().any(|note| note == "1 of 2 migrations were tried"));
    assert!(!run.samples.is_empty() && !run.probes.probes.is_empty());
    assert!(run.audit.as_ref().is_some_and(SiteAudit::is_clean));
}

#[test]
fn migration_and_service_share_a_shaped_link() {
    let mut options = small(LONG_S, &[0.5]);
    let rig = RigOptions::default();
    options.link = Link::Shaped(rig);
    let run = match run_until_moved(&options, |_| {}) {
        Err(LiveError::Rig(error)) => {
            precopy::skipped(format_args!("no network namespaces here: {error}"));
            return;
        }
        run => run.unwrap(),
    };
    assert_handed_over(&run, 1);
    assert_unharmed(&run);
    assert!(run.link_bytes_per_s.is_some());
    // The shaper allows no more; a burst may come on top.
    let totals = run.migrations[0].source.as_ref().unwrap().totals;
    let allowed_s = totals.duration.as_secs_f64() + 0.1;
    let bytes = precopy_bytes(totals.wire_bytes);
    assert!(bytes < 125e6 * allowed_s, "{bytes} bytes in {allowed_s} s");
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred megabytes")]
fn precopy_bytes(bytes: u64) -> f64 {
    bytes as f64
}

#[test]
fn what_cannot_be_run_is_named() {
    let mut options = small(1.0, &[]);
    options.policy = "no-such".to_owned();
    let error = run(&options, &CancelToken::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, LiveError::Policy(_)));
    let mut options = small(1.0, &[]);
    options.users.users = 0;
    let error = run(&options, &CancelToken::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, LiveError::Users(_)));
    let mut options = small(1.0, &[]);
    options.site.pages = 9000;
    let error = run(&options, &CancelToken::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, LiveError::Guest(_)), "{error}");
}

/// There and back under load as often as `PRECOPY_LIVE_MIGRATIONS` says, with an audit each
/// time: `PRECOPY_LIVE_MIGRATIONS=100 cargo test --release -p lab -- --ignored live`.
#[test]
#[ignore = "takes minutes; PRECOPY_LIVE_MIGRATIONS says how many"]
fn many_migrations_with_an_audit_each() {
    let count = std::env::var("PRECOPY_LIVE_MIGRATIONS").ok();
    let count: u32 = count.and_then(|text| text.parse().ok()).unwrap_or(10);
    let at: Vec<f64> = (0..count).map(|n| 0.5 + 0.6 * f64::from(n)).collect();
    let mut options = small(LONG_S, &at);
    options.audit_each = true;
    options.verify = true;
    let run = run_quietly(&options);
    assert_handed_over(&run, at.len());
    assert_unharmed(&run);
    let mut downtimes: Vec<_> = run.migrations.iter().filter_map(|m| m.downtime.engine).collect();
    downtimes.sort_unstable();
    eprintln!(
        "{count} migrations under load: {} actions, {} requests, {}; downtime median {:?}, \
         longest {:?}",
        run.counters.completed,
        run.counters.responses,
        run.audit.as_ref().unwrap(),
        downtimes[downtimes.len() / 2],
        downtimes[downtimes.len() - 1],
    );
}
