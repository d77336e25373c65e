// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O1 against every schedule there is, and against the formula by hand.

use std::time::Duration;

use proptest::prelude::*;

use crate::bitmap::DenseBitmap;
use crate::sim::Rng;
use crate::sim::oracle::{
    Axis, Capacity, Clairvoyant, ClairvoyantSetting, OracleError, Release, Weights,
    clairvoyant_curve, clairvoyant_ticks,
};
use crate::trace::{MemoryTrace, TraceHeader, TraceTick};
use crate::units::{PageIndex, PageRun, Tick};

/// A small world: the link sends so many pages in a slot, and in each slot pages are written.
#[derive(Clone, Debug)]
struct World {
    pages: u32,
    populated: u32,
    slots: Vec<(u32, u32)>,
}

impl World {
    fn random(rng: &mut Rng) -> Self {
        let pages = 1 + rng.below(6) as u32;
        let all = (1u32 << pages) - 1;
        let density = rng.unit();
        let slots = (0..=rng.below(8))
            .map(|_| {
                let mask = (0..pages).filter(|_| rng.unit() < density).fold(0, |m, p| m | 1 << p);
                (rng.below(3) as u32, mask)
            })
            .collect();
        let populated = if rng.one_in(3) { rng.below(1 << pages) as u32 } else { all };
        Self { pages, populated, slots }
    }

    /// The least residual around each slot's writes, by trying every order of sends. Pages that
    /// hold nothing are at the destination from the beginning.
    fn search(&self, release: Release) -> Vec<(u32, u32)> {
        let all = (1u32 << self.pages) - 1;
        let mut clean = vec![false; 1 << self.pages];
        clean[(all & !self.populated) as usize] = true;
        // Pages that are already written in truth, but dirty only from the slot's end on: with
        // TickStart a send in the same slot counts.
        self.slots
            .iter()
            .map(|(sends, written)| {
                let before = self.after_sends(&clean, *sends);
                let least = |sets: &[bool]| {
                    let most = (0..sets.len()).filter(|s| sets[*s]).map(usize::count_ones).max();
                    self.pages - most.unwrap_or(0)
                };
                let after = match release {
                    Release::TickEnd => self.after_write(&before, *written),
                    Release::TickStart => {
                        self.after_sends(&self.after_write(&clean, *written), *sends)
                    }
                };
                let residuals = (least(&before), least(&after));
                clean = after;
                residuals
            })
            .collect()
    }

    fn after_write(&self, clean: &[bool], written: u32) -> Vec<bool> {
        let mut after = vec![false; clean.len()];
        (0..clean.len()).filter(|s| clean[*s]).for_each(|s| after[s & !(written as usize)] = true);
        after
    }

    fn after_sends(&self, clean: &[bool], sends: u32) -> Vec<bool> {
        let mut now = clean.to_vec();
        for _ in 0..sends {
            for set in (0..now.len()).rev().filter(|s| now[*s]).collect::<Vec<_>>() {
                (0..self.pages).for_each(|p| now[set | 1 << p] = true);
            }
        }
        now
    }

    fn oracle(&self, release: Release) -> Vec<(f64, f64)> {
        let populated = runs_of(self.pages, self.populated);
        let pages = u64::from(self.pages);
        let mut oracle = Clairvoyant::new(pages, Some(&populated), 0.0, release).unwrap();
        let mut carried = 0;
        self.slots
            .iter()
            .map(|(sends, written)| {
                carried += sends;
                let runs = runs_of(self.pages, *written);
                let residual = oracle.tick(f64::from(carried), &runs).unwrap();
                (residual.before_pages, residual.after_pages)
            })
            .collect()
    }
}

fn runs_of(pages: u32, mask: u32) -> Vec<PageRun> {
    let mut set = DenseBitmap::new(u64::from(pages));
    (0..pages).filter(|p| mask >> p & 1 == 1).for_each(|p| set.set(PageIndex::new(u64::from(p))));
    set.runs().collect()
}

/// Acceptance point 1 of the research kit: at least 10,000 random small cases.
#[test]
fn no_schedule_of_a_small_world_leaves_less_and_one_leaves_as_much() {
    let mut rng = Rng::new(1);
    let mut residuals = 0;
    for case in 0..30_000 {
        let world = World::random(&mut rng);
        for release in [Release::TickEnd, Release::TickStart] {
            let (found, told) = (world.search(release), world.oracle(release));
            residuals += found.iter().filter(|(_, after)| *after > 0).count();
            let same = found.iter().zip(&told).all(|(found, told)| {
                f64::from(found.0).to_bits() == told.0.to_bits()
                    && f64::from(found.1).to_bits() == told.1.to_bits()
            });
            assert!(same, "case {case} {release:?}: {world:?}\nfound {found:?}\ntold {told:?}");
        }
    }
    assert!(residuals > 50_000, "the cases are not all trivial: {residuals}");
}

