// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays against what the trace says.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::{Populated, Replay, ReplayOptions, TraceGuest, touched_pages};
use crate::bitmap::DenseBitmap;
use crate::sim::VirtualGuest;
use crate::trace::{MemoryTrace, TraceHeader, TraceTick};
use crate::units::{PageIndex, PageRun, Throttle, Tick};

const PAGES: u64 = 300;

fn at(ms: u64) -> Tick {
    Tick::from_nanos(ms * 1_000_000)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Ticks that end at these milliseconds, each with these pages.
fn trace(ticks: &[(u64, &[(u64, u64)])]) -> MemoryTrace {
    let tick = |(end, runs): &(u64, &[(u64, u64)])| {
        let runs = runs.iter().map(|(from, to)| PageRun::from_range(*from..*to)).collect();
        TraceTick::new(at(*end), runs)
    };
    MemoryTrace::new(TraceHeader::new(PAGES, "test"), ticks.iter().map(tick).collect())
}

/// Runs it to `until` and says what it wrote.
fn run(guest: &mut TraceGuest<MemoryTrace>, until: u64, throttle: u8) -> Vec<u64> {
    let mut wrote = Vec::new();
    let throttle = Throttle::percent(throttle);
    guest.run(at(until), true, throttle, &mut |page| wrote.push(page.get()));
    wrote
}

fn sorted(mut pages: Vec<u64>) -> Vec<u64> {
    pages.sort_unstable();
    pages
}

fn pause(guest: &mut TraceGuest<MemoryTrace>, until: u64) {
    guest.run(at(until), false, Throttle::NONE, &mut |page| panic!("wrote {page}"));
}

#[test]
fn a_tick_writes_its_pages_once_and_evenly() {
    let trace = trace(&[(10, &[(0, 50), (100, 150)]), (20, &[]), (30, &[(7, 8)])]);
    let mut guest = TraceGuest::new(trace, &ReplayOptions::default()).unwrap();
    let first = run(&mut guest, 3, 0);
    assert_eq!(first.len(), 30);
    // All over the tick's pages, not from one end to the other.
    assert!(first.iter().any(|p| *p < 25) && first.iter().any(|p| *p >= 125), "{first:?}");
    let mut all = first;
    all.extend(run(&mut guest, 10, 0));
    assert_eq!(sorted(all), (0..50).chain(100..150).collect::<Vec<_>>());
    assert_eq!(run(&mut guest, 29, 0), Vec::<u64>::new());
    assert_eq!(run(&mut guest, 30, 0), [7]);
    // Again from the beginning.
    assert_eq!(run(&mut guest, 40, 0).len(), 100);
    assert_eq!(guest.position(), ms(40));
}

#[test]
fn a_replay_begins_in_the_middle_and_goes_round() {
    let trace = trace(&[(10, &[(0, 10)]), (20, &[(10, 20)]), (30, &[(20, 30)])]);
    let mut guest =
        TraceGuest::new(trace.clone(), &ReplayOptions::at(ms(45))).expect("memory does not fail");
    assert_eq!(run(&mut guest, 5, 0).len(), 5, "the second half of the second tick");
    assert_eq!(sorted(run(&mut guest, 15, 0)), (20..30).collect::<Vec<_>>());
    assert_eq!(sorted(run(&mut guest, 25, 0)), (0..10).collect::<Vec<_>>());
    let options = ReplayOptions { starts_at: at(1000), ..ReplayOptions::at(ms(10)) };
    let mut guest = TraceGuest::new(trace, &options).unwrap();
    assert_eq!(sorted(run(&mut guest, 1010, 0)), (10..20).collect::<Vec<_>>());
}

#[test]
fn a_stretched_guest_stands_still_and_an_open_one_catches_up() {
    let ticks: Vec<(u64, &[(u64, u64)])> =
        (1..=100).map(|tick| (tick * 10, [(0, 100)].as_slice())).collect();
    let trace = trace(&ticks);
    let mut guest = TraceGuest::new(trace.clone(), &ReplayOptions::default()).unwrap();
    assert_eq!(run(&mut guest, 10, 90).len(), 10);
    pause(&mut guest, 60);
    assert_eq!(run(&mut guest, 70, 0).len(), 100, "nothing came in while it stood");
    guest.lose(ms(4));
    assert_eq!(run(&mut guest, 80, 0).len(), 60, "4 ms were taken");
    assert_eq!(run(&mut guest, 90, 0).len(), 100);

    let replay = Replay::OpenLoop { pace_max: 2.0, queue_max: ms(30) };
    let options = ReplayOptions { replay, ..ReplayOptions::default() };
    let mut guest = TraceGuest::new(trace, &options).unwrap();
    assert_eq!(run(&mut guest, 10, 90).len(), 20, "twice the pace, a tenth of the time");
    assert_eq!(guest.queued(), ms(8));
    pause(&mut guest, 20);
    assert_eq!(guest.queued(), ms(18));
    assert_eq!(run(&mut guest, 30, 0).len(), 200);
    assert_eq!(run(&mut guest, 40, 0).len(), 180, "the queue is empty");
    pause(&mut guest, 500);
    assert_eq!(guest.queued(), ms(30), "the others gave up");
    assert_eq!(run(&mut guest, 540, 0).len(), 700);
}

#[test]
fn populated_pages_come_from_the_header_the_trace_or_a_share() {
    let mut trace = trace(&[(10, &[(0, 10)]), (20, &[(20, 30)])]);
    let touched = touched_pages(&mut trace).unwrap();
    assert_eq!(touched.count(), 20);
    let pages = |trace: &MemoryTrace, populated: Populated| {
        let options = ReplayOptions { populated, ..ReplayOptions::default() };
        let guest = TraceGuest::new(trace.clone(), &options).unwrap();
        guest.populated().unwrap()
    };
    assert_eq!(pages(&trace, Populated::Touched), touched);
    assert_eq!(pages(&trace, Populated::All).count(), PAGES);
    assert_eq!(pages(&trace, Populated::Share(1.0)).count(), PAGES);
    assert_eq!(pages(&trace, Populated::Share(0.0)), touched);
    let one = DenseBitmap::full(PAGES);
    assert_eq!(pages(&trace, Populated::Set(one.clone().into())), one);
    let mut header = TraceHeader::new(PAGES, "test");
    header.populated = Some(vec![PageRun::from_range(100..150)]);
    let told = MemoryTrace::new(header, trace.ticks().to_vec());
    assert_eq!(pages(&told, Populated::Header).count(), 70, "what is written was there");
}

#[test]
fn a_share_is_a_share() {
    let trace = MemoryTrace::new(
        TraceHeader::new(1 << 20, "test"),
        vec![TraceTick::new(at(10), vec![PageRun::from_range(5..6)])],
    );
    for share in [0.1, 0.2, 0.5, 0.9] {
        let options =
            ReplayOptions { populated: Populated::Share(share), ..ReplayOptions::default() };
        let got = TraceGuest::new(trace.clone(), &options).unwrap().populated().unwrap().count();
        let got = got as f64 / f64::from(1 << 20);
        assert!((got - share).abs() < 0.01, "{share}: {got}");
    }
}

#[test]
fn an_empty_trace_and_pages_past_the_end_write_nothing() {
    let mut guest = TraceGuest::new(trace(&[]), &ReplayOptions::at(ms(7))).unwrap();
    assert_eq!(run(&mut guest, 1000, 0), Vec::<u64>::new());
    let mut guest =
        TraceGuest::new(trace(&[(10, &[(295, 310)])]), &ReplayOptions::default()).unwrap();
    assert_eq!(sorted(run(&mut guest, 10, 0)), [295, 296, 297, 298, 299]);
}

prop_compose! {
    fn any_trace()(
        ticks in prop::collection::vec(
            (1u64..40, prop::collection::btree_set(0..PAGES, 0..60)),
            1..12,
        ),
    ) -> MemoryTrace {
        let mut end = 0;
        let ticks = ticks.into_iter().map(|(length, pages)| {
            end += length;
            let mut set = DenseBitmap::new(PAGES);
            pages.into_iter().for_each(|p| set.set(PageIndex::new(p)));
            TraceTick::new(at(end), set.runs().collect())
        });
        MemoryTrace::new(TraceHeader::new(PAGES, "any"), ticks.collect())
    }
}

proptest! {
    /// However time is cut, the same writes come in the same order at the same time, with any
    /// throttle, pauses and either replay.
    #[test]
    fn cutting_time_changes_nothing(
        trace in any_trace(),
        offset in 0u64..100,
        open in any::<bool>(),
        // How long, whether it runs, its throttle, and where else to cut.
        steps in prop::collection::vec(
            (1u64..30_000_000, prop::bool::weighted(0.8), 0u8..100, 1u64..30_000_000),
            1..12,
        ),
    ) {
        let replay = if open { Replay::OPEN_LOOP } else { Replay::Stretch };
        let options = ReplayOptions { replay, ..ReplayOptions::at(ms(offset)) };
        let mut whole = TraceGuest::new(trace.clone(), &options).unwrap();
        let mut cut = TraceGuest::new(trace, &options).unwrap();
        let mut now = 0;
        for (length, running, throttle, inside) in steps {
            let throttle = Throttle::percent(throttle);
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            let until = Tick::from_nanos(now + length);
            whole.run(until, running, throttle, &mut |page| expected.push(page));
            let between = Tick::from_nanos(now + inside.min(length));
            cut.run(between, running, throttle, &mut |page| got.push(page));
            cut.run(until, running, throttle, &mut |page| got.push(page));
            prop_assert_eq!(got, expected);
            now += length;
        }
    }

    /// Over whole laps every page is written as often as the trace has it.
    #[test]
    fn laps_write_what_the_trace_has(trace in any_trace(), laps in 1u64..4) {
        let mut expected = BTreeMap::new();
        for page in trace.ticks().iter().flat_map(|t| &t.runs).flat_map(|r| r.iter()) {
            *expected.entry(page.get()).or_insert(0) += laps;
        }
        let length = trace.ticks().last().unwrap().end.as_nanos();
        let mut guest = TraceGuest::new(trace, &ReplayOptions::default()).unwrap();
        let mut got = BTreeMap::new();
        let until = Tick::from_nanos(length * laps);
        guest.run(until, true, Throttle::NONE, &mut |page| {
            *got.entry(page.get()).or_insert(0) += 1;
        });
        prop_assert_eq!(got, expected);
    }
}
