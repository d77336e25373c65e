// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest made of a fitted working set, for the simulator.
//!
//! The curve was measured while nothing disturbed the guest. A migration takes a part of its
//! processor, which changes what it dirties in two ways, if the load is known. Less is done where
//! less can be done. And actions overlap: one that takes R seconds goes on to write pages that it
//! wrote at its start, so a round sees pages of actions begun up to R before it. The second makes
//! the working set of a backlogged site larger, although it does less.
//!
//! Classes lie in memory one after the other, the fastest first: kernel, heaps, page cache. Where
//! pages lie matters to policies that leave out what is dirty again: what is sent early in a round
//! had no time to become dirty.

use std::collections::VecDeque;

use precopy::bitmap::DenseBitmap;
use precopy::sim::{Rng, VirtualGuest};
use precopy::units::{PageIndex, PageRun, Throttle, Tick};

use super::curve::Spread;
use super::fit::WwsModel;
use super::load::Load;

/// Longest piece of time that is written in one go.
const SLICE_NANOS: u64 = 2_000_000;
/// How long one draw of the short noise lasts.
const NOISE_NANOS: u64 = 1_000_000_000;

/// Share of the writes that an action repeats at its end. Measured: the working set of the site of
/// `webvm` with 600 users is larger by what it writes in 0.5 to 0.8 R when actions take R.
const REPEATED: f64 = 0.6;
/// Actions faster than this repeat themselves within any round.
const REPEATS_FROM_S: f64 = 0.05;
/// Classes faster than this are dirty in every round anyway.
const REPEATS_BELOW_PER_S: f64 = 4.0;
/// Most writes that wait to be repeated.
const REPEATS_MAX: usize = 1 << 20;

/// Pages that are written alike, and how many writes are due.
#[derive(Debug)]
struct Class {
    first: u64,
    pages: u64,
    writes_per_s: f64,
    due: f64,
    repeats: bool,
}

/// The guest: every class of pages is rewritten at random, fresh pages one after the other.
#[derive(Debug)]
pub(super) struct SyntheticGuest {
    classes: Vec<Class>,
    /// Pages that no class has; `due` counts fresh pages, and `cursor` says which is next.
    fresh: Class,
    cursor: u64,
    populated: u64,
    total: u64,
    rng: Rng,
    now: Tick,
    /// Factor of the whole run, and of the current second.
    level: f64,
    short_sigma: f64,
    noise: f64,
    noise_until: Tick,
    load: Option<Load>,
    /// Requests in the processor.
    queue: f64,
    /// Share of the load that is served; the rest of the writes do not happen.
    served: f64,
    /// How long an action takes, in nanoseconds.
    response_nanos: u64,
    /// Writes to be repeated, by time.
    repeats: VecDeque<(Tick, PageIndex)>,
    running: bool,
}

/// A factor around 1 with this relative standard deviation, never negative.
pub(super) fn factor(rng: &mut Rng, sigma: f64) -> f64 {
    if sigma <= 0.0 {
        return 1.0;
    }
    // Box and Muller; the logarithm of 0 is kept away.
    let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * rng.unit()).cos();
    // Log-normal with mean 1.
    let s = sigma.mul_add(sigma, 1.0).ln().sqrt();
    (s * normal - s * s / 2.0).exp()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "page counts, not negative and below 2^26"
)]
fn whole(pages: f64) -> u64 {
    pages.round() as u64
}

