// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks 2, 3 and 7: distinct pages over windows of time and of operations.

use crate::stats::linear;

use super::Check;
use super::traffic::CYCLE_MEAN_S;

/// Bytes of a page.
const PAGE_BYTES: f64 = 4096.0;

/// Distinct pages in a window of so many seconds, or so many operations.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a point of a curve")]
pub struct CurvePoint {
    /// Length of the window, in seconds or operations.
    pub window: f64,
    /// Mean number of distinct pages written in it.
    pub pages: f64,
}

/// The curve that the model is held to (workload.md, 6.4):
/// `D(t) = K (1 - e^(-n/10)) + 30 n + U w (1 - e^(-n/U))` with `n = U t / 4.966`.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "the parameters of a formula")]
pub struct Analytic {
    /// Pages of the kernel's hot set, `K`.
    pub kernel_pages: f64,
    /// Operations after which a share of `1 - 1/e` of it is written.
    pub kernel_ops: f64,
    /// Fresh pages for each operation.
    pub fresh: f64,
    /// Private pages of a worker, `w`.
    pub private: f64,
}

impl Default for Analytic {
    /// The parameters of workload.md, 6.4.
    fn default() -> Self {
        Self { kernel_pages: 6000.0, kernel_ops: 10.0, fresh: 30.0, private: 200.0 }
    }
}

impl Analytic {
    /// Distinct pages written in a window of `seconds` under `users` users.
    #[must_use]
    pub fn pages(&self, users: f64, seconds: f64) -> f64 {
        let n = users * seconds / CYCLE_MEAN_S;
        self.kernel_pages * (1.0 - (-n / self.kernel_ops).exp())
            + self.fresh * n
            + users * self.private * (1.0 - (-n / users).exp())
    }
}

/// Check 2. `measured` holds users and distinct pages in windows of 1 s, at 100, 300 and 600
/// users, or at what these are on a scaled guest whose curve is `expected`.
#[must_use]
pub fn dirty_rate(measured: &[(f64, f64)], expected: &Analytic) -> Vec<Check> {
    let mut checks: Vec<Check> = measured
        .iter()
        .map(|&(users, pages)| {
            let want = expected.pages(users, 1.0) * PAGE_BYTES / 1e6;
            Check::new(
                2,
                format!("distinct MB in 1 s, {users} users"),
                pages * PAGE_BYTES / 1e6,
                (want * 0.85, want * 1.15),
                format!("analytic {want:.0} MB, 15 %"),
            )
        })
        .collect();
    // Two points are always on a line.
    let line = if measured.len() < 3 {
        Err(format!("{} loads are too few; at least 3 are needed", measured.len()))
    } else {
        linear(measured).map(|line| line.r2).map_err(|e| e.to_string())
    };
    let range = (0.98, f64::INFINITY);
    checks.push(Check::of(2, "linear in users: R2", line, range, "over the loads above"));
    checks
}

