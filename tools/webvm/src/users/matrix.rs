// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mix: which action follows which (workload.md, section 1.1).

use std::fmt;
use std::str::FromStr;

use precopy::sim::Rng;
use serde::{Deserialize, Serialize};

use crate::site::Action;

use super::UsersError;

/// Actions of the mix.
const ACTIONS: usize = Action::ALL.len();
/// How far a row may be from 100 %.
const ROW_TOLERANCE: f64 = 0.01;
/// Steps of the power iteration; the mixes here settle in some dozens.
const STATIONARY_STEPS: usize = 2000;

/// Rows: the action just done; columns: the one that follows; percent.
type Rows = [[f64; ACTIONS]; ACTIONS];

/// Olio's, unchanged from 2008 to 2012.
const OLIO: Rows = [
    [0.0, 11.0, 52.0, 36.0, 0.0, 1.0, 0.0],
    [0.0, 0.0, 60.0, 20.0, 0.0, 0.0, 20.0],
    [21.0, 6.0, 41.0, 31.0, 0.0, 1.0, 0.0],
    [72.0, 21.0, 0.0, 0.0, 6.0, 1.0, 0.0],
    [52.0, 6.0, 0.0, 31.0, 11.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 100.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 100.0, 0.0, 0.0, 0.0],
];

/// NICTA's flat mixes by their name here, and the weight of each Add action beside five ones.
const WRITE_HEAVY: [(&str, f64); 5] = [
    ("write10", 0.3125),
    ("write20", 0.834),
    ("write30", 1.875),
    ("write40", 5.0),
    ("write50", 2300.0),
];

/// A Markov chain over the seven actions. Every row sums to 100 %.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Matrix {
    rows: Box<Rows>,
}

impl Default for Matrix {
    fn default() -> Self {
        Self { rows: Box::new(OLIO) }
    }
}

impl Matrix {
    /// A mix of one's own: `rows[from][to]` in percent, in the order of [`Action::ALL`].
    ///
    /// # Errors
    /// [`UsersError::Row`] for the first row that has an entry outside 0 to 100 or does not sum
    /// to 100, give or take 0.01.
    pub fn new(rows: [[f64; 7]; 7]) -> Result<Self, UsersError> {
        for (action, row) in Action::ALL.into_iter().zip(&rows) {
            let sum: f64 = row.iter().sum();
            let entries = row.iter().all(|entry| (0.0..=100.0).contains(entry));
            if !entries || (sum - 100.0).abs() > ROW_TOLERANCE {
                return Err(UsersError::Row { action, sum: format!("{sum}") });
            }
        }
        Ok(Self { rows: Box::new(rows) })
    }

    /// One of NICTA's flat mixes in which adding persons and events makes up about 10, 20, 30,
    /// 40 or 50 percent of all actions: a knob for the intensity of writing.
    #[must_use]
    pub fn write_heavy(percent: u32) -> Option<Self> {
        let name = format!("write{percent}");
        let (_, weight) = WRITE_HEAVY.iter().find(|(known, _)| *known == name)?;
        Some(Self::flat(*weight))
    }

    fn flat(weight: f64) -> Self {
        let mut rows = [[0.0; ACTIONS]; ACTIONS];
        for (action, row) in Action::ALL.into_iter().zip(&mut rows) {
            let adds = matches!(action, Action::AddPerson | Action::AddEvent);
            let weight = if adds { 0.0 } else { weight };
            let sum = 5.0 + 2.0 * weight;
            *row = [100.0 / sum; ACTIONS];
            row[5] = 100.0 * weight / sum;
            row[6] = row[5];
        }
        Self { rows: Box::new(rows) }
    }

    /// The chance in percent that `to` follows `from`.
    #[must_use]
    pub fn percent(&self, from: Action, to: Action) -> f64 {
        self.rows[from.index()][to.index()]
    }

