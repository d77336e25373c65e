// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the link carries over time.

use std::time::Duration;

use super::OracleError;

/// The link's rate for the migration as a piecewise constant function of time, counted from the
/// beginning of the migration.
#[derive(Clone, PartialEq, Debug)]
pub struct Capacity {
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Piece {
    from: Duration,
    /// Carried until then.
    before_bytes: f64,
    bytes_per_s: f64,
}

impl Capacity {
    /// The same rate all the time.
    ///
    /// # Errors
    /// [`OracleError::Rate`] if it is no finite number of at least 0.
    pub fn constant(bytes_per_s: f64) -> Result<Self, OracleError> {
        Self::steps(&[(Duration::ZERO, bytes_per_s)])
    }

    /// From each time on this rate, in bytes per second. Before the first one nothing is carried.
    ///
    /// # Errors
    /// [`OracleError::Rate`] if a rate is no finite number of at least 0, or a time not later than
    /// the one before.
    pub fn steps(steps: &[(Duration, f64)]) -> Result<Self, OracleError> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(steps.len());
        for &(from, bytes_per_s) in steps {
            let last = pieces.last();
            let in_order = last.is_none_or(|last| last.from < from);
            if !(bytes_per_s.is_finite() && bytes_per_s >= 0.0 && in_order) {
                return Err(OracleError::Rate { from, bytes_per_s });
            }
            let before_bytes = last.map_or(0.0, |last| last.carried_bytes(from));
            pieces.push(Piece { from, before_bytes, bytes_per_s });
        }
        Ok(Self { pieces })
    }

    /// Bytes that it carries from the beginning until then.
    #[must_use]
    pub fn carried_bytes(&self, until: Duration) -> f64 {
        let at = self.pieces.partition_point(|piece| piece.from <= until);
        at.checked_sub(1).map_or(0.0, |at| self.pieces[at].carried_bytes(until))
    }

    /// How long it takes to carry so many bytes from then on; `None` if it never does.
    #[must_use]
    pub fn time_for(&self, from: Duration, bytes: f64) -> Option<Duration> {
        let due = self.carried_bytes(from) + bytes.max(0.0);
        // The last piece that begins with less; what follows has all of it behind it.
        let at = self.pieces.partition_point(|piece| piece.before_bytes < due);
        let Some(piece) = at.checked_sub(1).map(|at| self.pieces[at]) else {
            return Some(Duration::ZERO);
        };
        let takes = (due - piece.before_bytes) / piece.bytes_per_s;
        let then = piece.from.checked_add(Duration::try_from_secs_f64(takes).ok()?)?;
        Some(then.saturating_sub(from))
    }
}

impl Piece {
    fn carried_bytes(&self, until: Duration) -> f64 {
        self.before_bytes + until.saturating_sub(self.from).as_secs_f64() * self.bytes_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pieces_add_up() {
        let link = Capacity::steps(&[(ms(100), 1000.0), (ms(600), 0.0), (ms(1600), 500.0)]);
        let link = link.unwrap();
        for (until, carried) in [(0, 0.0), (100, 0.0), (350, 250.0), (600, 500.0), (1600, 500.0)] {
            assert!((link.carried_bytes(ms(until)) - carried).abs() < 1e-9, "{until}");
        }
        assert!((link.carried_bytes(ms(2600)) - 1000.0).abs() < 1e-9);
        assert_eq!(link.time_for(ms(0), 0.0), Some(ms(0)));
        assert_eq!(link.time_for(ms(100), 250.0), Some(ms(250)));
        assert_eq!(link.time_for(ms(350), 500.0), Some(ms(1750)), "over the pause of the link");
        assert_eq!(link.time_for(ms(350), 250.0), Some(ms(250)), "not a moment longer");
        let over = Capacity::steps(&[(ms(0), 100.0), (ms(1000), 0.0)]).unwrap();
        assert_eq!(over.time_for(ms(0), 101.0), None);
        assert_eq!(over.time_for(ms(2000), 1.0), None);
    }

    #[test]
    fn rates_are_checked() {
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(Capacity::constant(bad).is_err(), "{bad}");
        }
        assert!(Capacity::steps(&[(ms(1), 1.0), (ms(1), 2.0)]).is_err());
    }
}
