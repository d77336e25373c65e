// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The values of several runs: median and range.

use serde::{Deserialize, Serialize};

use super::real::Real;

/// The values of several runs, one per seed in the order of the seeds. JSON carries median,
/// least and greatest beside them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub struct Spread {
    values: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    median: Option<Real>,
    min: Option<Real>,
    max: Option<Real>,
    values: Vec<Real>,
}

impl From<Spread> for Written {
    fn from(spread: Spread) -> Self {
        Self {
            median: spread.median().map(Real),
            min: spread.min().map(Real),
            max: spread.max().map(Real),
            values: spread.values.into_iter().map(Real).collect(),
        }
    }
}

impl From<Written> for Spread {
    fn from(written: Written) -> Self {
        Self::of(written.values.into_iter().map(|value| value.0))
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self::of(values)
    }
}

impl Spread {
    /// The values of the runs. Infinity stands for a run in which it never came about.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        Self { values: values.into_iter().collect() }
    }

    /// Answers to a yes-or-no question, one per run.
    #[must_use]
    pub fn of_answers(answers: impl IntoIterator<Item = bool>) -> Self {
        Self::of(answers.into_iter().map(f64::from))
    }

    /// The values in the order of the seeds.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The middle value, or the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *sorted.get(sorted.len() / 2 - 1)?;
        // Infinite ones too: half of each, not half of the sum, makes no new infinity.
        Some(lower / 2.0 + upper / 2.0)
    }

    /// The least value.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        self.values.iter().copied().min_by(f64::total_cmp)
    }

    /// The greatest value.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.values.iter().copied().max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn median_of_even_odd_and_none() {
        assert_eq!(Spread::default().median(), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(Spread::of([f64::INFINITY, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(Spread::of([f64::INFINITY, 1.0]).median(), Some(f64::INFINITY));
    }

    proptest! {
        #[test]
        fn half_lies_on_either_side(values in prop::collection::vec(-1e9..1e9f64, 1..40)) {
            let spread = Spread::of(values.clone());
            let median = spread.median().unwrap();
            let below = values.iter().filter(|&&v| v < median).count();
            let above = values.iter().filter(|&&v| v > median).count();
            prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
            prop_assert!(spread.min().unwrap() <= median && median <= spread.max().unwrap());
        }
    }
}
