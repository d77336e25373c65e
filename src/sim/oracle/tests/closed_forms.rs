// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Closed forms against their defining equations, published figures and O1.

use std::time::Duration;

use crate::bitmap::DenseBitmap;
use crate::sim::Rng;
use crate::sim::oracle::theory::{
    Geometric, RequestCost, clairvoyant_share, continuous_share, deadline_reservations, lambert_w0,
    mccall_reservation, next_round_share, rounds_plateau,
};
use crate::sim::oracle::{Clairvoyant, Release, page_rates, rate_oracle};
use crate::trace::{MemoryTrace, TraceHeader, TraceTick};
use crate::units::{PageIndex, PageRun, Tick};

fn close(got: f64, expected: f64, within: f64) {
    assert!((got - expected).abs() <= within, "{got}, expected {expected}");
}

#[test]
fn lambert_w_solves_its_equation() {
    let branch_point = -(-1.0f64).exp();
    for z in [-0.36, -0.2, -1e-9, 0.0, 1e-9, 0.5, 1.0, 3.0, 1e3, 1e100] {
        let x = lambert_w0(z);
        assert!(x >= -1.0);
        close(x * x.exp(), z, 1e-12 * z.abs().max(1e-3));
    }
    close(lambert_w0(branch_point), -1.0, 1e-6);
    close(lambert_w0(1.0), 0.567_143_290_409_783_8, 1e-14);
    close(lambert_w0(std::f64::consts::E), 1.0, 1e-14);
    assert!(lambert_w0(-0.4).is_nan() && lambert_w0(f64::NAN).is_nan());
}

/// heuristics.md 2.2, the table's predictions.
#[test]
fn the_predictions_of_the_table() {
    let table = [(1.5, 0.583, 0.333, 0.063), (2.0, 0.797, 0.5, 0.153), (4.0, 0.980, 0.75, 0.403)];
    for (lambda, rounds, continuous, clairvoyant) in table {
        close(rounds_plateau(lambda), rounds, 6e-4);
        close(continuous_share(lambda), continuous, 6e-4);
        close(clairvoyant_share(lambda), clairvoyant, 6e-4);
        let plateau = rounds_plateau(lambda);
        close(next_round_share(lambda, plateau), plateau, 1e-12);
        // Any first round comes to the same.
        let settled = (0..500).fold(1.0, |v, _| next_round_share(lambda, v));
        close(settled, plateau, 1e-9);
    }
    for lambda in [0.3, 1.0] {
        close(rounds_plateau(lambda), 0.0, 0.0);
        close(continuous_share(lambda), 0.0, 0.0);
        close(clairvoyant_share(lambda), 0.0, 0.0);
    }
}

#[test]
fn the_geometric_model_by_hand() {
    // 1000 + 500 + 250 + 125 pages live, 62.5 in the pause.
    let model = Geometric {
        pages: 1000.0,
        lambda: 0.5,
        link_pages_per_s: 100.0,
        stop_link_pages_per_s: 50.0,
        fixed_downtime: Duration::from_millis(500),
    };
    let ran = model.until(100.0).unwrap();
    assert_eq!(ran.rounds, 4);
    close(ran.residual_pages, 62.5, 1e-9);
    close(ran.sent_pages, 1937.5, 1e-9);
    close(ran.downtime_s, 0.5 + 1.25, 1e-9);
    close(ran.total_s, 18.75 + 1.75, 1e-9);
    assert_eq!(model.after(4), ran);
    assert_eq!(model.until(2000.0).unwrap().rounds, 0);
    assert!(Geometric { lambda: 1.2, ..model }.until(10.0).is_none());
    close(Geometric { lambda: 2.0, ..model }.after(2).sent_pages, 3000.0 + 4000.0, 1e-9);
}

#[test]
fn requests_pay_for_the_square_of_a_pause() {
    let cost = RequestCost { requests_per_s: 100.0, utilisation: 0.5 };
    let ms = Duration::from_millis;
    close(cost.delay_sum_s(ms(100)), 1.0, 1e-12);
    close(2.0 * cost.delay_sum_s(ms(50)), 0.5 * cost.delay_sum_s(ms(100)), 1e-12);
    close(cost.late_requests(ms(100), ms(40)), 12.0, 1e-9);
    close(cost.late_requests(ms(30), ms(40)), 0.0, 0.0);
}

/// heuristics.md 2.2, the column of the clairvoyant, from O1 on uniform writes.
#[test]
fn the_clairvoyant_of_uniform_writes() {
    const PAGES: u64 = 60_000;
    const LINK: f64 = 30_000.0;
    const TICK_S: f64 = 0.001;
    for (lambda, seed) in [(1.5, 1), (2.0, 2), (4.0, 3)] {
        let mut rng = Rng::new(seed);
        let mut oracle = Clairvoyant::new(PAGES, None, 0.0, Release::TickEnd).unwrap();
        let (mut sum, mut seen, mut due) = (0.0, 0u32, 0.0);
        for tick in 1..=30_000u32 {
            let mut set = DenseBitmap::new(PAGES);
            due += lambda * LINK * TICK_S;
            while due >= 1.0 {
                due -= 1.0;
                set.set(PageIndex::new(rng.below(PAGES)));
            }
            let runs: Vec<_> = set.runs().collect();
            let residual = oracle.tick(f64::from(tick) * LINK * TICK_S, &runs).unwrap();
            if tick > 10_000 {
                sum += residual.after_pages / PAGES as f64;
                seen += 1;
            }
        }
        close(sum / f64::from(seen), clairvoyant_share(lambda), 0.01);
    }
}

