// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O2: the best stop, bounds that cannot be kept, and fronts.

use std::time::Duration;

use proptest::prelude::*;

use crate::sim::oracle::{Axis, CostCurve, CostPoint, Infeasible, Weights};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn point(at_ms: u64, downtime_ms: u64, sent_bytes: f64, guest_loss_s: f64) -> CostPoint {
    CostPoint {
        at: ms(at_ms),
        residual_pages: downtime_ms as f64,
        residual_bytes: downtime_ms as f64 * 1e6,
        sent_bytes,
        guest_loss_s,
        downtime: ms(downtime_ms),
    }
}

fn curve() -> CostCurve {
    CostCurve::new(vec![
        point(0, 2000, 0.0, 0.0),
        point(1000, 600, 1e9, 0.0),
        point(2000, 300, 2e9, 0.1),
        point(3000, 450, 3e9, 0.2),
        point(9000, 100, 9e9, 2.0),
    ])
}

fn at(found: Result<CostPoint, Infeasible>) -> Duration {
    found.unwrap().at
}

#[test]
fn weights_decide_the_best_stop() {
    let best = |time: f64, bytes: f64, loss: f64| {
        let weights =
            Weights { time_ms_per_s: time, bytes_ms_per_gib: bytes, guest_loss_ms_per_s: loss };
        at(curve().best(&weights))
    };
    assert_eq!(best(0.0, 0.0, 0.0), ms(9000));
    assert_eq!(best(100.0, 0.0, 0.0), ms(2000), "200 ms for 6.8 s are not worth it");
    assert_eq!(best(0.0, 100.0, 0.0), ms(2000));
    assert_eq!(best(0.0, 0.0, 500.0), ms(2000));
    assert_eq!(best(0.0, 1e6, 0.0), ms(1000), "fewest bytes: 1.6 GB");
    assert_eq!(best(1e6, 0.0, 0.0), ms(1000), "soonest end: 1.6 s");
    let cost = curve().points()[2].cost_ms(&Weights {
        time_ms_per_s: 10.0,
        bytes_ms_per_gib: 1.0,
        guest_loss_ms_per_s: 100.0,
    });
    let by_hand = 300.0 + 10.0 * 2.3 + 2.3e9 / f64::from(1 << 30) + 100.0 * 0.1;
    assert!((cost - by_hand).abs() < 1e-9, "{cost}");
}

#[test]
fn bounds_are_kept_or_reported() {
    let curve = curve();
    assert_eq!(at(curve.soonest_within(ms(450))), ms(2000));
    assert_eq!(at(curve.soonest_within(ms(299))), ms(9000));
    assert_eq!(at(curve.least_downtime_by(ms(9099))), ms(2000));
    assert_eq!(at(curve.least_downtime_by(ms(9100))), ms(9000));
    assert_eq!(at(curve.least_bytes(ms(700), ms(5000))), ms(1000));
    assert_eq!(at(curve.least_bytes(ms(450), ms(5000))), ms(2000));

    let why = curve.soonest_within(ms(99)).unwrap_err();
    assert_eq!(
        why.to_string(),
        "No pause of 99 ms or less can be reached; the shortest takes 100 ms, 9 s after the start"
    );
    let why = curve.least_bytes(ms(200), ms(5000)).unwrap_err();
    let told = Infeasible::Downtime { budget: ms(200), least: ms(300), at: ms(2000) };
    assert_eq!(why, told, "the deadline counts");
    let why = curve.least_downtime_by(ms(1500)).unwrap_err();
    assert_eq!(why, Infeasible::Deadline { deadline: ms(1500), least: ms(1600) });
    assert_eq!(why.to_string(), "No stop ends within 1.5 s; the earliest ends after 1.6 s");
    let empty = CostCurve::default();
    assert_eq!(empty.best(&Weights::default()), Err(Infeasible::Empty));
    assert_eq!(empty.soonest_within(ms(1)), Err(Infeasible::Empty));
    assert_eq!(empty.least_downtime_by(ms(1)), Err(Infeasible::Empty));
}

#[test]
fn a_front_has_what_nothing_beats() {
    let front = |axis| curve().front(axis).iter().map(|p| p.at.as_millis()).collect::<Vec<_>>();
    assert_eq!(front(Axis::TotalTime), [1000, 2000, 9000], "stopping at once ends later");
    assert_eq!(front(Axis::Bytes), [1000, 2000, 9000]);
    assert_eq!(front(Axis::GuestLoss), [1000, 2000, 9000]);
    // Times 1.6, 2.3, 9.1 of 10 s; downtimes 0.6, 0.3, 0.1 of 1 s.
    let area = curve().hypervolume(Axis::TotalTime, 10.0, 1.0);
    let by_hand = (0.7 * 0.4 + 6.8 * 0.7 + 0.9 * 0.9) / 10.0;
    assert!((area - by_hand).abs() < 1e-9, "{area}, by hand {by_hand}");
    assert!(curve().hypervolume(Axis::TotalTime, 1.0, 1.0).abs() < 1e-12, "all of it is outside");
    assert!(curve().hypervolume(Axis::TotalTime, 0.0, 1.0).abs() < 1e-12);
}

proptest! {
    #[test]
    fn every_question_is_answered_as_by_looking_at_all(
        points in prop::collection::vec((1u64..50, 0u64..40, 0u32..40, 0u32..5), 0..30),
        budget in 0u64..50,
        deadline in 0u64..1500,
    ) {
        let mut now = 0;
        let all: Vec<CostPoint> = points.iter().map(|(step, downtime, sent, loss)| {
            now += step;
            point(now, *downtime, f64::from(*sent) * 1e6, f64::from(*loss))
        }).collect();
        let curve = CostCurve::new(all.clone());
        let (budget, deadline) = (ms(budget), ms(deadline));
        let quick = all.iter().filter(|p| p.downtime <= budget).map(CostPoint::total_time).min();
        let found = curve.soonest_within(budget).ok();
        prop_assert_eq!(found.map(|p| p.total_time()), quick);
        prop_assert!(found.is_none_or(|p| p.downtime <= budget));
        let in_time = |p: &&CostPoint| p.total_time() <= deadline;
        let short = all.iter().filter(in_time).map(|p| p.downtime).min();
        let found = curve.least_downtime_by(deadline).ok();
        prop_assert_eq!(found.map(|p| p.downtime), short);
        prop_assert!(found.is_none_or(|p| p.total_time() <= deadline));
        for axis in [Axis::TotalTime, Axis::Bytes, Axis::GuestLoss] {
            let measure = |p: &CostPoint| match axis {
                Axis::TotalTime => p.total_time().as_secs_f64(),
                Axis::Bytes => p.total_bytes(),
                _ => p.guest_loss_s,
            };
            let beaten = |p: &CostPoint| all.iter().any(|q| {
                let (x, y) = (measure(q), measure(p));
                (x < y && q.downtime <= p.downtime) || (x <= y && q.downtime < p.downtime)
            });
            let front = curve.front(axis);
            prop_assert!(front.iter().all(|p| !beaten(p)));
            let mut best: Vec<_> = all.iter().filter(|p| !beaten(p)).map(|p| p.downtime).collect();
            best.sort();
            best.dedup();
            prop_assert_eq!(front.len(), best.len(), "one for each downtime worth having");
        }
    }
}
