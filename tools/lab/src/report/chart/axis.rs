// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Axes: a range, its ticks, and where a value lies.

use super::super::format::{given, sig};

/// An axis. Its ends are ticks or the data's own ends, never equal, always finite.
#[derive(Clone, Debug)]
pub(in super::super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Value and label.
    ticks: Vec<(f64, String)>,
    pub(super) title: String,
}

impl Axis {
    /// From `low` to `high`, widened to ticks, about `count` of them.
    pub(in super::super) fn linear(low: f64, high: f64, count: u32, title: &str) -> Self {
        let (low, high) = sane(low, high);
        let step = nice_step((high - low) / f64::from(count.max(1)));
        let axis = Self::exact(low, high, count, title);
        let low = (low / step).floor() * step;
        let high = (high / step).ceil() * step;
        Self { low, high, ticks: linear_ticks(low, high, step), ..axis }
    }

    /// From exactly `low` to exactly `high`, with ticks at round values between.
    pub(in super::super) fn exact(low: f64, high: f64, count: u32, title: &str) -> Self {
        let (low, high) = sane(low, high);
        let step = nice_step((high - low) / f64::from(count.max(1)));
        let ticks = linear_ticks(low, high, step);
        Self { low, high, log: false, ticks, title: title.to_owned() }
    }

    /// Logarithmic over `low` to `high`, both above zero, widened to ticks.
    pub(in super::super) fn log(low: f64, high: f64, title: &str) -> Self {
        let low = if low > 0.0 && low.is_finite() { low } else { 1e-3 };
        let high = if high > low && high.is_finite() { high } else { low * 10.0 };
        let decades = (high / low).log10();
        let parts: &[f64] = match decades {
            d if d <= 2.0 => &[1.0, 2.0, 5.0],
            d if d <= 3.5 => &[1.0, 3.0],
            _ => &[1.0],
        };
        let mut values = Vec::new();
        let mut decade = 10f64.powf(low.log10().floor() - 1.0);
        // Sixty decades are more than any quantity here spans.
        for _ in 0..60 {
            values.extend(parts.iter().map(|part| part * decade));
            decade *= 10.0;
        }
        // A little room for rounding: 0.001 is a power of ten, not more than one.
        let first = values.iter().rposition(|&v| v <= low * (1.0 + 1e-9)).unwrap_or(0);
        let last = values.iter().position(|&v| v >= high * (1.0 - 1e-9));
        let last = last.unwrap_or(values.len() - 1);
        let within = values.get(first..=last).unwrap_or_default();
        let ends = (within.first().copied(), within.last().copied());
        let (Some(low), Some(high)) = ends else {
            return Self::exact(low, high, 5, title);
        };
        let ticks = within.iter().map(|&value| (value, short(value))).collect();
        Self { low, high, log: true, ticks, title: title.to_owned() }
    }

    /// Ticks at exactly these values, over a range a little wider.
    pub(in super::super) fn at(values: &[f64], title: &str) -> Self {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = sane(low, high);
        let margin = (high - low) * 0.06;
        let ticks = values.iter().map(|&value| (value, given(value))).collect();
        let (low, high) = (low - margin, high + margin);
        Self { low, high, log: false, ticks, title: title.to_owned() }
    }

    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }

    /// The ends.
    pub(in super::super) fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    pub(super) fn is_log(&self) -> bool {
        self.log
    }

    /// Where a value lies between the ends, 0 to 1; clipped to the ends, so that an infinite
    /// value lies at the edge.
    pub(super) fn share(&self, value: f64) -> f64 {
        let map = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (map(self.low), map(self.high));
        if value.is_nan() {
            return 0.0;
        }
        ((map(value) - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// Whether a value lies between the ends.
    pub(super) fn holds(&self, value: f64) -> bool {
        let slack = (self.high - self.low).abs() * 1e-9;
        value >= self.low - slack && value <= self.high + slack
    }
}

/// A range with two different finite ends.
fn sane(low: f64, high: f64) -> (f64, f64) {
    let low = if low.is_finite() { low } else { 0.0 };
    let high = if high.is_finite() { high } else { low + 1.0 };
    if high > low { (low, high) } else { (low, low + low.abs().max(1.0)) }
}

/// The round number (1, 2 or 5 times a power of ten) that is not below `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let part = rough / power;
    let nice = [1.0, 2.0, 5.0].into_iter().find(|&nice| part <= nice * (1.0 + 1e-9));
    nice.unwrap_or(10.0) * power
}

fn linear_ticks(low: f64, high: f64, step: f64) -> Vec<(f64, String)> {
    let first = (low / step - 1e-9).ceil();
    (0..200u32)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|&value| value <= high + step * 1e-6)
        // 0.30000000000000004 is 0.3, and no tick is at minus zero.
        .map(|value| if value.abs() < step * 1e-6 { 0.0 } else { value })
        .map(|value| (value, tick_label(value, step)))
        .collect()
}

/// Thousands as such, so that labels stay short.
fn short(value: f64) -> String {
    let thousands = value / 1_000.0;
    if thousands.abs() >= 10.0 && thousands.fract() == 0.0 {
        format!("{}k", sig(thousands))
    } else {
        sig(value)
    }
}

/// As many decimals as the step has.
fn tick_label(value: f64, step: f64) -> String {
    if step >= 1.0 {
        return short(value.round());
    }
    [(0.1, 1usize), (0.01, 2), (0.001, 3)]
        .into_iter()
        .find(|(least, _)| step >= least * (1.0 - 1e-9))
        .map_or_else(|| sig(value), |(_, decimals)| format!("{value:.decimals$}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks().iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(&Axis::linear(0.0, 4.7, 5, "")), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!(labels(&Axis::linear(0.0, 0.13, 3, "")), ["0.00", "0.05", "0.10", "0.15"]);
        assert_eq!(labels(&Axis::exact(283.0, 361.0, 5, "")), ["300", "320", "340", "360"]);
        assert_eq!(labels(&Axis::linear(0.0, 2400.0, 3, "")), ["0", "1,000", "2,000", "3,000"]);
        assert_eq!(
            labels(&Axis::log(0.012, 3.1, "")),
            ["0.01", "0.03", "0.1", "0.3", "1", "3", "10"]
        );
    }

    #[test]
    fn odd_ranges_have_axes_too() {
        for (low, high) in
            [(0.0, 0.0), (5.0, 5.0), (f64::NAN, 1.0), (3.0, f64::INFINITY), (2.0, 1.0)]
        {
            for axis in [
                Axis::linear(low, high, 5, ""),
                Axis::log(low, high, ""),
                Axis::exact(low, high, 5, ""),
            ] {
                let (from, to) = axis.range();
                assert!(from.is_finite() && to.is_finite() && from < to, "{low} {high} {axis:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_value_lies_between_the_ends(
            low in -1e6..1e6f64,
            width in 1e-6..1e6f64,
            at in 0.0..1.0f64,
        ) {
            let axis = Axis::linear(low, low + width, 6, "");
            prop_assert!(axis.holds(low + width * at));
            let n = axis.ticks().len();
            prop_assert!((2..=14).contains(&n), "{n} ticks");
            prop_assert!((0.0..=1.0).contains(&axis.share(low + width * at)));
        }

        #[test]
        fn logarithmic_axes_hold_their_data(low in 1e-6..1e3f64, factor in 1.01..1e6f64) {
            let axis = Axis::log(low, low * factor, "");
            prop_assert!(axis.holds(low) && axis.holds(low * factor), "{axis:?}");
            prop_assert!(axis.ticks().len() <= 14);
        }
    }
}
