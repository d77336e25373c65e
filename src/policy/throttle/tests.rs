// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each throttle policy against runs worked out by hand from its source.

use std::time::Duration;

use super::*;
use crate::policy::{Moment, Spec};

fn policy(text: &str) -> Box<dyn ThrottlePolicy> {
    Spec::<dyn ThrottlePolicy>::parse(text).unwrap().build()
}

/// Harvests at given times, of a guest that dirties and a sender that sends so many MB each time.
struct Played {
    policy: Box<dyn ThrottlePolicy>,
    seen: Observation,
}

impl Played {
    fn new(text: &str) -> Self {
        let seen = Observation {
            page_bytes: 4096,
            round_bandwidth_bytes_per_s: Some(100e6),
            unsent_pages: 9,
            ..Observation::default()
        };
        let mut new = Self { policy: policy(text), seen };
        assert_eq!(new.policy.throttle(&new.seen), Throttle::NONE, "before the first page");
        new.seen.unsent_pages = 0;
        new
    }

    fn harvest(&mut self, after_ms: u64, dirty_mb: u64, sent_mb: u64) -> u8 {
        let after = Duration::from_millis(after_ms);
        self.seen.now += after;
        self.seen.elapsed += after;
        let pages = dirty_mb * 1_000_000 / 4096;
        self.seen.harvested_pages = Some(pages);
        self.seen.dirty_pages_per_s = Some(pages as f64 / after.as_secs_f64());
        self.seen.sent_wire_bytes += sent_mb * 1_000_000;
        self.ask()
    }

    fn ask(&mut self) -> u8 {
        self.seen.throttle = self.policy.throttle(&self.seen);
        self.seen.throttle.get()
    }
}

#[test]
fn auto_converge_steps_every_second_time() {
    let mut run = Played::new("auto-converge");
    let steps: Vec<u8> = (0..24).map(|_| run.harvest(2000, 101, 200)).collect();
    let expected = (1..=24).map(|n: u8| match n / 2 {
        0 => 0,
        times => (10 + times * 10).min(99),
    });
    assert_eq!(steps, expected.collect::<Vec<_>>());
    // Half is allowed.
    let mut run = Played::new("auto-converge");
    assert!((0..9).all(|_| run.harvest(2000, 100, 200) == 0));
    // Times above need not be in a row; the throttle never falls.
    let mut run = Played::new("auto-converge:max_percent=25");
    let steps = [150, 10, 150, 10, 10, 150, 150, 150, 150].map(|mb| run.harvest(2000, mb, 200));
    assert_eq!(steps, [0, 0, 20, 20, 20, 20, 25, 25, 25]);
}

#[test]
fn auto_converge_compares_over_a_second_at_least() {
    // In slices of 50 ms a period ends with the first slice past a second: the 21st.
    let mut run = Played::new("auto-converge");
    let steps: Vec<u8> = (0..84).map(|_| run.harvest(50, 6, 10)).collect();
    let first = |percent| steps.iter().position(|p| *p == percent).map(|at| at + 1);
    assert_eq!((first(20), first(30)), (Some(42), Some(84)));
    // The first pass does not count as a period, only its last harvest does.
    let mut run = Played::new("auto-converge:period_ms=0");
    run.seen.unsent_pages = 1;
    assert!((0..9).all(|_| run.harvest(50, 6, 10) == 0));
    run.seen.unsent_pages = 0;
    assert_eq!([0; 2].map(|_| run.harvest(50, 6, 10)), [0, 20]);
    // Only harvests count.
    run.seen.moment = Moment::Sent;
    assert!((0..9).all(|_| run.ask() == 20));
}

#[test]
fn tail_slow_steps_by_what_the_excess_asks_for() {
    let mut run = Played::new("auto-converge:tail_slow=true");
    let mut twice = |dirty| [0; 2].map(|_| run.harvest(2000, dirty, 200))[1];
    assert_eq!(twice(400), 20, "the first step is whole");
    // 80 % of the CPU, of which 100/104 are ideal: 76.9, so 76 in whole numbers and a step of 4.
    assert_eq!(twice(104), 24);
    // 76 * 100 / 400 = 19 would be ideal, but a step has 10 at most.
    assert_eq!(twice(400), 34);
}

