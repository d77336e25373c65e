// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What several policies keep of the past: a smoothed value, the last few values, rounds.

use std::collections::VecDeque;

use super::{Moment, Observation};

/// An exponentially weighted moving average. Starts with its first sample.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Ewma {
    /// Weight of the newest sample, 0 to 1.
    alpha: f64,
    value: Option<f64>,
}

impl Ewma {
    pub(super) const fn new(alpha: f64) -> Self {
        Self { alpha, value: None }
    }

    /// Takes a sample in; one that is no positive finite number says nothing.
    pub(super) fn add(&mut self, sample: f64) {
        if sample.is_finite() && sample > 0.0 {
            let blend = |old| self.alpha * sample + (1.0 - self.alpha) * old;
            self.value = Some(self.value.map_or(sample, blend));
        }
    }

    pub(super) fn get(&self) -> Option<f64> {
        self.value
    }
}

/// The last few records, oldest first.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Window<T> {
    room: usize,
    records: VecDeque<T>,
}

impl<T> Window<T> {
    /// Holds `room` records, at least one.
    pub(super) fn new(room: usize) -> Self {
        Self { room: room.max(1), records: VecDeque::new() }
    }

    /// Adds a record; the oldest leaves when there is no room.
    pub(super) fn push(&mut self, record: T) {
        if self.records.len() == self.room {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() == self.room
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.records.iter()
    }
}

/// Tells when a round has ended, and what it sent. Where a page order sends in slices, a round is
/// a pass, many slices long; `round_sent_pages` is what one slice sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Rounds {
    ended: u32,
    /// Pages sent when the last round ended.
    sent_pages: u64,
}

impl Rounds {
    /// The same, asked only at this moment of a round.
    pub(super) fn ended_at(&mut self, moment: Moment, seen: &Observation) -> Option<u64> {
        if seen.moment == moment { self.ended(seen) } else { None }
    }

    /// Pages that were sent since this last said so, if a round has ended since then.
    pub(super) fn ended(&mut self, seen: &Observation) -> Option<u64> {
        let sent = seen.sent_pages.saturating_sub(self.sent_pages);
        let ended = seen.rounds_sent > self.ended;
        if ended {
            *self = Self { ended: seen.rounds_sent, sent_pages: seen.sent_pages };
        }
        ended.then_some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_ends_once_and_counts_all_its_slices() {
        let mut rounds = Rounds::default();
        let mut ended = |rounds_sent, sent_pages| {
            rounds.ended(&Observation { rounds_sent, sent_pages, ..Observation::default() })
        };
        assert_eq!(ended(0, 300), None);
        assert_eq!(ended(1, 500), Some(500));
        assert_eq!(ended(1, 600), None);
        assert_eq!(ended(2, 650), Some(150));
    }

    #[test]
    fn an_average_starts_with_its_first_sample_and_weighs_the_newest() {
        let mut average = Ewma::new(0.4);
        assert_eq!(average.get(), None);
        for nothing in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            average.add(nothing);
            assert_eq!(average.get(), None);
        }
        average.add(1000.0);
        average.add(2000.0);
        assert_eq!(average.get(), Some(1400.0));
        average.add(500.0);
        assert_eq!(average.get(), Some(1040.0));
    }

    #[test]
    fn a_window_forgets_the_oldest() {
        let mut window = Window::new(2);
        window.push(1);
        assert!(!window.is_full());
        window.push(2);
        window.push(3);
        assert!(window.is_full() && window.len() == 2);
        assert!(window.iter().eq(&[2, 3]));
    }
}