/// heuristics.md 2.3: a Zipf set, an allocator's ring, uniform noise.
#[test]
fn the_rate_oracle_of_the_example() {
    let told = rate_oracle(example_rates(), 30_000.0);
    assert!(told.hot_pages.abs_diff(622) <= 3, "{told:?}");
    close(told.hot_pages as f64 / 30_000.0, 0.021, 0.0005);
}

/// 1 GiB: 60,000 pages with 60,000 writes/s by Zipf .99; a ring of 40,000 pages at 4,000
/// writes/s; 1,500 writes/s anywhere.
fn example_rates() -> impl Iterator<Item = f64> {
    const PAGES: u32 = 262_144;
    let zipf = |rank: u32| f64::from(rank + 1).powf(-0.99);
    let all: f64 = (0..60_000).map(zipf).sum();
    (0..PAGES).map(move |page| {
        let hot = if page < 60_000 { 60_000.0 * zipf(page) / all } else { 0.0 };
        let ring = if (60_000..100_000).contains(&page) { 4_000.0 / 40_000.0 } else { 0.0 };
        hot + ring + 1_500.0 / f64::from(PAGES)
    })
}

#[test]
fn the_rate_oracle_keeps_the_coldest_pages_clean() {
    let told = rate_oracle([10.0, 1.0, 4.0, 2.0], 5.0);
    assert_eq!((told.hot_pages, told.sends_per_s), (2, 3.0), "{told:?}");
    close(told.residual_pages, 2.0 - 0.5, 1e-12);
    let told = rate_oracle([10.0, f64::NAN, 4.0], 100.0);
    assert_eq!((told.hot_pages, told.residual_pages), (0, 0.0));
    assert_eq!(rate_oracle([3.0, 2.0], 0.0).hot_pages, 2);
}

#[test]
fn mccall_reservations_cost_what_they_say() {
    // Uniform on 0..1: c = xi^2 / 2.
    let uniform: Vec<f64> = (0..100_000).map(|i| (f64::from(i) + 0.5) / 1e5).collect();
    for cost in [0.02f64, 0.08, 0.32] {
        close(mccall_reservation(&uniform, cost).unwrap(), (2.0 * cost).sqrt(), 1e-4);
    }
    // Above the mean and its cost, every draw is taken.
    close(mccall_reservation(&uniform, 3.0).unwrap(), 3.5, 1e-9);
    close(mccall_reservation(&[5.0, 2.0, 9.0], 0.0).unwrap(), 2.0, 0.0);
    assert_eq!(mccall_reservation(&[], 1.0), None);
    assert_eq!(mccall_reservation(&[1.0], -1.0), None);

    // By simulation: the reservation costs itself, its neighbours cost more.
    let mut rng = Rng::new(5);
    let mut average = |level: f64| {
        let runs = 200_000;
        let mut sum = 0.0;
        for _ in 0..runs {
            loop {
                let x = rng.unit();
                sum += 0.08;
                if x <= level {
                    sum += x;
                    break;
                }
            }
        }
        sum / f64::from(runs)
    };
    let (at, below, above) = (average(0.4), average(0.25), average(0.6));
    close(at, 0.4, 0.005);
    assert!(at < below && at < above, "{at} {below} {above}");
}

#[test]
fn reservations_before_a_deadline() {
    let uniform: Vec<f64> = (0..10_000).map(|i| (f64::from(i) + 0.5) / 1e4).collect();
    let values = deadline_reservations(&uniform, 0.08, 200);
    assert_eq!(values.len(), 201);
    close(values[0], 0.5, 1e-9);
    // E[min(X, a)] = a - a^2/2 on 0..1.
    close(values[1], 0.58 - 0.58 * 0.58 / 2.0, 1e-6);
    assert!(values.is_sorted_by(|a, b| a >= b), "more looks never cost more");
    // Without a deadline: what going on costs is the reservation.
    close(values[200] + 0.08, mccall_reservation(&uniform, 0.08).unwrap(), 1e-4);
    assert!(deadline_reservations(&[], 0.1, 3).is_empty());
}

#[test]
fn a_traces_rates_are_counted_by_ticks() {
    let run = |at, pages| PageRun::new(PageIndex::new(at), pages);
    let tick = |ms: u64, runs| TraceTick::new(Tick::from_nanos(ms * 1_000_000), runs);
    let ticks = vec![tick(10, vec![run(0, 2)]), tick(20, vec![run(1, 1)]), tick(40, vec![])];
    let mut trace = MemoryTrace::new(TraceHeader::new(4, "test"), ticks);
    assert_eq!(page_rates(&mut trace).unwrap(), [25.0, 50.0, 0.0, 0.0]);
    let mut odd = MemoryTrace::new(TraceHeader::new(4, ""), vec![tick(10, vec![run(3, 2)])]);
    let error = page_rates(&mut odd).unwrap_err().to_string();
    assert_eq!(error, "Tick 1 names pages 3..5, but the guest has 4 pages");
    let mut empty = MemoryTrace::new(TraceHeader::new(4, ""), vec![]);
    assert!(page_rates(&mut empty).is_err());
}
