// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Recorded guests in the pair: the curve, the costs, and that all of it is the same every time.

use std::time::Duration;

use super::{EncoderModel, Link, LinkChange, NeverStop, PairPlan, PairResult, run_guest};
use crate::policy::{PolicySpec, StopPolicy};
use crate::region::RegionTable;
use crate::report::Outcome;
use crate::session::SourceConfig;
use crate::sim::{Populated, ReplayOptions, Rng, TraceGuest, VirtualGuest};
use crate::trace::{MemoryTrace, PageContent, TickSource, TraceHeader, TraceTick};
use crate::units::{MigrationId, PageIndex, PageSize, Tick};

const PAGES: u64 = 2000;

/// Ten seconds in which some of the first 600 pages are written every 10 ms.
fn trace(pages_a_tick: u64) -> MemoryTrace {
    let mut rng = Rng::new(7);
    let tick = |number: u64| {
        let mut set = crate::bitmap::DenseBitmap::new(PAGES);
        (0..pages_a_tick).for_each(|_| set.set(PageIndex::new(rng.below(600))));
        TraceTick::new(Tick::from_nanos(number * 10_000_000), set.runs().collect())
    };
    MemoryTrace::new(TraceHeader::new(PAGES, "test"), (1..=1000).map(tick).collect())
}

fn migrate(
    trace: &MemoryTrace,
    policy: Box<dyn StopPolicy>,
    change: impl FnOnce(&mut PairPlan),
) -> PairResult {
    let options = ReplayOptions { populated: Populated::All, ..ReplayOptions::default() };
    migrate_guest(&mut TraceGuest::new(trace.clone(), &options).unwrap(), policy, change)
}

fn migrate_guest(
    guest: &mut dyn VirtualGuest,
    policy: Box<dyn StopPolicy>,
    change: impl FnOnce(&mut PairPlan),
) -> PairResult {
    let regions = RegionTable::single(PageSize::BASE, PAGES).unwrap();
    let config = SourceConfig::new(MigrationId::new(1), regions);
    let mut plan = PairPlan::for_guest(config, policy);
    plan.link = Link { bandwidth_bytes_per_s: 10e6, latency: Duration::from_micros(100) };
    change(&mut plan);
    run_guest(plan, guest)
}

fn policy(text: &str) -> Box<dyn StopPolicy> {
    PolicySpec::parse(text).unwrap().build()
}

fn sampled(plan: &mut PairPlan) {
    plan.sample_every = Some(Duration::from_millis(10));
}

#[test]
fn the_same_plan_gives_the_same_run_and_looking_changes_nothing() {
    let trace = trace(15);
    for name in ["qemu", "xen", "xen-legacy", "cloud-hypervisor"] {
        let first = migrate(&trace, policy(name), sampled);
        assert_eq!((first.outcome, &first.violations[..]), (Some(Outcome::HandedOver), &[][..]));
        assert_eq!(first, migrate(&trace, policy(name), sampled));
        let unseen = migrate(&trace, policy(name), |_| {});
        assert!(unseen.curve.is_empty() && first.curve.len() > 50);
        assert_eq!(PairResult { curve: Vec::new(), ..first }, unseen);
    }
}

#[test]
fn a_log_of_the_ends_is_the_log_without_its_middle() {
    let trace = trace(15);
    for name in ["qemu", "xen"] {
        let whole = migrate(&trace, policy(name), |_| {});
        let mut ends = migrate(&trace, policy(name), |plan| plan.keep_log = false);
        let (first, last) = (whole.decisions.first().unwrap(), whole.decisions.last().unwrap());
        assert!(whole.decided > 3 && whole.decided == whole.decisions.len() as u64);
        assert_eq!(ends.decisions, [first.clone(), last.clone()]);
        let kept = whole.rounds.iter().filter(|round| round.round == 0 || round.paused);
        assert_eq!(ends.rounds, kept.cloned().collect::<Vec<_>>());
        (ends.decisions, ends.rounds) = (whole.decisions.clone(), whole.rounds.clone());
        assert_eq!(ends, whole);
    }
}

#[test]
fn nobody_writes_and_the_curve_falls_with_the_link() {
    let ran = migrate(&trace(0), policy("xen"), sampled);
    assert_eq!(ran.curve[0].stale_pages, PAGES);
    for point in ran.curve.iter().filter(|p| p.stale_pages > 0) {
        // What has left the link but not arrived, and what a frame holds back, is small.
        let sent = point.sent_wire_bytes.div_ceil(4096 + 24);
        let stale = PAGES.saturating_sub(sent);
        assert!(point.stale_pages >= stale && point.stale_pages <= stale + 3 * 128, "{point:?}");
    }
    assert!(ran.curve.last().is_some_and(|p| p.stale_pages < 50), "24 pages in 10 ms");
    assert!(ran.curve.is_sorted_by(|a, b| a.at < b.at));
}

#[test]
fn a_run_that_nobody_stops_ends_on_time_with_its_curve() {
    let never = Box::new(NeverStop::new(Duration::from_secs(3)));
    let ran = migrate(&trace(40), never, sampled);
    assert_eq!(ran.outcome, Some(Outcome::SourceKeepsRunning));
    assert_eq!(ran.violations, [], "giving up is no breach");
    assert!((295..=302).contains(&ran.curve.len()), "{}", ran.curve.len());
    let (low, high) = ran.curve[150..].iter().fold((u64::MAX, 0), |(low, high), point| {
        (low.min(point.stale_pages), high.max(point.stale_pages))
    });
    // About 4000 pages of 600 are written a second, 2400 sent: rounds level off at some 2/3.
    assert!(low > 200 && high < 600, "{low} to {high}");
}