/// A trace with real rates, times and an empty part, and the formula of the module's head.
#[derive(Clone, Debug)]
struct Long {
    pages: u64,
    populated: Vec<bool>,
    zero_page_cost: f64,
    ticks: Vec<(f64, Vec<u64>)>,
}

fn long() -> impl Strategy<Value = Long> {
    (2u64..80, any::<bool>(), prop_oneof![Just(0.0), Just(1.0), 0.0..1.0]).prop_flat_map(
        |(pages, sparse, zero_page_cost)| {
            let populated = prop::collection::vec(
                if sparse { any::<bool>().boxed() } else { Just(true).boxed() },
                pages as usize,
            );
            let span = 1..pages.max(2);
            let tick = (0.0..6.0f64, prop::collection::vec(span.prop_map(|p| p - 1), 0..12));
            (populated, prop::collection::vec(tick, 1..90)).prop_map(move |(populated, ticks)| {
                Long { pages, populated, zero_page_cost, ticks }
            })
        },
    )
}

impl Long {
    fn set(&self, pages: &[u64]) -> Vec<PageRun> {
        let mut set = DenseBitmap::new(self.pages);
        pages.iter().for_each(|p| set.set(PageIndex::new(*p)));
        set.runs().collect()
    }

    /// R* after each tick's writes by a scan backwards over all times, and what there was to send
    /// before them.
    fn by_hand(&self, release: Release) -> Vec<(f64, f64)> {
        let mut last: Vec<Option<usize>> = vec![None; self.pages as usize];
        let (mut times, mut now, mut residuals) = (Vec::new(), 0.0, Vec::new());
        for (number, (carries, written)) in self.ticks.iter().enumerate() {
            let to_send = self.to_send(&last);
            let began = now;
            now += carries;
            times.push(if release == Release::TickEnd { now } else { began });
            written.iter().for_each(|p| last[*p as usize] = Some(number));
            let mut most = self.to_send(&last) - now;
            for (x, time) in times.iter().enumerate() {
                let later = last.iter().filter(|l| l.is_some_and(|l| l >= x)).count();
                most = most.max(later as f64 - (now - time));
            }
            residuals.push((most.max(0.0), to_send));
        }
        residuals
    }

    fn to_send(&self, last: &[Option<usize>]) -> f64 {
        let of_page = |(last, populated): (&Option<usize>, &bool)| match (last, populated) {
            (Some(_), _) | (None, true) => 1.0,
            (None, false) => self.zero_page_cost,
        };
        last.iter().zip(&self.populated).map(of_page).sum()
    }

