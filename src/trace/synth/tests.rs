// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Synthetic guests write by the law that they name, the same every time.

use std::time::Duration;

use super::*;
use crate::policy::Spec;
use crate::trace::{MemoryTrace, TickSource, Trace, TraceTick};
use crate::units::PageRun;

const PAGES: u64 = 10_000;
const TICK: Duration = Duration::from_millis(10);

fn trace(text: &str, seconds: u64) -> SynthTrace {
    let spec = SynthSpec::parse(text).unwrap();
    SynthTrace::new(spec, PAGES, TICK, Duration::from_secs(seconds), 1).unwrap()
}

fn ticks(text: &str, seconds: u64) -> Vec<TraceTick> {
    let mut source = trace(text, seconds).open().unwrap();
    MemoryTrace::read(&mut source).unwrap().ticks().to_vec()
}

fn pages(ticks: &[TraceTick]) -> Vec<u64> {
    ticks.iter().map(TraceTick::pages).collect()
}

fn mean(ticks: &[TraceTick]) -> f64 {
    pages(ticks).iter().sum::<u64>() as f64 / ticks.len() as f64
}

fn distinct(ticks: &[TraceTick]) -> usize {
    let mut all: Vec<_> = ticks.iter().flat_map(|t| t.runs.iter().copied()).collect();
    let mut pages: Vec<_> = all.drain(..).flat_map(PageRun::iter).collect();
    pages.sort_unstable();
    pages.dedup();
    pages.len()
}

#[test]
fn every_part_has_valid_defaults_a_text_and_lawful_ticks() {
    let parts = writers().iter().map(|info| info.name.to_owned());
    let modulated = modulators().iter().map(|info| format!("uniform+{}", info.name));
    for text in parts.chain(modulated) {
        assert_eq!(SynthSpec::parse(&text).unwrap().to_string(), text);
        let once = ticks(&text, 5);
        assert_eq!(once.len(), 500);
        for tick in &once {
            crate::trace::coding::check(tick, PAGES).unwrap();
        }
        assert!(mean(&once) > 1.0, "{text} writes something");
        assert_eq!(once, ticks(&text, 5), "{text} is the same every time");
    }
    let text = "zipf:rate=5000,exponent=1.2+log:writes=2+bursts:high=4+diurnal";
    assert_eq!(SynthSpec::parse(text).unwrap().to_string(), text);
}

#[test]
fn mistakes_are_named() {
    let say = |text| SynthSpec::parse(text).unwrap_err().to_string();
    let near = "\"zipff\" is no writer and no modulator; did you mean \"zipf\"?; writers: uniform";
    assert!(say("zipff").starts_with(near), "{}", say("zipff"));
    assert!(say("bursts").starts_with("A synthetic guest needs at least one writer: uniform"));
    assert!(say("zipf:rat=1").contains("rat"), "{}", say("zipf:rat=1"));
    assert!(say("zipf:exponent=9").contains("from 0 to 5"), "{}", say("zipf:exponent=9"));
    assert!(say(&["log"; 65].join("+")).contains("65 parts"));
    let spec = SynthSpec::parse("log").unwrap();
    let second = Duration::from_secs(1);
    for (pages, tick, length) in
        [(0, TICK, second), (1, Duration::ZERO, second), (1, TICK, Duration::ZERO)]
    {
        SynthTrace::new(spec.clone(), pages, tick, length, 0).unwrap_err();
    }
}

#[test]
fn seeking_gives_the_same_ticks() {
    let trace = trace("zipf+bursts+phases", 3);
    let mut source = trace.open().unwrap();
    let all = MemoryTrace::read(&mut source).unwrap();
    for at_ms in [0, 10, 2995, 15, 3000, 1000] {
        let at = Tick::from_nanos(at_ms * 1_000_000);
        let (mut model, mut tick, mut expected) =
            (all.clone(), TraceTick::default(), TraceTick::default());
        source.seek(at).unwrap();
        model.seek(at).unwrap();
        for _ in 0..3 {
            let more = model.next_tick(&mut expected).unwrap();
            assert_eq!(source.next_tick(&mut tick).unwrap(), more);
            assert_eq!(tick, expected, "{at_ms} ms");
        }
    }
    assert_eq!(source.end().unwrap(), Tick::from_nanos(3_000_000_000));
}

#[test]
fn uniform_writes_hit_as_many_pages_as_the_formula_says() {
    // W (1 - e^(-n/W)) distinct pages after n writes (heuristics.md 2.2).
    let ticks = ticks("uniform:rate=5000,span=0.5", 4);
    let expected = 5000.0 * (1.0 - (-4.0_f64).exp());
    let got = distinct(&ticks) as f64;
    assert!((got - expected).abs() < 0.01 * expected, "{got} for {expected}");
    assert!(ticks.iter().all(|t| t.runs.last().is_none_or(|run| run.end().get() <= 5000)));
}

