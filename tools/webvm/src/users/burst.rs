// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Load that varies over time, as an envelope that speeds the users' waiting up or slows it down.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use precopy::sim::Rng;
use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use super::config::{BURST, UsersConfig, UsersError, number, shorten};

/// Relative loads of the hours of a day (workload.md, section 3: Rain's diurnal schedule).
const DIURNAL: [f64; 24] = [
    1.0, 1.07, 1.14, 0.75, 0.84, 1.3, 1.09, 1.34, 1.33, 2.14, 0.9, 0.92, 0.75, 1.34, 1.09, 0.94,
    0.8, 0.87, 0.7, 0.74, 1.15, 1.12, 0.68, 1.31,
];
/// The two states of the modulated process run this much above and below the mean rate.
const MMPP_SWING: f64 = 0.75;
/// Shortest mean stay in a state, which bounds the number of stretches.
const MMPP_STAY_MIN_S: f64 = 0.05;

/// How the load varies. The users stay a closed loop: what varies is how fast their waiting
/// passes, so a site that is slower than the load asks for damps it.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Burst {
    /// It does not.
    #[default]
    Off,
    /// A Markov-modulated process of two states; of actions started.
    Mmpp2 {
        /// Index of dispersion for counts in the limit of long windows, 10 to 100000.
        dispersion: f64,
    },
    /// A flash crowd.
    Flash {
        /// How many times as fast the users wait, 0.1 to 100.
        factor: f64,
        /// When it begins, from the start of the run.
        from_s: f64,
        /// When it is over.
        to_s: f64,
    },
    /// A day of 24 hours, as short as one likes.
    Diurnal {
        /// Length of the day, 24 to 86400.
        day_s: f64,
    },
}

impl Burst {
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::Off => true,
            Self::Mmpp2 { dispersion } => (10.0..=100_000.0).contains(&dispersion),
            Self::Flash { factor, from_s, to_s } => {
                (0.1..=100.0).contains(&factor)
                    && from_s >= 0.0
                    && from_s < to_s
                    && to_s <= 1_000_000.0
            }
            Self::Diurnal { day_s } => (24.0..=86_400.0).contains(&day_s),
        }
    }
}

impl fmt::Display for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Mmpp2 { dispersion } => write!(f, "mmpp2:{dispersion}"),
            Self::Flash { factor, from_s, to_s } => write!(f, "flash:{factor}:{from_s}:{to_s}"),
            Self::Diurnal { day_s } => write!(f, "diurnal:{day_s}"),
        }
    }
}

impl FromStr for Burst {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self, UsersError> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| number::<f64>("burst", text, BURST);
        Ok(match parts.as_slice() {
            ["off"] => Self::Off,
            ["mmpp2", dispersion] => Self::Mmpp2 { dispersion: number(dispersion)? },
            ["flash", factor, from, to] => {
                Self::Flash { factor: number(factor)?, from_s: number(from)?, to_s: number(to)? }
            }
            ["diurnal", day] => Self::Diurnal { day_s: number(day)? },
            _ => {
                let text = shorten(text);
                return Err(UsersError::Value { name: "burst", text, expected: BURST });
            }
        })
    }
}

/// A stretch of constant factor: it begins at `at_s`, by when `passed_s` of waiting has passed.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    at_s: f64,
    passed_s: f64,
    factor: f64,
}

/// The factor on the speed of waiting over a run, and its integral.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// Empty where waiting always passes at its own speed.
    stretches: Vec<Stretch>,
}

