// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any guest in the pair: whose time goes how far, what it may write, what its traffic costs.

use std::time::Duration;

use super::{Disturbance, Link, NeverStop, PairPlan, PairResult, run_guest};
use crate::bitmap::DenseBitmap;
use crate::policy::{Observation, PolicySpec, StopPolicy, Verdict};
use crate::region::RegionTable;
use crate::report::Outcome;
use crate::session::SourceConfig;
use crate::sim::VirtualGuest;
use crate::units::{MigrationId, PageIndex, PageSize, RequestLoad, Throttle, Tick};

const PAGES: u64 = 2000;
const START: Tick = Tick::from_nanos(7_000_000_000);

/// Writes one page after the other, `writes_per_s` of them, and notes every call.
#[derive(Debug, Default)]
struct Noted {
    calls: Vec<(Tick, bool)>,
    writes_per_s: u64,
    service_bytes_per_s: f64,
    populated: Option<DenseBitmap>,
    writes_while_paused: bool,
    cursor: u64,
}

impl VirtualGuest for Noted {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        _throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        let from = self.calls.last().map_or(START, |(at, _)| *at);
        self.calls.push((until, running));
        let due = |t: Tick| t.since(START).as_micros() as u64 * self.writes_per_s / 1_000_000;
        if running || self.writes_while_paused {
            for _ in due(from)..due(until) {
                self.cursor = (self.cursor + 1) % PAGES;
                write(PageIndex::new(self.cursor));
            }
        }
    }

    fn service_bytes_per_s(&self) -> f64 {
        self.service_bytes_per_s
    }

    fn populated(&self) -> Option<DenseBitmap> {
        self.populated.clone()
    }

    fn requests(&self) -> Option<RequestLoad> {
        Some(RequestLoad { in_flight: self.calls.len() as u32, answered: 0 })
    }
}

fn migrate(guest: &mut Noted, change: impl FnOnce(&mut PairPlan)) -> PairResult {
    let regions = RegionTable::single(PageSize::BASE, PAGES).unwrap();
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let policy = PolicySpec::parse("xen-legacy").unwrap().build();
    let mut plan = PairPlan::for_guest(config, policy);
    plan.starts_at = START;
    plan.link = Link { bandwidth_bytes_per_s: 10e6, latency: Duration::from_micros(100) };
    change(&mut plan);
    run_guest(plan, guest)
}

fn last(guest: &Noted) -> Tick {
    guest.calls.last().map_or(START, |(at, _)| *at)
}

fn goes_on(guest: &Noted) {
    let times: Vec<Tick> = std::iter::once(START).chain(guest.calls.iter().map(|c| c.0)).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "a guest's time goes on");
}

#[test]
fn the_guest_is_left_where_the_destination_resumed_it() {
    let mut guest = Noted { writes_per_s: 500, ..Noted::default() };
    let ran = migrate(&mut guest, |_| {});
    assert_eq!((ran.outcome, ran.violations.len()), (Some(Outcome::HandedOver), 0), "{ran:?}");
    goes_on(&guest);
    let (paused, resumed) = (ran.paused_at.unwrap(), ran.resumed_at.unwrap());
    assert_eq!(Some(resumed.since(paused)), ran.downtime);
    assert!(resumed < ran.ended_at, "the source hears of it later");
    assert_eq!(last(&guest), resumed, "its owner goes on from the resume");
    let stood: Vec<Tick> = guest.calls.iter().filter(|c| !c.1).map(|c| c.0).collect();
    assert!(stood.iter().all(|at| *at > paused) && stood.len() > 1, "{stood:?} {paused:?}");
    assert!(ran.guest_writes > 0 && ran.totals.rounds > 1);
    // The first is asked about the populated pages, before any harvest.
    let seen: Vec<_> = ran.decisions[1..].iter().map(|d| d.seen.requests).collect();
    assert!(seen.iter().all(Option::is_some), "policies see the requests: {seen:?}");
}

#[test]
fn a_guest_that_stays_has_run_until_the_end() {
    let mut guest = Noted { writes_per_s: 500, ..Noted::default() };
    let half_way = START + Duration::from_millis(300);
    let ran = migrate(&mut guest, |p| p.disturbances.push((half_way, Disturbance::CutLink)));
    assert_eq!((ran.outcome, ran.violations.len()), (Some(Outcome::SourceKeepsRunning), 0));
    goes_on(&guest);
    assert_eq!((ran.resumed_at, last(&guest)), (None, ran.ended_at));
    assert_eq!(guest.calls.last().map(|c| c.1), Some(true));
    assert!(ran.ended_at > half_way);
}

/// Gives up in the pre-flight.
#[derive(Clone, Debug)]
struct Unwilling;