    fn told(&self, release: Release) -> Vec<(f64, f64)> {
        let populated: Vec<u64> = (0..self.pages).filter(|p| self.populated[*p as usize]).collect();
        let populated = self.set(&populated);
        let mut oracle =
            Clairvoyant::new(self.pages, Some(&populated), self.zero_page_cost, release).unwrap();
        let mut carried = 0.0;
        let ticks = self.ticks.iter().map(|(carries, written)| {
            carried += carries;
            let told = oracle.tick(carried, &self.set(written)).unwrap();
            (told.after_pages, told.to_send_pages)
        });
        ticks.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn streaming_equals_a_scan_backwards(world in long()) {
        for release in [Release::TickEnd, Release::TickStart] {
            let (by_hand, told) = (world.by_hand(release), world.told(release));
            for (tick, (by_hand, told)) in by_hand.iter().zip(&told).enumerate() {
                let off = (by_hand.0 - told.0).abs().max((by_hand.1 - told.1).abs());
                prop_assert!(off < 1e-3, "{release:?} tick {tick}: {by_hand:?} but {told:?}");
            }
        }
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn trace(pages: u64, ticks: &[(u64, &[(u64, u64)])]) -> MemoryTrace {
    let ticks = ticks.iter().map(|(end_ms, runs)| {
        let runs = runs.iter().map(|(at, len)| PageRun::new(PageIndex::new(*at), *len)).collect();
        TraceTick::new(Tick::ZERO + ms(*end_ms), runs)
    });
    MemoryTrace::new(TraceHeader::new(pages, "test"), ticks.collect())
}

/// A link of 1000 pages a second: one a millisecond.
fn setting(horizon_ms: u64) -> ClairvoyantSetting {
    let capacity = Capacity::constant(4120e3).unwrap();
    ClairvoyantSetting::new(capacity, ms(horizon_ms))
}

#[test]
fn a_trace_gives_the_front_of_downtime_over_time() {
    // 30 pages; a burst of 12 pages just before 40 ms, and every 100 ms.
    let mut source = trace(30, &[(20, &[(0, 2)]), (40, &[(5, 12)]), (100, &[])]);
    let mut setting = setting(250);
    setting.fixed_downtime = ms(5);
    let curve = clairvoyant_curve(&mut source, &setting).unwrap();
    let residuals: Vec<f64> = curve.points().iter().map(|p| p.residual_pages).collect();
    assert_eq!(residuals[..4], [30.0, 10.0, 0.0, 0.0], "just before the writes, and at 30 ms");
    assert!(residuals.len() == 14 && residuals[4..].iter().all(|r| *r == 0.0), "{residuals:?}");
    let whole_ms = |at: Duration| (at.as_secs_f64() * 1e3).round();
    let ats: Vec<f64> = curve.points().iter().map(|p| whole_ms(p.at)).collect();
    // What the writes at 20 and 40 ms left is gone 10 and 12 ms later, before the next writes.
    assert_eq!(ats[..8], [0.0, 20.0, 30.0, 40.0, 52.0, 100.0, 120.0, 122.0]);
    // All stops up to 30 ms end at 35 ms, and the last has the least of it as downtime: no tick
    // ends there.
    let front = curve.front(Axis::TotalTime);
    assert_eq!(front.last().map(|p| (whole_ms(p.at), p.downtime)), Some((30.0, ms(5))));
    let best = curve.best(&Weights { time_ms_per_s: 500.0, ..Weights::default() }).unwrap();
    assert_eq!((whole_ms(best.at), best.downtime), (30.0, ms(5)));
    let bytes: Vec<f64> = curve.points().iter().map(|p| p.total_bytes() / 4120.0).collect();
    assert!(bytes.iter().all(|b| (b - 30.0).abs() < 1e-9), "each page once: {bytes:?}");

    let mut after = Vec::new();
    clairvoyant_ticks(&mut source, &setting, |at, r| after.push((at, r.after_pages))).unwrap();
    assert_eq!(after[1..4], [(ms(20), 10.0), (ms(40), 12.0), (ms(100), 0.0)]);
}

#[test]
fn a_migration_may_begin_anywhere_in_the_trace() {
    let mut source = trace(30, &[(20, &[(0, 2)]), (40, &[(5, 12)]), (100, &[])]);
    let mut setting = setting(200);
    setting.offset = Tick::ZERO + ms(40);
    setting.populated = Some(vec![PageRun::new(PageIndex::new(0), 10)]);
    let mut seen = Vec::new();
    clairvoyant_ticks(&mut source, &setting, |at, r| seen.push((at, r))).unwrap();
    let ends: Vec<_> = seen.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(ends, [0, 60, 80, 100, 160, 180, 200]);
    let to_send: Vec<_> = seen.iter().map(|(_, r)| r.to_send_pages).collect();
    assert_eq!(
        to_send,
        [10.0, 10.0, 10.0, 10.0, 17.0, 17.0, 17.0],
        "pages 10 to 16 were empty until 100 ms"
    );
}

#[test]
fn what_cannot_be_is_told() {
    let mut odd = trace(10, &[(20, &[(0, 2)]), (40, &[(5, 6)])]);
    let error = clairvoyant_curve(&mut odd, &setting(100)).unwrap_err().to_string();
    assert_eq!(error, "Tick 2 names pages 5..11, but the guest has 10 pages");
    let mut nothing = trace(10, &[]);
    let error = clairvoyant_curve(&mut nothing, &setting(100)).unwrap_err().to_string();
    assert_eq!(error, "The trace has no tick after 0 ms; start earlier");
    let too_many = Clairvoyant::new(u64::MAX, None, 0.0, Release::TickEnd).unwrap_err();
    assert_eq!(too_many, OracleError::Pages { pages: u64::MAX });
    for share in [-0.1, 1.1, f64::NAN] {
        let error = Clairvoyant::new(8, None, share, Release::TickEnd).unwrap_err();
        assert!(matches!(error, OracleError::Share { .. }), "{error}");
    }
    let mut setting = setting(100);
    setting.page_wire_bytes = 0.0;
    assert!(clairvoyant_curve(&mut odd, &setting).is_err());
}