    /// Draws what follows `from`.
    pub(crate) fn next(&self, from: Action, rng: &mut Rng) -> Action {
        let mut left = rng.unit() * 100.0;
        let mut last = from;
        for (action, percent) in Action::ALL.into_iter().zip(self.rows[from.index()]) {
            if percent > 0.0 {
                last = action;
                left -= percent;
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }

    /// The share of each action in the long run, from a start at the front page; sums to 1.
    #[must_use]
    pub fn stationary(&self) -> [f64; 7] {
        let mut shares = [0.0; ACTIONS];
        shares[Action::HomePage.index()] = 1.0;
        for _ in 0..STATIONARY_STEPS {
            // Half a step stays where it is, so that a periodic chain settles too.
            let mut next = shares.map(|share| share / 2.0);
            for (share, row) in shares.iter().zip(self.rows.iter()) {
                for (to, percent) in next.iter_mut().zip(row) {
                    *to += share / 2.0 * percent / 100.0;
                }
            }
            shares = next;
        }
        let sum: f64 = shares.iter().sum();
        shares.map(|share| share / sum)
    }
}

impl fmt::Display for Matrix {
    /// `olio`, `write10` to `write50`, or the rows: entries with `:` between, rows with `/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.rows == OLIO {
            return f.write_str("olio");
        }
        if let Some((name, _)) = WRITE_HEAVY.iter().find(|(_, w)| *self == Self::flat(*w)) {
            return f.write_str(name);
        }
        let row = |row: &[f64; ACTIONS]| row.map(|entry| entry.to_string()).join(":");
        f.write_str(&self.rows.iter().map(row).collect::<Vec<_>>().join("/"))
    }
}

impl FromStr for Matrix {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self, UsersError> {
        if text == "olio" {
            return Ok(Self::default());
        }
        if let Some((_, weight)) = WRITE_HEAVY.iter().find(|(name, _)| *name == text) {
            return Ok(Self::flat(*weight));
        }
        let bad = || UsersError::Value {
            name: "matrix",
            text: super::config::shorten(text),
            expected: "olio, write10, write20, write30, write40, write50, or seven rows of seven \
                       percentages as a:b:c:d:e:f:g/..",
        };
        let mut rows = [[0.0; ACTIONS]; ACTIONS];
        let lines: Vec<&str> = text.split('/').collect();
        if lines.len() != ACTIONS {
            return Err(bad());
        }
        for (row, line) in rows.iter_mut().zip(lines) {
            let entries: Vec<&str> = line.split(':').collect();
            if entries.len() != ACTIONS {
                return Err(bad());
            }
            for (entry, text) in row.iter_mut().zip(entries) {
                *entry = text.trim().parse().map_err(|_| bad())?;
            }
        }
        Self::new(rows)
    }
}

impl TryFrom<String> for Matrix {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self, UsersError> {
        text.parse()
    }
}

impl From<Matrix> for String {
    fn from(matrix: Matrix) -> Self {
        matrix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stationary_mix_is_the_published_one() {
        let want = [26.152, 10.223, 33.445, 24.681, 2.611, 0.843, 2.045];
        for (share, want) in Matrix::default().stationary().iter().zip(want) {
            assert!((share * 100.0 - want).abs() < 0.001, "{share} instead of {want} %");
        }
    }

    #[test]
    fn write_heavy_mixes_write_as_much_as_they_say() {
        for percent in [10, 20, 30, 40, 50] {
            let mix = Matrix::write_heavy(percent).unwrap();
            let shares = mix.stationary();
            let writes = 100.0 * (shares[5] + shares[6]);
            assert!((writes - f64::from(percent)).abs() < 0.1, "{writes} instead of {percent}");
            assert_eq!(mix.to_string(), format!("write{percent}"));
        }
        assert_eq!(Matrix::write_heavy(60), None);
    }

    #[test]
    fn rows_that_do_not_sum_are_named() {
        let mut rows = OLIO;
        rows[3][1] += 0.02;
        let error = Matrix::new(rows).unwrap_err();
        assert!(error.to_string().contains("EventDetail"), "{error}");
        rows[3][1] -= 0.015;
        let matrix = Matrix::new(rows).unwrap();
        assert_eq!(matrix.to_string().parse(), Ok(matrix));
        rows[2] = [-1.0, 101.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!(Matrix::new(rows).is_err());
        rows[2] = [f64::NAN, 100.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert!(Matrix::new(rows).is_err());
    }
}
