// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest made of a fitted working set, for the simulator.

use precopy::bitmap::DenseBitmap;
use precopy::sim::{Rng, VirtualGuest};
use precopy::units::{PageIndex, PageRun, Throttle, Tick};

use super::curve::Spread;
use super::fit::WwsModel;

/// Longest piece of time that is written in one go.
const SLICE_NANOS: u64 = 2_000_000;
/// How long one draw of the short noise lasts.
const NOISE_NANOS: u64 = 1_000_000_000;

/// Pages that are written alike, and how many writes are due.
#[derive(Debug)]
struct Class {
    first: u64,
    pages: u64,
    writes_per_s: f64,
    due: f64,
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
    stride: u64,
    rng: Rng,
    now: Tick,
    /// Factor of the whole run, and of the current second.
    level: f64,
    short_sigma: f64,
    noise: f64,
    noise_until: Tick,
    /// Share of the load that is served; the rest of the writes do not happen.
    served: f64,
    service_bytes_per_s: f64,
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
        service_bytes_per_s: f64,
        seed: u64,
    ) -> Self {
        let populated = model.populated_pages;
        let mut first = 0;
        let mut classes = Vec::new();
        for class in &model.classes {
            let pages = whole(class.pages).min(populated - first);
            if pages > 0 {
                let writes_per_s = class.pages * class.rate_per_s;
                classes.push(Class { first, pages, writes_per_s, due: 0.0 });
                first += pages;
            }
        }
        let writes_per_s = model.fresh_pages_per_s;
        let fresh = Class { first, pages: populated - first, writes_per_s, due: 0.0 };
        let mut rng = Rng::new(seed ^ 0x7770_7265_6469_6374);
        let level = factor(&mut rng, spread.long);
        let short = spread.short.powi(2) - spread.long.powi(2);
        Self {
            classes,
            fresh,
            cursor: 0,
            populated,
            total: total_pages,
            stride: stride(populated),
            rng,
            now: Tick::ZERO,
            level,
            short_sigma: short.max(0.0).sqrt(),
            noise: 1.0,
            noise_until: Tick::ZERO,
            served: 1.0,
            service_bytes_per_s,
            running: true,
        }
    }

    /// From here on only this share of the load is served.
    pub(super) fn serve(&mut self, share: f64) {
        self.served = share.clamp(0.0, 1.0);
    }

    /// Scatters ranks over the populated pages.
    #[expect(clippy::cast_possible_truncation, reason = "a remainder below the page count")]
    fn page(&self, rank: u64) -> PageIndex {
        let product = u128::from(rank) * u128::from(self.stride);
        PageIndex::new((product % u128::from(self.populated)) as u64)
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
                write(self.page(rank));
            }
        }
        self.fresh.due += self.fresh.writes_per_s * share;
        while self.fresh.due >= 1.0 {
            self.fresh.due -= 1.0;
            if self.fresh.pages > 0 {
                write(self.page(self.fresh.first + self.cursor));
                self.cursor = (self.cursor + 1) % self.fresh.pages;
            }
        }
    }
}

/// A step through `pages` that meets all of them.
fn stride(pages: u64) -> u64 {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let mut stride = (0x9e37_79b1 % pages.max(1)) | 1;
    while gcd(stride, pages.max(1)) != 1 {
        stride += 2;
    }
    stride
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
            if running {
                #[expect(clippy::cast_precision_loss, reason = "a slice is a few ms")]
                self.write_slice(slice as f64 / 1e9, speed, write);
            }
        }
    }

    /// A guest that stands still answers nobody.
    fn service_bytes_per_s(&self) -> f64 {
        if self.running { self.service_bytes_per_s * self.served } else { 0.0 }
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
        let mut guest = SyntheticGuest::new(model, model.populated_pages, Spread::NONE, 0.0, 3);
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
        let mut guest = SyntheticGuest::new(&model, 65_536, Spread::UNKNOWN, 5e6, 1);
        let mut writes = 0;
        let mut run = |guest: &mut SyntheticGuest, ms: u64, running| {
            let until = Tick::from_nanos(ms * 1_000_000);
            guest.run(until, running, Throttle::NONE, &mut |_| writes += 1);
            std::mem::take(&mut writes)
        };
        assert!(run(&mut guest, 1000, true) > 1000);
        assert!(guest.service_bytes_per_s() > 4e6);
        assert_eq!(run(&mut guest, 60_000, false), 0);
        assert!(guest.service_bytes_per_s() == 0.0);
        assert!(run(&mut guest, 61_000, true) < 60_000, "nothing was saved up");
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
}