#[test]
fn phases_stay_in_their_set_and_move_on() {
    let ticks = ticks("phases:rate=20000,set=0.05,keep=0.2,hold_ms=1000", 20);
    // 200 writes to 500 pages: 165 distinct ones in a tick.
    assert!((mean(&ticks) - 165.0).abs() < 8.0, "{}", mean(&ticks));
    let all = distinct(&ticks);
    assert!((3000..9990).contains(&all), "about 20 phases of 400 new pages: {all}");
    let one = ticks.windows(5).map(distinct).min().unwrap();
    assert!(one <= 500, "{one}");
}

#[test]
fn the_ring_is_written_in_turn_and_survivors_in_a_burst() {
    let ticks = ticks("gc-ring:rate=10000,ring=0.1,survivors=0.2", 1);
    // 100 pages a tick, 1000 in the ring: every tenth tick copies 200.
    let got = pages(&ticks);
    assert_eq!(got[..12], [100, 100, 100, 100, 100, 100, 100, 100, 100, 300, 100, 100]);
    assert_eq!(ticks[9].runs[0], PageRun::from_range(900..1200));
    assert_eq!(ticks[19].runs[1], PageRun::from_range(1200..1400));
}

#[test]
fn a_log_is_appended_to() {
    let ticks = ticks("log:rate=1000,writes=4,span=0.01", 1);
    let runs: Vec<_> = ticks.iter().flat_map(|t| &t.runs).take(3).copied().collect();
    // 10 writes a tick at 4 a page; the log of 100 pages begins again after 400 writes.
    assert_eq!(runs, [0..3, 2..5, 5..8].map(PageRun::from_range));
    assert_eq!(ticks[40].runs, [PageRun::from_range(0..3)]);
}

#[test]
fn a_jump_comes_when_the_rate_is_lowest() {
    let ticks = ticks("jump:rate=10000,period_ms=1000,jump=0.1,span=0.5", 5);
    for period in ticks.chunks(100) {
        let got = pages(period);
        assert!(got[99] >= 1000 && got[98] < 5 && got[0] > 150, "{got:?}");
    }
}

#[test]
fn modulators_have_their_means() {
    let means = |name: &str, seconds: u64| {
        let mut rng = Rng::new(3);
        let mut modulator = Spec::<dyn Modulator>::parse(name).unwrap().build();
        let slice = |n: u64| Slice {
            from: Tick::from_nanos(n * 10_000_000),
            to: Tick::from_nanos((n + 1) * 10_000_000),
        };
        (0..seconds * 100).map(|n| modulator.factor(slice(n), &mut rng)).collect::<Vec<_>>()
    };
    let mean = |factors: &[f64]| factors.iter().sum::<f64>() / factors.len() as f64;
    // Each state is entered equally often: weights are the mean stays.
    let expected = (0.15 * 180.0 + 600.0 + 2.6 * 250.0) / 1030.0;
    let bursts = means("bursts", 2000);
    assert!((mean(&bursts) - expected).abs() < 0.03, "{} for {expected}", mean(&bursts));
    assert!(bursts.iter().all(|f| (0.149..2.601).contains(f)));
    let day = means("diurnal:depth=0.5,period_ms=1000", 1);
    assert!((mean(&day) - 1.0).abs() < 1e-9 && (day[24] - 1.5).abs() < 0.01, "{day:?}");
    let lulls = means("lulls:lull_ms=20,every_ms=80", 400);
    assert!((mean(&lulls) - 0.8).abs() < 0.01, "{}", mean(&lulls));
    let quiet = lulls.iter().filter(|f| **f == 0.0).count();
    assert!(quiet > 3000, "each lull holds a whole tick or nearly so: {quiet}");
}

#[test]
fn a_large_guest_needs_little_memory() {
    let spec = SynthSpec::parse("zipf:rate=1000000+gc-ring:rate=1000000+log:rate=100000").unwrap();
    let length = Duration::from_secs(600);
    let trace = SynthTrace::new(spec, 64 << 18, TICK, length, 1).unwrap();
    let counted = allocation_counter::measure(|| {
        let mut source = trace.open().unwrap();
        let mut tick = TraceTick::default();
        for _ in 0..200 {
            assert!(source.next_tick(&mut tick).unwrap());
        }
    });
    assert!(counted.bytes_max < 4 << 20, "{counted:?}");
}