impl StopPolicy for Unwilling {
    fn name(&self) -> &'static str {
        "unwilling"
    }

    fn judge(&mut self, _seen: &Observation) -> Verdict {
        Verdict::stop("not reached")
    }

    fn preflight(&mut self, _seen: &Observation) -> Verdict {
        Verdict::give_up("busy")
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// The flag hangs on no wording.
#[test]
fn who_gives_up_is_told_from_who_fails() {
    let ran = |change: &dyn Fn(&mut PairPlan)| {
        let ran = migrate(&mut Noted { writes_per_s: 500, ..Noted::default() }, |p| change(p));
        (ran.outcome, ran.gave_up, ran.violations.len())
    };
    let kept = Some(Outcome::SourceKeepsRunning);
    let never = |p: &mut PairPlan| {
        p.strategy.stop = Box::new(NeverStop::new(Duration::from_secs(2)));
    };
    assert_eq!(ran(&never), (kept, true, 0));
    let before = |p: &mut PairPlan| {
        p.strategy.stop = Box::new(Unwilling);
        p.source.preflight = Duration::from_secs(1);
    };
    assert_eq!(ran(&before), (kept, true, 0));
    let cut = |p: &mut PairPlan| {
        p.disturbances.push((START + Duration::from_millis(300), Disturbance::CutLink));
    };
    assert_eq!(ran(&cut), (kept, false, 0));
    assert_eq!(ran(&|_| {}), (Some(Outcome::HandedOver), false, 0));
}

#[test]
fn a_paused_guest_writes_nothing() {
    let mut guest = Noted { writes_per_s: 500, writes_while_paused: true, ..Noted::default() };
    let ran = migrate(&mut guest, |_| {});
    assert_eq!(ran.outcome, Some(Outcome::HandedOver), "the writes were not taken");
    let broken: Vec<_> = ran.violations.iter().map(|v| v.rule).collect();
    assert_eq!(broken, ["guest"], "{:?}", ran.violations);
}

#[test]
fn an_idle_guest_with_few_pages_sends_just_these() {
    let mut populated = DenseBitmap::new(PAGES);
    (100..350).for_each(|p| populated.set(PageIndex::new(p)));
    let mut guest = Noted { populated: Some(populated), ..Noted::default() };
    let ran = migrate(&mut guest, |_| {});
    assert_eq!(ran.totals.sent_pages, 250);
    let mut guest = Noted { populated: Some(DenseBitmap::new(PAGES - 1)), ..Noted::default() };
    let ran = migrate(&mut guest, |_| {});
    assert!(ran.violations[0].what.contains("1999 pages"), "{:?}", ran.violations);
}

#[test]
fn service_traffic_takes_its_share_of_the_link() {
    let took = |service_bytes_per_s: f64| {
        let mut guest = Noted { service_bytes_per_s, ..Noted::default() };
        let ran = migrate(&mut guest, |_| {});
        ran.rounds[0].duration.as_secs_f64()
    };
    // 2000 pages of 4096 + 24 bytes, and 32 for each frame of 128 pages or fewer.
    let bytes = 2000.0 * 4120.0 + 32.0 * 16.0;
    for (service, left) in [(0.0, 10e6), (4e6, 6e6), (9.8e6, 0.5e6), (1e12, 0.5e6)] {
        let (took, expected) = (took(service), bytes / left);
        let off = (took - expected) / expected;
        assert!((0.0..0.005).contains(&off), "{service}: {took} s, by hand {expected} s");
    }
    let link = Link { bandwidth_bytes_per_s: 100.0, latency: Duration::ZERO };
    for odd in [f64::NAN, -1.0, 0.0] {
        assert!((link.beside(odd) - 100.0).abs() < 1e-12);
    }
    assert!((link.beside(f64::INFINITY) - 5.0).abs() < 1e-12);
}

/// A day on a slow link is no liveness bug.
#[test]
fn a_large_guest_may_take_days() {
    const LARGE: u64 = 2 << 20;
    let regions = RegionTable::single(PageSize::BASE, LARGE).unwrap();
    let config = SourceConfig::new(MigrationId::new(9), regions);
    let policy = PolicySpec::parse("fixed-rounds:rounds=2").unwrap().build();
    let mut plan = PairPlan::for_guest(config, policy);
    plan.link.bandwidth_bytes_per_s = 100_000.0;
    let result = run_guest(plan, &mut Noted::default());
    assert_eq!(result.outcome, Some(Outcome::HandedOver), "{:?}", result.failure);
    assert!(result.ended_at > Tick::ZERO + Duration::from_secs(20 * 3600), "{:?}", result.ended_at);
    assert!(result.violations.is_empty(), "{:?}", result.violations);
}
