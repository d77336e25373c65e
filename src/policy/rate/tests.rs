// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each rate policy against runs worked out by hand.

use std::time::Duration;

use super::*;
use crate::policy::{Moment, Spec};

fn policy(text: &str) -> Box<dyn RatePolicy> {
    Spec::<dyn RatePolicy>::parse(text).unwrap().build()
}

fn harvested(residual_pages: u64, dirty_pages_per_s: Option<f64>, elapsed_s: u64) -> Observation {
    Observation {
        page_bytes: 4096,
        residual_pages,
        residual_wire_bytes: residual_pages * 4096,
        dirty_pages_per_s,
        elapsed: Duration::from_secs(elapsed_s),
        ..Observation::default()
    }
}

#[test]
fn clark_goes_a_step_above_the_dirty_rate_and_never_back() {
    let mut clark = policy("clark-rate");
    let mut rate = |seen: &Observation| clark.rate(seen).unwrap();
    assert_eq!(rate(&harvested(10_000, None, 0)), 12_500_000, "100 Mb/s at first");
    // 5000 pages a second are 20.48 MB/s; 50 Mb/s more are 26.73 MB/s.
    assert_eq!(rate(&harvested(900, Some(5000.0), 2)), 5000 * 4096 + 6_250_000);
    let mut later = harvested(900, Some(9000.0), 3);
    later.moment = Moment::Cadence;
    assert_eq!(rate(&later), 5000 * 4096 + 6_250_000, "only a harvest tells a dirty rate");
    assert_eq!(rate(&harvested(900, Some(10.0), 4)), 5000 * 4096 + 6_250_000);
    assert_eq!(rate(&harvested(900, Some(50_000.0), 5)), 62_500_000, "500 Mb/s at most");
}

#[test]
fn constant_is_constant() {
    let mut constant = policy("constant:bytes_per_s=5");
    assert_eq!(constant.rate(&harvested(9, Some(1e9), 3)), Some(5));
    assert_eq!(policy("constant").rate(&Observation::default()), Some(128 << 20));
}

#[test]
fn deadline_divides_work_by_time() {
    let mut pacing = policy("deadline:deadline_ms=10000");
    assert_eq!(pacing.rate(&harvested(10_000, None, 0)), Some(4_096_000));
    assert_eq!(pacing.rate(&harvested(4000, Some(100.0), 6)), Some(4_096_000 + 409_600));
    let sent = Observation { moment: Moment::Sent, ..harvested(0, Some(100.0), 7) };
    assert_eq!(pacing.rate(&sent), Some(4_096_000 + 409_600), "a sent round tells nothing");
    assert_eq!(pacing.rate(&harvested(1, None, 8)), Some(1_000_000), "the least rate");
    assert_eq!(pacing.rate(&harvested(9000, None, 10)), None, "late: as fast as it goes");
    // Without a deadline of its own it takes the run's, and without that it caps nothing.
    let mut pacing = policy("deadline");
    let mut seen = harvested(10_000, None, 0);
    assert_eq!(pacing.rate(&seen), None);
    seen.deadline = Some(Duration::from_secs(20));
    assert_eq!(pacing.rate(&seen), Some(2_048_000));
}

#[test]
fn every_rate_policy_is_described_and_built() {
    for info in rates() {
        let policy = policy(info.name);
        assert_eq!((policy.name(), policy.fork().name()), (info.name, info.name));
        assert!(!info.rule.is_empty() && !info.source.is_empty());
    }
}
