// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A working set as classes of pages, each rewritten at its own rate.
//!
//! `D(t) = sum of N_i (1 - exp(-r_i t)) + fresh t`: N_i pages rewritten as Poisson processes of
//! rate r_i, and pages that are written once. Every such curve rises and bends down, as working
//! sets do (workload.md 6.4 has this form with two classes).

use serde::{Deserialize, Serialize};

use super::curve::WwsCurve;
use super::nnls;

/// Ratio of two neighbouring rates of the grid.
const RATIO: f64 = 1.6;
/// Most rates of the grid.
const RATES_MAX: usize = 64;

/// Pages that are rewritten alike.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct PageClass {
    /// How many.
    pub pages: f64,
    /// Writes to each of them per second.
    pub rate_per_s: f64,
}

/// A fitted working set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WwsModel {
    /// The classes, the fastest first. Together they have at most `populated_pages`.
    pub classes: Vec<PageClass>,
    /// Pages per second that are written once, in the rest of memory.
    pub fresh_pages_per_s: f64,
    /// Pages that hold something.
    pub populated_pages: u64,
    /// Largest relative error at the curve's points.
    pub worst_error: f64,
}

impl WwsModel {
    /// The mixture nearest to a curve, in relative terms.
    #[must_use]
    pub fn fit(curve: &WwsCurve) -> Self {
        let points: Vec<_> = curve.points().iter().filter(|p| p.pages > 0.0).collect();
        let windows = || points.iter().map(|p| p.window_s);
        let shortest = windows().fold(f64::INFINITY, f64::min);
        let longest = windows().fold(0.0, f64::max);
        let rates: Vec<f64> =
            std::iter::successors(Some(0.25 / longest), |rate| Some(rate * RATIO))
                .take_while(|rate| *rate < 4.0 / shortest * RATIO)
                .take(RATES_MAX)
                .collect();
        let column = |covered: &dyn Fn(f64) -> f64| -> Vec<f64> {
            points.iter().map(|p| covered(p.window_s) / p.pages).collect()
        };
        let mut columns: Vec<_> =
            rates.iter().map(|rate| column(&|t| 1.0 - (-rate * t).exp())).collect();
        columns.push(column(&|t| t));
        let mut found = nnls::solve(&columns, &vec![1.0; points.len()]);
        let fresh = found.pop().unwrap_or(0.0);
        let classes = rates.iter().zip(found).rev().filter(|(_, pages)| *pages > 0.0);
        let classes = classes.map(|(rate, pages)| PageClass { pages, rate_per_s: *rate }).collect();
        let mut model = Self {
            classes,
            fresh_pages_per_s: fresh,
            populated_pages: curve.populated_pages(),
            worst_error: 0.0,
        };
        model.keep_within_the_guest();
        let errors = points.iter().map(|p| (model.at(p.window_s) / p.pages - 1.0).abs());
        model.worst_error = errors.fold(0.0, f64::max);
        model
    }

    /// Slow classes that do not fit into the guest any more become fresh pages.
    fn keep_within_the_guest(&mut self) {
        let mut room = self.populated();
        for class in &mut self.classes {
            let pages = class.pages.min(room);
            self.fresh_pages_per_s += (class.pages - pages) * class.rate_per_s;
            class.pages = pages;
            room -= pages;
        }
        self.classes.retain(|class| class.pages > 0.0);
    }

    #[expect(clippy::cast_precision_loss, reason = "a page count")]
    fn populated(&self) -> f64 {
        self.populated_pages as f64
    }

    /// Distinct pages dirtied within `window_s` seconds: from 0 to `populated_pages`.
    #[must_use]
    pub fn at(&self, window_s: f64) -> f64 {
        let t = window_s.max(0.0);
        let held: f64 = self.classes.iter().map(|class| class.pages).sum();
        let written = |class: &PageClass| class.pages * (1.0 - (-class.rate_per_s * t).exp());
        let rewritten: f64 = self.classes.iter().map(written).sum();
        let rest = (self.populated() - held).max(0.0);
        (rewritten + (self.fresh_pages_per_s * t).min(rest)).min(self.populated())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::WwsPoint;
    use proptest::prelude::*;

    fn curve(pages: u64, windows: &[f64], at: impl Fn(f64) -> f64) -> WwsCurve {
        let point =
            |window_s: &f64| WwsPoint { window_s: *window_s, pages: at(*window_s), sd_pages: None };
        WwsCurve::new(windows.iter().map(point).collect(), pages).unwrap()
    }

    const WINDOWS: [f64; 9] = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];

    #[test]
    fn a_known_mixture_is_found_again() {
        let known = |t: f64| {
            5000.0 * (1.0 - (-12.0 * t).exp()) + 60_000.0 * (1.0 - (-0.2 * t).exp()) + 2000.0 * t
        };
        let model = WwsModel::fit(&curve(524_288, &WINDOWS, known));
        assert!(model.worst_error < 0.005, "{model:?}");
        // Between the points, and as far again beyond them.
        for t in [0.15, 0.35, 0.7, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 64.0] {
            let off = model.at(t) / known(t) - 1.0;
            assert!(off.abs() < 0.05, "{t} s: {} against {}", model.at(t), known(t));
        }
        // What is hot, and what is slow, by number of pages.
        let part = |slow: bool| -> f64 {
            let of = |class: &&PageClass| (class.rate_per_s < 1.5) == slow;
            model.classes.iter().filter(of).map(|class| class.pages).sum()
        };
        assert!((part(false) / 5000.0 - 1.0).abs() < 0.05, "{model:?}");
    }

    #[test]
    fn the_web_tier_fits() {
        for users in [100.0, 300.0, 600.0] {
            let curve = WwsCurve::web(users, 200.0, 4.966, 524_288).unwrap();
            let model = WwsModel::fit(&curve);
            assert!(model.worst_error < 0.01, "{users}: {model:?}");
        }
    }

    #[test]
    fn an_idle_guest_has_no_classes() {
        let model = WwsModel::fit(&curve(100, &WINDOWS, |_| 0.0));
        assert!(model.classes.is_empty() && model.fresh_pages_per_s == 0.0);
        assert!(model.at(1e9) == 0.0);
    }

    proptest! {
        /// Whatever was measured: no class is negative, the whole is never above the guest, and
        /// a longer window never has fewer pages.
        #[test]
        fn never_negative_never_above_the_guest(
            counts in prop::collection::vec(0.0f64..300_000.0, 2..12),
            pages in 1u64..200_000,
        ) {
            let windows = std::iter::successors(Some(0.1), |w| Some(w * 1.9));
            let windows: Vec<f64> = windows.take(counts.len()).collect();
            let at = |t: f64| counts[windows.iter().position(|w| *w == t).unwrap()];
            let model = WwsModel::fit(&curve(pages, &windows, at));
            prop_assert!(model.fresh_pages_per_s >= 0.0);
            prop_assert!(model.classes.iter().all(|c| c.pages > 0.0 && c.rate_per_s > 0.0));
            let sum: f64 = model.classes.iter().map(|c| c.pages).sum();
            prop_assert!(sum <= pages as f64 * (1.0 + 1e-9), "{sum} of {pages}");
            let mut before = 0.0;
            for step in 0..200 {
                let now = model.at(0.01 * 1.1f64.powi(step));
                prop_assert!(now >= before - 1e-6 && now <= pages as f64, "{before} {now}");
                before = now;
            }
        }
    }
}
