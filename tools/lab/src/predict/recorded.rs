// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The curve of a recorded guest.

use std::time::Duration;

use precopy::units::PageRun;

use super::PredictError;
use super::curve::{WwsCurve, WwsPoint};
use crate::traces::Trace;

/// Windows shorter than this say nothing about rounds.
const SHORTEST_S: f64 = 0.05;

impl WwsCurve {
    /// The working set of a trace: windows that double from one epoch (or 50 ms) to half of the
    /// trace. Means are over all sliding windows, deviations over windows that do not overlap.
    /// Every page of the guest counts as populated.
    ///
    /// # Errors
    /// [`PredictError::Curve`] if the trace is shorter than eight epochs, has other pages than of
    /// 4 KiB, or too many.
    pub fn from_trace(trace: &Trace) -> Result<Self, PredictError> {
        let bad = |what: String| PredictError::Curve { what };
        let page_size = trace.header().page_size;
        if page_size != 4096 {
            return Err(bad(format!("page_size of the trace is {page_size}; it must be 4096")));
        }
        let epochs = trace.epochs();
        if epochs < 8 {
            return Err(bad(format!("the trace has {epochs} epochs; 8 or more are needed")));
        }
        #[expect(clippy::cast_precision_loss, reason = "a number of epochs")]
        let seconds = |length: usize| trace.length_s() * length as f64 / epochs as f64;
        let lengths = std::iter::successors(Some(1usize), |length| length.checked_mul(2));
        let lengths = lengths.take_while(|length| epochs / length >= 2);
        let mut points = Vec::new();
        let mut seen = vec![0; trace.pages()];
        for length in lengths.filter(|length| seconds(*length) >= SHORTEST_S) {
            let window_s = seconds(length);
            let window = Duration::try_from_secs_f64(window_s).unwrap_or(Duration::MAX);
            let pages = trace.working_set(window)?.mean;
            let sd_pages = Some(deviation(&counts(trace, length, &mut seen)));
            points.push(WwsPoint { window_s, pages, sd_pages });
        }
        Self::new(points, trace.header().pages)
    }
}

/// Distinct pages of each window of `length` epochs, one after the other. `seen` has an entry a
/// page, of any value.
fn counts(trace: &Trace, length: usize, seen: &mut [usize]) -> Vec<f64> {
    seen.fill(0);
    let windows = trace.epochs() / length;
    let mut counts = vec![0.0; windows];
    for epoch in 0..windows * length {
        let window = epoch / length;
        for page in trace.runs(epoch).flat_map(PageRun::iter) {
            if std::mem::replace(&mut seen[page.as_usize()], window + 1) != window + 1 {
                counts[window] += 1.0;
            }
        }
    }
    counts
}

#[expect(clippy::cast_precision_loss, reason = "a number of windows")]
fn deviation(counts: &[f64]) -> f64 {
    let n = counts.len() as f64;
    let mean = counts.iter().sum::<f64>() / n;
    let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
    (squares / (n - 1.0).max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::WwsModel;
    use crate::traces::Recording;

    #[test]
    fn recordings_have_curves_that_fit() {
        for recording in [Recording::Web50, Recording::Processes300, Recording::Processes600] {
            let curve = WwsCurve::from_trace(&recording.trace().unwrap()).unwrap();
            let model = WwsModel::fit(&curve);
            println!("{}: {:?} {:?}", recording.name(), curve.spread(), curve.points());
            println!("  {model:?}");
            assert!(model.worst_error < 0.10, "{}: {}", recording.name(), model.worst_error);
            assert!(curve.spread().short > 0.01);
        }
    }
}