#[test]
fn dirty_limit_follows_qemus_arithmetic() {
    const MIB: u64 = 1 << 20;
    let text = format!("dirty-limit:quota_bytes_per_s={},period_ms=1000", 50 * MIB);
    let mut run = Played::new(&text);
    // Not throttled before the test triggers, which takes two periods and the first page's.
    let rate = |run: &mut Played, mib_per_s: u64| {
        run.seen.harvested_pages = Some(mib_per_s * MIB * 1001 / 1000 / 4096);
        run.seen.now += Duration::from_millis(1001);
        run.seen.sent_wire_bytes += 100 * MIB;
        run.ask()
    };
    assert_eq!(rate(&mut run, 200), 0);
    // 200 over 50: three units of sleep for one of work.
    assert_eq!(rate(&mut run, 200), 75);
    // 76 is 26 too many, and less than half of it: a tenth of a unit more.
    assert_eq!(rate(&mut run, 76), 76);
    assert_eq!(rate(&mut run, 75), 76, "in the band");
    assert_eq!(rate(&mut run, 26), 76, "in the band");
    // 20 is more than half below 50: 30/20 units less, of 3.1.
    assert_eq!(rate(&mut run, 20), 62);
    assert_eq!(rate(&mut run, 1), 0, "never less than none");
    // 400 over 50: seven units.
    assert_eq!(rate(&mut run, 400), 88);
    assert!((0..30).all(|_| rate(&mut run, 40_000) <= 99));
}

#[test]
fn dirty_limit_leaves_a_converging_guest_alone() {
    let mut run = Played::new("dirty-limit");
    assert!((0..20).all(|_| run.harvest(2000, 90, 200) == 0));
}

#[test]
fn stun_brings_the_dirty_rate_below_the_rate_of_sending() {
    let mut run = Played::new("stun");
    run.seen.unsent_pages = 9;
    assert_eq!(run.harvest(1000, 400, 100), 0, "not in the first pass");
    run.seen.unsent_pages = 0;
    // 360 MB/s against 90 % of 100 MB/s: a quarter of the time is left.
    assert_eq!(run.harvest(1000, 360, 100), 75);
    // So throttled it dirties a quarter, and stays there.
    assert_eq!(run.harvest(1000, 90, 100), 75);
    // It calms down: 10 MB/s in a quarter of the time are 40 MB/s.
    assert_eq!(run.harvest(1000, 10, 100), 0);
    assert_eq!(run.harvest(1000, 90_000, 100), 95, "never more than max_percent");
    run.seen.round_bandwidth_bytes_per_s = None;
    assert_eq!(run.harvest(1000, 10, 100), 95, "nothing is judged without a bandwidth");
    assert_eq!(Played::new("stun").harvest(1000, 0, 0), 0, "a guest that writes nothing");
}

#[test]
fn soft_landing_throttles_at_a_low_for_a_moment() {
    let mut run = Played::new("soft-landing:lull=3,longest_ms=100,rest_ms=1000");
    // 100 MB/s drain 20 MB in 200 ms.
    let mut at = |residual_mb: u64| {
        run.seen.residual_pages = residual_mb * 1_000_000 / 4096;
        run.seen.residual_wire_bytes = residual_mb * 1_000_000;
        run.harvest(50, 1, 5)
    };
    assert_eq!([40, 30, 25].map(&mut at), [0, 0, 0], "of so few none is known to be low");
    assert_eq!(at(21), 0, "at a low, further away than it reaches");
    assert_eq!(at(22), 0, "not at a low");
    assert_eq!(at(20), 95, "at a low, within reach");
    assert_eq!([19, 9].map(&mut at), [95, 0], "for 100 ms");
    assert!((0..19).all(|_| at(3) == 0), "then it rests for a second");
    assert_eq!(at(3), 95);
}

#[test]
fn every_throttle_policy_is_described_and_built() {
    for info in throttles() {
        let policy = policy(info.name);
        assert_eq!((policy.name(), policy.fork().name()), (info.name, info.name));
        assert!(!info.rule.is_empty() && !info.source.is_empty());
    }
    assert_eq!([0.0, 0.75, 0.751, 1.0, -1.0].map(share), [0, 75, 76, 99, 0].map(Throttle::percent));
}
