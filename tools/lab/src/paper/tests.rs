// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Runs of a small guest, and the checks of the model on a scaled one.

use webvm::site::{Action, SiteConfig};
use webvm::sla::Percentile;

use super::model::Model;
use super::*;

/// A guest of 128 MiB and 37 users, over a sixteenth of the link.
fn small(seed: u64) -> Scenario {
    let mut scenario = Scenario::paper(37, seed).lasting(320.0);
    scenario.site = SiteConfig { seed, capacity: 8.25, ..SiteConfig::scaled(32_768, 37) };
    scenario.users.upload_scale = scenario.site.upload_scale;
    scenario.users.ramp_up_s = 10.0;
    scenario.users.ramp_down_s = 1.0;
    scenario.bandwidth_bytes_per_s /= 16.0;
    scenario
}

#[test]
fn a_run_is_the_same_every_time_and_keeps_every_promise() {
    let scenario = small(3).with_migrations([100.0, 200.0]);
    let (once, again) = (run(&scenario).unwrap(), run(&scenario).unwrap());
    assert!(once == again, "another run");
    assert!(once.audit_clean);
    assert_eq!(once.violations, 0);
    assert_eq!(once.migrations.len(), 2);
    for migrated in &once.migrations {
        let cost = figures::cost(&once.seen(), &migrated.moved(), 3);
        assert!(cost.downtime_engine_s > 0.2, "{cost:?}");
        // Workload.md 6.8: what users see is no less than what the engine says.
        assert!(cost.downtime_probe_s >= cost.downtime_engine_s - 0.010, "{cost:?}");
        assert!(cost.downtime_gap_s >= cost.downtime_engine_s * 0.9, "{cost:?}");
        assert_eq!(cost.dropped, 0, "{cost:?}");
    }
}

#[test]
fn another_seed_is_another_run_and_a_pause_shows_in_the_service_level() {
    let quiet = run(&small(1)).unwrap();
    let moved = run(&small(1).with_migrations([100.0])).unwrap();
    assert_ne!(quiet.samples, run(&small(2)).unwrap().samples);
    let worst = |ran: &Ran| ran.seen().worst_s(Action::HomePage, Percentile::P99);
    assert!(worst(&moved) > worst(&quiet), "{} {}", worst(&moved), worst(&quiet));
}

#[test]
fn impossible_times_are_named() {
    let error = run(&small(1).with_migrations([400.0])).unwrap_err().to_string();
    assert!(error.starts_with("Migration 1 is to begin at 400 s"), "{error}");
    let error = run(&small(1).with_migrations([100.0, 100.0])).unwrap_err().to_string();
    assert!(error.starts_with("Migration 2"), "{error}");
    // Too short for a window of 5 minutes: a run without a verdict.
    assert!(run(&small(1).lasting(100.0)).unwrap().sla.is_none());
}

/// What is known not to hold, on the scaled guest or at all: see ARCHITECTURE.md.
const MISSES: [&str; 4] = [
    // 6.4's own kernel and fresh pages allow no more than a factor of 3.3.
    "D(3 s) with keep-alive on / off",
    "rank-frequency slope, heaps",
    // The recorded guest of 11 users fails it, too.
    "Hurst parameter, 0.5 to 16 s",
    // With two or three operations in a second, a ring is not hot.
    "distinct MB in 1 s, 13 users",
];

#[test]
fn the_scaled_guest_writes_as_a_web_site_does() {
    let checks = Model::eighth().checks(&()).unwrap();
    assert!(checks.len() > 40);
    let failed: Vec<_> = checks
        .iter()
        .filter(|c| !c.passed && !MISSES.contains(&c.name.as_str()))
        .map(|c| (&c.name, c.measured, c.expected_low, c.expected_high))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}
