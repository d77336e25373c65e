// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many distinct pages a guest dirties within a window: the curve that decides a migration.

use precopy::bitmap::DenseBitmap;
use serde::{Deserialize, Serialize};

use super::PredictError;

/// Most points that a curve may have.
pub const POINTS_MAX: usize = 1000;
/// Most pages of a guest whose migration is predicted: 256 GiB of 4 KiB pages. The simulation
/// keeps a few counters a page.
pub const PAGES_MAX: u64 = 1 << 26;

/// One point of a curve.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a row of a table")]
pub struct WwsPoint {
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Distinct pages dirtied in such a window, on average.
    pub pages: f64,
    /// Standard deviation of `pages` from window to window, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd_pages: Option<f64>,
}

/// A writable working set as a function of the window, and the memory that it lies in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct WwsCurve {
    populated_pages: u64,
    total_pages: u64,
    points: Vec<WwsPoint>,
}

/// A curve as it stands in a file.
#[derive(Deserialize)]
struct Unchecked {
    populated_pages: u64,
    total_pages: Option<u64>,
    points: Vec<WwsPoint>,
}

impl TryFrom<Unchecked> for WwsCurve {
    type Error = PredictError;

    fn try_from(raw: Unchecked) -> Result<Self, PredictError> {
        let curve = Self::new(raw.points, raw.populated_pages)?;
        match raw.total_pages {
            Some(pages) => curve.with_total_pages(pages),
            None => Ok(curve),
        }
    }
}

/// Relative standard deviations of a working set.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct Spread {
    /// From one second to the next.
    pub short: f64,
    /// From one window of the longest kind to the next: from migration to migration.
    pub long: f64,
}

impl Spread {
    /// Where the curve does not say: the 8 % from round to round of workload.md 6.4, and half of
    /// it from run to run.
    pub const UNKNOWN: Self = Self { short: 0.08, long: 0.04 };
    /// No noise at all.
    pub const NONE: Self = Self { short: 0.0, long: 0.0 };
}

impl WwsCurve {
    /// A curve over a guest with `populated_pages` pages of 4 KiB that hold something.
    ///
    /// # Errors
    /// [`PredictError::Curve`] if the windows are not positive and ascending, a value is negative
    /// or not finite, there are fewer than 2 or more than [`POINTS_MAX`] points, or the guest has
    /// no pages or more than [`PAGES_MAX`].
    pub fn new(points: Vec<WwsPoint>, populated_pages: u64) -> Result<Self, PredictError> {
        let bad = |what: String| Err(PredictError::Curve { what });
        if !(2..=POINTS_MAX).contains(&points.len()) {
            return bad(format!("{} points; from 2 to {POINTS_MAX}", points.len()));
        }
        if !(1..=PAGES_MAX).contains(&populated_pages) {
            return bad(format!("populated_pages is {populated_pages}; from 1 to {PAGES_MAX}"));
        }
        let mut before = 0.0;
        for WwsPoint { window_s, pages, sd_pages } in &points {
            if !(window_s.is_finite() && *window_s > before) {
                return bad(format!("window_s {window_s} after {before}; it must ascend from 0"));
            }
            for (name, value) in [("pages", Some(*pages)), ("sd_pages", *sd_pages)] {
                if value.is_some_and(|v| !v.is_finite() || v < 0.0) {
                    let value = value.unwrap_or(0.0);
                    return bad(format!("{name} is {value} at {window_s} s; 0 or more"));
                }
            }
            before = *window_s;
        }
        Ok(Self { populated_pages, total_pages: populated_pages, points })
    }

    /// The same guest with more memory than it has populated; some policies look at it.
    ///
    /// # Errors
    /// [`PredictError::Curve`] if that is less than what is populated, or more than [`PAGES_MAX`].
    pub fn with_total_pages(mut self, pages: u64) -> Result<Self, PredictError> {
        if !(self.populated_pages..=PAGES_MAX).contains(&pages) {
            let least = self.populated_pages;
            let what = format!("total_pages is {pages}; from {least} to {PAGES_MAX}");
            return Err(PredictError::Curve { what });
        }
        self.total_pages = pages;
        Ok(self)
    }

    /// The same working set in a guest with other `populated_pages`.
    ///
    /// # Errors
    /// [`PredictError::Curve`] as [`new`](Self::new).
    pub fn with_populated_pages(self, pages: u64) -> Result<Self, PredictError> {
        let total = self.total_pages;
        let curve = Self::new(self.points, pages)?;
        if total > pages { curve.with_total_pages(total) } else { Ok(curve) }
    }