impl Envelope {
    pub(super) fn new(config: &UsersConfig, rng: &mut Rng) -> Self {
        let mut envelope = Self { stretches: Vec::new() };
        let end_s = config.end().since(Tick::ZERO).as_secs_f64();
        match config.burst {
            Burst::Off => {}
            Burst::Flash { factor, from_s, to_s } => {
                for (at_s, factor) in [(0.0, 1.0), (from_s, factor), (to_s, 1.0)] {
                    envelope.push(at_s, factor);
                }
            }
            Burst::Diurnal { day_s } => {
                let mean = DIURNAL.iter().sum::<f64>() / 24.0;
                let mut at_s = 0.0;
                for load in DIURNAL.into_iter().cycle() {
                    if at_s >= end_s {
                        break;
                    }
                    envelope.push(at_s, load / mean);
                    at_s += day_s / 24.0;
                }
            }
            Burst::Mmpp2 { dispersion } => {
                // With equal stays of mean 1/r in rates m(1+a) and m(1-a), the index of
                // dispersion of long windows is 1 + a^2 m / r.
                let rate = f64::from(config.users) / config.mean_s;
                let stay_s = (dispersion - 1.0) / (MMPP_SWING * MMPP_SWING * rate);
                let stay_s = stay_s.max(MMPP_STAY_MIN_S);
                let (mut at_s, mut high) = (0.0, rng.one_in(2));
                while at_s < end_s {
                    envelope.push(at_s, if high { 1.0 + MMPP_SWING } else { 1.0 - MMPP_SWING });
                    at_s += -stay_s * (1.0 - rng.unit()).ln();
                    high = !high;
                }
            }
        }
        envelope
    }

    fn push(&mut self, at_s: f64, factor: f64) {
        let passed_s = self.passed_s(at_s);
        self.stretches.push(Stretch { at_s, passed_s, factor });
    }

    /// How much waiting has passed by `at_s`.
    fn passed_s(&self, at_s: f64) -> f64 {
        let after = self.stretches.partition_point(|stretch| stretch.at_s <= at_s);
        let Some(stretch) = self.stretches.get(after.wrapping_sub(1)) else { return at_s };
        stretch.passed_s + (at_s - stretch.at_s) * stretch.factor
    }

    /// When a wait of `wait_s` that begins at `from` is over.
    pub(super) fn after(&self, from: Tick, wait_s: f64) -> Tick {
        let wait = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        if self.stretches.is_empty() {
            return from + wait(wait_s);
        }
        let goal_s = self.passed_s(from.since(Tick::ZERO).as_secs_f64()) + wait_s;
        let after = self.stretches.partition_point(|stretch| stretch.passed_s <= goal_s);
        let Some(stretch) = self.stretches.get(after.wrapping_sub(1)) else {
            return from + wait(wait_s);
        };
        let at_s = stretch.at_s + (goal_s - stretch.passed_s) / stretch.factor;
        (Tick::ZERO + wait(at_s)).max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(line: &str) -> Envelope {
        Envelope::new(&line.parse().unwrap(), &mut Rng::new(3))
    }

    #[test]
    fn waiting_passes_at_the_envelopes_speed() {
        let flash = envelope("burst=flash:4:100:200");
        let at = |s: u64| Tick::from_nanos(s * 1_000_000_000);
        assert_eq!(flash.after(at(10), 5.0), at(15));
        assert_eq!(flash.after(at(100), 8.0), at(102));
        assert_eq!(flash.after(at(98), 10.0), at(100) + Duration::from_secs(2));
        assert_eq!(flash.after(at(199), 8.0), at(204));
        assert_eq!(envelope("burst=off").after(at(7), 2.5), at(7) + Duration::from_millis(2500));
    }

    #[test]
    fn a_day_has_the_mean_load() {
        let day = envelope("burst=diurnal:240,ramp_up_s=0,steady_s=240,ramp_down_s=0");
        assert_eq!(day.stretches.len(), 24);
        assert!((day.passed_s(240.0) - 240.0).abs() < 1e-6);
    }

    /// Counts of a Poisson stream through the envelope have the index of dispersion asked for.
    #[test]
    fn bursts_have_the_index_of_dispersion_that_was_asked_for() {
        let line = "users=600,burst=mmpp2:100,steady_s=80000";
        let envelope = envelope(line);
        let mut rng = Rng::new(9);
        let (mut at, mut counts) = (Tick::ZERO, vec![0.0_f64; 500]);
        let window_s = 160;
        while at < Tick::from_nanos(80_000_000_000_000) {
            at = envelope.after(at, -(1.0 - rng.unit()).ln() * 5.0 / 600.0);
            let window = (at.as_nanos() / (window_s * 1_000_000_000)) as usize;
            if let Some(count) = counts.get_mut(window) {
                *count += 1.0;
            }
        }
        let mean = counts.iter().sum::<f64>() / 500.0;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 499.0;
        let dispersion = variance / mean;
        assert!((75.0..130.0).contains(&dispersion), "{dispersion}");
    }
}