/// Check 3. `curve` is of the full load (600 users) and must reach from 0.5 to 8 s; `expected`
/// with `users` predicts where it meets a link of `bytes_per_s`; `without_keepalive` is the
/// distinct pages in 3 s of the same load with keep-alive off.
#[must_use]
pub fn wws_curve(
    curve: &[CurvePoint],
    users: f64,
    expected: &Analytic,
    bytes_per_s: f64,
    without_keepalive: f64,
) -> Vec<Check> {
    let at = |seconds: f64| {
        interpolate(curve, seconds)
            .ok_or_else(|| format!("the curve does not reach to {seconds} s"))
    };
    let ratio = |a: Result<f64, String>, b: Result<f64, String>| Ok::<_, String>(a? / b?);
    let mut checks: Vec<Check> = [0.5, 1.0, 2.0, 4.0]
        .into_iter()
        .map(|t| {
            Check::of(
                3,
                format!("D({} s) / D({t} s)", 2.0 * t),
                ratio(at(2.0 * t), at(t)),
                (1.5, 1.95),
                "concave, not flat",
            )
        })
        .collect();
    let link = bytes_per_s / PAGE_BYTES;
    let name = format!("round that repeats at {:.0} MB/s, s", bytes_per_s / 1e6);
    let want = fixed_point(|t| Some(expected.pages(users, t)), link);
    let (range, note) = match want {
        Some(want) => ((want * 0.8, want * 1.2), format!("analytic {want:.2} s, 20 %")),
        None => ((0.0, 0.0), "the analytic curve converges on this link".into()),
    };
    let got = fixed_point(|t| interpolate(curve, t), link)
        .ok_or("the curve does not meet the link where it was measured");
    checks.push(if want.is_none() && got.is_err() {
        Check::new(3, name, 0.0, range, note)
    } else {
        Check::of(3, name, got, range, note)
    });
    checks.push(Check::of(
        3,
        "D(3 s) with keep-alive on / off",
        ratio(at(3.0), Ok(without_keepalive)),
        (5.0, f64::INFINITY),
        "without it a few workers serve all",
    ));
    checks
}

/// The longest time after which as much is dirty as the link has sent in it: `D(t) = B t`. Below
/// it a pre-copy round grows, above it shrinks, so rounds end up there. Nothing if the curve does
/// not cross the link's line from above between 1 ms and 1000 s.
fn fixed_point(pages: impl Fn(f64) -> Option<f64>, link: f64) -> Option<f64> {
    // From long to short in steps of 1 %, then a straight line within the step.
    let excess = |t: f64| pages(t).map(|p| p - link * t);
    let mut longer: Option<(f64, f64)> = None;
    for step in 0..1389 {
        let t = 1000.0 * 0.99_f64.powi(step);
        let Some(here) = excess(t) else {
            longer = None;
            continue;
        };
        if let Some((t1, after)) = longer
            && here >= 0.0
            && after < 0.0
        {
            return Some(t + (t1 - t) * here / (here - after));
        }
        longer = Some((t, here));
    }
    None
}

/// A curve over operations, and what it was measured on.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name and points")]
pub struct OpsCurve<'a> {
    /// What was measured, such as `web-50`.
    pub name: &'a str,
    /// Points in order of their windows, which are numbers of operations.
    pub points: &'a [CurvePoint],
}

/// Check 7, the strongest: the model against a recording of the real site, in windows of 40 to 600
/// operations (q300's longest, 623, counts too). The model's curve is read between its points.
#[must_use]
pub fn against_trace(model: &[CurvePoint], trace: OpsCurve<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    for point in trace.points.iter().filter(|p| (40.0..=625.0).contains(&p.window)) {
        let ratio = interpolate(model, point.window)
            .map(|pages| pages / point.pages)
            .ok_or("the model was not measured at this window");
        checks.push(Check::of(
            7,
            format!("model / {} at {:.0} operations", trace.name, point.window),
            ratio,
            (0.75, 1.25),
            format!("{:.0} pages there, 25 %", point.pages),
        ));
    }
    if checks.is_empty() {
        let nothing = Err("the recording has no window from 40 to 600 operations");
        checks.push(Check::of(7, format!("model / {}", trace.name), nothing, (0.75, 1.25), ""));
    }
    checks
}

/// The curve at a window: between two points along a straight line in logarithms. Nothing
/// outside of them, but for one part in a thousand.
fn interpolate(curve: &[CurvePoint], window: f64) -> Option<f64> {
    let near = |p: &&CurvePoint| (p.window / window - 1.0).abs() < 1e-3;
    if let Some(point) = curve.iter().find(near) {
        return Some(point.pages);
    }
    curve.windows(2).find_map(|pair| {
        let [a, b] = [pair[0], pair[1]];
        (a.window < window && window < b.window && a.window > 0.0 && a.pages > 0.0).then(|| {
            let part = (window / a.window).ln() / (b.window / a.window).ln();
            a.pages * (b.pages / a.pages).powf(part)
        })
    })
}