#[test]
fn faults_and_throttles_cost_the_guest_time() {
    let trace = trace(15);
    let free = migrate(&trace, policy("xen"), |_| {});
    assert_eq!(free.guest_lost, Duration::ZERO);
    let fault = Duration::from_micros(100);
    let slow = migrate(&trace, policy("xen"), |plan| plan.fault_cost = fault);
    let faults = slow.guest_lost.as_nanos() / fault.as_nanos();
    assert!(faults > 200 && faults <= u128::from(slow.guest_writes), "{faults}");
    assert!(slow.guest_writes < free.guest_writes, "it got less done");
}

#[test]
fn a_drop_of_the_link_takes_longer_and_jitter_is_the_seeds() {
    let trace = trace(15);
    let steady = migrate(&trace, policy("xen"), |_| {});
    let drop = LinkChange { after: Duration::from_millis(200), bandwidth_bytes_per_s: 5e6 };
    let dropped = migrate(&trace, policy("xen"), |plan| plan.link_habits.changes.push(drop));
    let took = |ran: &PairResult| ran.rounds[0].duration.as_secs_f64();
    // 8.25 MB: 2 of them before the drop.
    assert!((took(&steady) - 0.825).abs() < 0.01, "{}", took(&steady));
    assert!((took(&dropped) - 1.45).abs() < 0.02, "{}", took(&dropped));
    let jittery = |seed| {
        migrate(&trace, policy("xen"), |plan| {
            plan.link_habits.jitter = Duration::from_millis(3);
            plan.link_habits.seed = seed;
        })
    };
    let (one, other) = (jittery(1), jittery(2));
    assert_eq!(one, jittery(1));
    assert_ne!(one.log_hash, other.log_hash);
    assert_eq!((one.violations.len(), other.violations.len()), (0, 0));
}

#[test]
fn a_trace_that_breaks_off_writes_nothing_more() {
    let whole = trace(15);
    let ran = |readable: usize| {
        let source = BreaksOff { trace: whole.clone(), readable };
        let options = ReplayOptions { populated: Populated::All, ..ReplayOptions::default() };
        let mut guest = TraceGuest::new(source, &options).unwrap();
        let ran = migrate_guest(&mut guest, policy("xen"), |_| {});
        assert_eq!((ran.outcome, ran.violations.len()), (Some(Outcome::HandedOver), 0));
        (ran.guest_writes, guest.take_error())
    };
    let (few, broken) = ran(3);
    let written: u64 = whole.ticks()[..3].iter().map(TraceTick::pages).sum();
    assert_eq!((few, broken), (written, Some(Broken)));
    let (many, sound) = ran(usize::MAX);
    assert!(many > few && sound.is_none(), "{many} {few}");
}

/// A trace of which so many ticks can be read.
#[derive(Debug)]
struct BreaksOff {
    trace: MemoryTrace,
    readable: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("The trace breaks off")]
struct Broken;

impl TickSource for BreaksOff {
    type Error = Broken;

    fn header(&self) -> &TraceHeader {
        self.trace.header()
    }

    fn next_tick(&mut self, tick: &mut TraceTick) -> Result<bool, Broken> {
        self.readable = self.readable.checked_sub(1).ok_or(Broken)?;
        let Ok(more) = self.trace.next_tick(tick);
        Ok(more)
    }

    fn seek(&mut self, to: Tick) -> Result<(), Broken> {
        let Ok(()) = self.trace.seek(to);
        Ok(())
    }

    fn end(&self) -> Option<Tick> {
        self.trace.end()
    }
}

#[test]
fn a_link_that_never_comes_back_ends_by_the_time_outs() {
    let outage = LinkChange { after: Duration::from_millis(200), bandwidth_bytes_per_s: 0.0 };
    let ran = migrate(&trace(15), policy("xen"), |plan| plan.link_habits.changes.push(outage));
    assert_eq!(
        (ran.outcome, ran.violations.len()),
        (Some(Outcome::SourceKeepsRunning), 0),
        "{ran:?}"
    );
}

#[test]
fn contents_decide_what_an_encoder_sends() {
    let untold = trace(15);
    let ticks = untold.ticks().iter().map(|tick| {
        let mut tick = tick.clone();
        tick.content = tick.runs.iter().map(|run| (*run, PageContent::Delta(96))).collect();
        tick
    });
    let told = MemoryTrace::new(TraceHeader::new(PAGES, "told"), ticks.collect());
    let sent = |trace: &MemoryTrace, encoder: EncoderModel| {
        let ran = migrate(trace, policy("xen"), |plan| plan.encoder = encoder);
        assert_eq!((ran.outcome, ran.violations.len()), (Some(Outcome::HandedOver), 0));
        ran.totals
    };
    let delta = EncoderModel::Delta { unknown_bytes: 4096 };
    let plain = sent(&trace(15), EncoderModel::ZeroAware);
    assert_eq!(sent(&told, EncoderModel::Raw), plain, "no page is empty");
    assert_eq!(sent(&trace(15), delta), plain, "nobody knows what changed");
    // What is sent again weighs a few writes' deltas, so that rounds get shorter, too.
    let small = sent(&told, delta);
    let (again, weight) = (small.sent_pages - PAGES, small.wire_bytes - PAGES * 4120);
    assert!(again > 100 && weight / again < 600, "{weight} bytes for {again} pages");
    let guessed = sent(&trace(15), EncoderModel::Delta { unknown_bytes: 400 });
    assert!(guessed.wire_bytes < plain.wire_bytes);
}