impl SyntheticGuest {
    pub(super) fn new(
        model: &WwsModel,
        total_pages: u64,
        spread: Spread,
        load: Option<Load>,
        seed: u64,
    ) -> Self {
        let populated = model.populated_pages;
        let mut first = 0;
        let mut classes = Vec::new();
        for class in &model.classes {
            let pages = whole(class.pages).min(populated - first);
            if pages > 0 {
                let writes_per_s = class.pages * class.rate_per_s;
                let repeats = class.rate_per_s < REPEATS_BELOW_PER_S;
                classes.push(Class { first, pages, writes_per_s, due: 0.0, repeats });
                first += pages;
            }
        }
        let writes_per_s = model.fresh_pages_per_s;
        let fresh =
            Class { first, pages: populated - first, writes_per_s, due: 0.0, repeats: false };
        let mut rng = Rng::new(seed ^ 0x7770_7265_6469_6374);
        let level = factor(&mut rng, spread.long);
        let short = spread.short.powi(2) - spread.long.powi(2);
        Self {
            classes,
            fresh,
            cursor: 0,
            populated,
            total: total_pages,
            rng,
            now: Tick::ZERO,
            level,
            short_sigma: short.max(0.0).sqrt(),
            noise: 1.0,
            noise_until: Tick::ZERO,
            load,
            queue: 0.0,
            served: 1.0,
            response_nanos: 0,
            repeats: VecDeque::new(),
            running: true,
        }
    }

    /// The users' loop goes on; the processor has `speed` of what a migration leaves of it.
    fn load_goes_on(&mut self, seconds: f64, speed: f64) {
        let Some(load) = &self.load else { return };
        let flow = load.step(&mut self.queue, speed * (1.0 - load.slowdown), seconds);
        self.served = flow.done / load.offered_ops_per_s().max(f64::MIN_POSITIVE);
        if flow.able > 0.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and at most the users' patience"
            )]
            let nanos = (self.queue / flow.able * 1e9).min(60e9) as u64;
            self.response_nanos = nanos;
        }
    }

    /// Notes that an action will write a page again.
    fn repeat_later(&mut self, page: PageIndex) {
        #[expect(clippy::cast_precision_loss, reason = "at most a minute")]
        let worth_it = self.response_nanos as f64 / 1e9 >= REPEATS_FROM_S;
        if worth_it && self.repeats.len() < REPEATS_MAX && self.rng.unit() < REPEATED {
            let at = Tick::from_nanos(self.now.as_nanos() + self.response_nanos);
            // In order of time, although the response time changes.
            let at = self.repeats.back().map_or(at, |(last, _)| at.max(*last));
            self.repeats.push_back((at, page));
        }
    }

    fn write_slice(&mut self, seconds: f64, speed: f64, write: &mut dyn FnMut(PageIndex)) {
        let share = seconds * speed * self.served * self.level * self.noise;
        for at in 0..self.classes.len() {
            let class = &mut self.classes[at];
            class.due += class.writes_per_s * share;
            let (first, pages) = (class.first, class.pages);
            while self.classes[at].due >= 1.0 {
                self.classes[at].due -= 1.0;
                let rank = first + self.rng.below(pages);
                let page = PageIndex::new(rank);
                write(page);
                if self.classes[at].repeats {
                    self.repeat_later(page);
                }
            }
        }
        while self.repeats.front().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, page)) = self.repeats.pop_front() {
                write(page);
            }
        }
        self.fresh.due += self.fresh.writes_per_s * share;
        while self.fresh.due >= 1.0 {
            self.fresh.due -= 1.0;
            if self.fresh.pages > 0 {
                write(PageIndex::new(self.fresh.first + self.cursor));
                self.cursor = (self.cursor + 1) % self.fresh.pages;
            }
        }
    }
}