    /// Reads lines `window_s,pages` or `window_s,pages,sd_pages`. A heading, empty lines and lines
    /// from `#` on are passed over; `# populated_pages=N` is read, and `populated_pages` stands in
    /// for it.
    ///
    /// # Errors
    /// [`PredictError::Csv`] with the line, or [`PredictError::Curve`].
    pub fn from_csv(text: &str, populated_pages: Option<u64>) -> Result<Self, PredictError> {
        let (mut points, mut told) = (Vec::new(), None);
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            let bad = || PredictError::Csv { line: at + 1, text: shorten(line) };
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(number) = comment.trim().strip_prefix("populated_pages=") {
                    told = Some(number.trim().parse().map_err(|_| bad())?);
                }
                continue;
            }
            if line.is_empty() || (points.is_empty() && line.starts_with("window")) {
                continue;
            }
            let fields: Result<Vec<f64>, _> = line.split(',').map(|f| f.trim().parse()).collect();
            let point = match fields.map_err(|_| bad())?[..] {
                [window_s, pages] => WwsPoint { window_s, pages, sd_pages: None },
                [window_s, pages, sd] => WwsPoint { window_s, pages, sd_pages: Some(sd) },
                _ => return Err(bad()),
            };
            points.push(point);
            if points.len() > POINTS_MAX {
                break;
            }
        }
        match populated_pages.or(told) {
            Some(pages) => Self::new(points, pages),
            None => Err(PredictError::Curve { what: "populated_pages is not known".to_owned() }),
        }
    }

    /// The curve that workload.md 6.4 gives for the web tier of `users` users, each with `w`
    /// private pages, at `cycle_s` seconds from one action to the next, in a guest of
    /// `populated_pages`.
    ///
    /// # Errors
    /// [`PredictError::Curve`] if the numbers make no curve.
    pub fn web(
        users: f64,
        w: f64,
        cycle_s: f64,
        populated_pages: u64,
    ) -> Result<Self, PredictError> {
        const HOT: f64 = 6000.0;
        const FRESH_PER_ACTION: f64 = 30.0;
        #[expect(clippy::cast_precision_loss, reason = "a page count")]
        let most = populated_pages as f64;
        let pages = |window_s: f64| {
            let n = users / cycle_s * window_s;
            let private = if users > 0.0 { users * w * (1.0 - (-n / users).exp()) } else { 0.0 };
            (HOT * (1.0 - (-n / 10.0).exp()) + FRESH_PER_ACTION * n + private).min(most)
        };
        let windows = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0, 60.0];
        let point = |window_s| WwsPoint { window_s, pages: pages(window_s), sd_pages: None };
        Self::new(windows.map(point).to_vec(), populated_pages)
    }

    /// The curve of a guest whose dirty record was harvested every `interval_s` seconds: windows
    /// of 1, 2, 4, ... harvests, for as long as there are two of them.
    ///
    /// # Errors
    /// [`PredictError::Curve`] if there are fewer than 4 harvests or they differ in length.
    pub fn from_harvests(
        interval_s: f64,
        harvests: &[DenseBitmap],
        populated_pages: u64,
    ) -> Result<Self, PredictError> {
        let bad = |what: &str| PredictError::Curve { what: what.to_owned() };
        let mut points = Vec::new();
        let mut length = 1;
        while harvests.len() / length >= 2 {
            let mut counts = Vec::new();
            for window in harvests.chunks_exact(length) {
                let mut all = window[0].clone();
                for more in &window[1..] {
                    all.or_with(more).map_err(|_| bad("harvests of different length"))?;
                }
                counts.push(all.count());
            }
            points.push(point_of(interval_s, length, &counts));
            length *= 2;
        }
        if points.len() < 2 {
            return Err(bad("fewer than 4 harvests"));
        }
        Self::new(points, populated_pages)
    }

    /// The same guest with `factor` times the pages in every window, none above what is populated.
    ///
    /// # Errors
    /// [`PredictError::Parameter`] if `factor` is not a number from 0 to 1,000,000.
    pub fn scaled(&self, factor: f64) -> Result<Self, PredictError> {
        super::within("factor", factor, 0.0, 1e6, "from 0 to 1000000")?;
        let mut scaled = self.clone();
        #[expect(clippy::cast_precision_loss, reason = "a page count")]
        let most = self.populated_pages as f64;
        for point in &mut scaled.points {
            point.pages = (point.pages * factor).min(most);
            point.sd_pages = point.sd_pages.map(|sd| sd * factor);
        }
        Ok(scaled)
    }

    /// The points, by window.
    #[must_use]
    pub fn points(&self) -> &[WwsPoint] {
        &self.points
    }

    /// Pages that hold something.
    #[must_use]
    pub fn populated_pages(&self) -> u64 {
        self.populated_pages
    }

    /// Pages of the guest, populated or not.
    #[must_use]
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// How much the working set varies; [`Spread::UNKNOWN`] if the curve does not say.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let known = |p: &&WwsPoint| p.sd_pages.is_some() && p.pages > 0.0;
        let share = |p: &WwsPoint| (p.sd_pages.unwrap_or(0.0) / p.pages).min(1.0);
        let from_a_second = |p: &&WwsPoint| p.window_s.ln().abs();
        let second = self.points.iter().filter(known);
        let second = second.min_by(|a, b| from_a_second(a).total_cmp(&from_a_second(b)));
        match (second, self.points.iter().rfind(known)) {
            (Some(second), Some(last)) => Spread { short: share(second), long: share(last) },
            _ => Spread::UNKNOWN,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "page counts")]
fn point_of(interval_s: f64, length: usize, counts: &[u64]) -> WwsPoint {
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<u64>() as f64 / n;
    let square = |count: &u64| (*count as f64 - mean).powi(2);
    let variance = counts.iter().map(square).sum::<f64>() / (n - 1.0).max(1.0);
    WwsPoint { window_s: interval_s * length as f64, pages: mean, sd_pages: Some(variance.sqrt()) }
}

fn shorten(line: &str) -> String {
    line.chars().take(40).collect()
}
