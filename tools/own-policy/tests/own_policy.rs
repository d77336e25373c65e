// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the example promises.

#![allow(clippy::unwrap_used, reason = "tests")]

use own_policy::lull::Lull;
use own_policy::{compare, live};
use precopy::policy::{Guards, Strategy, StrategySpec};
use precopy::report::{Outcome, ShadowOrder};
use precopy::session::Shadow;

fn own() -> Strategy {
    Strategy::new(Box::new(Lull::new(5)))
}

#[test]
fn the_policy_has_less_than_60_lines() {
    let lines = include_str!("../src/lull.rs").lines().count();
    assert!(lines < 60, "{lines}");
}

#[test]
fn it_pays_on_guests_that_write_in_bursts() {
    let (own, xen) = (
        compare::simulate(own).unwrap(),
        compare::simulate(|| StrategySpec::parse("xen").unwrap().build()).unwrap(),
    );
    assert_eq!((own.handed_over, xen.handed_over), (20, 20));
    assert!(own.downtime * 2 < xen.downtime, "{own:?} {xen:?}");
    let again = compare::simulate(self::own).unwrap();
    assert_eq!(own, again, "the simulator is exact");
}

#[test]
fn it_migrates_a_live_guest() {
    let shadow = |text: &str, strategy| Shadow { text: text.to_owned(), strategy };
    let qemu = StrategySpec::parse("qemu").unwrap().build();
    let guards = Guards::default();
    let shadows = vec![shadow("qemu", qemu), shadow("lull, too", own().guarded(&guards))];
    let report = live::migrate(own().guarded(&guards), shadows).unwrap();
    assert_eq!(report.outcome, Outcome::HandedOver, "{report:?}");
    assert_eq!(report.policy, "lull");
    let same = &report.shadows[1];
    assert_eq!(same.order, ShadowOrder::Shared);
    let last = report.decisions.last().unwrap();
    assert_eq!(same.stop.as_ref().unwrap().at, last.seen.now, "a shadow of itself stops with it");
}