impl VirtualGuest for SyntheticGuest {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        self.running = running;
        let speed = f64::from(100 - throttle.get()) / 100.0;
        while self.now < until {
            if self.now >= self.noise_until {
                let sigma = self.short_sigma;
                self.noise = factor(&mut self.rng, sigma);
                self.noise_until = Tick::from_nanos(self.now.as_nanos() + NOISE_NANOS);
            }
            let left = until.as_nanos() - self.now.as_nanos();
            let slice = left.min(SLICE_NANOS);
            self.now = Tick::from_nanos(self.now.as_nanos() + slice);
            #[expect(clippy::cast_precision_loss, reason = "a slice is a few ms")]
            let seconds = slice as f64 / 1e9;
            self.load_goes_on(seconds, if running { speed } else { 0.0 });
            if running {
                self.write_slice(seconds, speed, write);
            }
        }
    }

    /// A guest that stands still answers nobody.
    fn service_bytes_per_s(&self) -> f64 {
        let load = self.load.as_ref().filter(|_| self.running);
        load.map_or(0.0, |load| load.service_bytes_per_s() * self.served)
    }

    fn populated(&self) -> Option<DenseBitmap> {
        let mut set = DenseBitmap::new(self.total);
        set.set_run(PageRun::from_range(0..self.populated));
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::{WwsCurve, WwsModel};
    use std::time::Duration;

    fn dirtied(model: &WwsModel, seconds: f64) -> f64 {
        let mut guest = SyntheticGuest::new(model, model.populated_pages, Spread::NONE, None, 3);
        let mut set = DenseBitmap::new(model.populated_pages);
        let until = Tick::ZERO + Duration::from_secs_f64(seconds);
        guest.run(until, true, Throttle::NONE, &mut |page| set.set(page));
        set.count() as f64
    }

    #[test]
    fn the_guest_dirties_what_its_curve_says() {
        let curve = WwsCurve::web(600.0, 200.0, 4.966, 524_288).unwrap();
        let model = WwsModel::fit(&curve);
        for point in curve.points() {
            let off = dirtied(&model, point.window_s) / point.pages - 1.0;
            assert!(off.abs() < 0.02, "{} s: {off}", point.window_s);
        }
    }

    #[test]
    fn a_guest_that_stands_still_writes_nothing_and_answers_nobody() {
        let model = WwsModel::fit(&WwsCurve::web(100.0, 200.0, 4.966, 65_536).unwrap());
        let mut guest =
            SyntheticGuest::new(&model, 65_536, Spread::UNKNOWN, Some(Load::web(100.0)), 1);
        let mut writes = 0;
        let mut run = |guest: &mut SyntheticGuest, ms: u64, running| {
            let until = Tick::from_nanos(ms * 1_000_000);
            guest.run(until, running, Throttle::NONE, &mut |_| writes += 1);
            std::mem::take(&mut writes)
        };
        let usual = run(&mut guest, 1000, true);
        assert!(usual > 1000);
        assert!(guest.service_bytes_per_s() > 1e6);
        assert_eq!(run(&mut guest, 60_000, false), 0);
        assert!(guest.service_bytes_per_s() == 0.0);
        // Everybody waits now: as much is done as can be, 112 actions a second and not 20.
        let after = run(&mut guest, 61_000, true);
        assert!((3 * usual..10 * usual).contains(&after), "{usual} {after}");
    }

    #[test]
    fn noise_has_mean_one_and_the_spread_that_was_asked_for() {
        let mut rng = Rng::new(5);
        let draws: Vec<f64> = (0..20_000).map(|_| factor(&mut rng, 0.2)).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let sd = (draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((mean - 1.0).abs() < 0.01 && (sd - 0.2).abs() < 0.01, "{mean} {sd}");
        assert!(factor(&mut rng, 0.0) == 1.0);
    }

    /// What 600 users dirty in 2 s while a migration takes 15 % of the processor, at its beginning
    /// and when a backlog has built up.
    #[test]
    fn a_backlog_makes_the_working_set_larger() {
        let model = WwsModel::fit(&WwsCurve::web(600.0, 200.0, 4.966, 524_288).unwrap());
        let load = Some(Load::web(600.0));
        let mut guest = SyntheticGuest::new(&model, 524_288, Spread::NONE, load, 1);
        let mut round = |until_s: u64| {
            let mut set = DenseBitmap::new(524_288);
            let until = Tick::ZERO + Duration::from_secs(until_s);
            guest.run(until, true, Throttle::NONE, &mut |page| set.set(page));
            set.count() as f64
        };
        let (early, _, late) = (round(2), round(60), round(62));
        // Less is done at first: 112 of 120.8 actions a second, so D(1.86 s) and not D(2 s).
        assert!((early / model.at(1.86) - 1.0).abs() < 0.02, "{early} {}", model.at(1.86));
        // Later each of them takes 2 s, and repeats 60 % of its writes.
        assert!(late > 1.15 * early && late < model.at(4.0), "{early} {late}");
    }
}
