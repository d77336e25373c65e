// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Percentiles of response times, in whole numbers: nothing here rounds.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A percentile of Cloudstone's service level (workload.md, 1.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the service level knows exactly these two")]
pub enum Percentile {
    /// 90 % of the actions are within the limit.
    P90,
    /// 99 % of the actions are within the limit.
    P99,
}

impl Percentile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::P90, Self::P99];

    /// The percentile in percent.
    #[must_use]
    pub const fn percent(self) -> usize {
        match self {
            Self::P90 => 90,
            Self::P99 => 99,
        }
    }

    /// Position in [`ALL`](Self::ALL).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Rank of the nearest-rank percentile among `count` values, from 1: the smallest integer
    /// not below `p * count` (workload.md, 6.8).
    #[must_use]
    pub const fn nearest_rank(self, count: usize) -> usize {
        (count * self.percent()).div_ceil(100)
    }

    /// Whether `count` values are too few to tell this percentile from the maximum:
    /// `count < 1 / (1 - p)`.
    #[must_use]
    pub const fn is_undetermined(self, count: usize) -> bool {
        count * (100 - self.percent()) < 100
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::P90 => "p90",
            Self::P99 => "p99",
        })
    }
}

/// A response time, or the value of an action that was never answered with success: longer than
/// any time. Written as nanoseconds, or null.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "Option<u64>", from = "Option<u64>")]
#[expect(clippy::exhaustive_enums, reason = "a number or infinity")]
pub enum Quantile {
    /// A response time.
    Time(Duration),
    /// An error.
    Infinite,
}

impl Quantile {
    /// Whether it is over `limit`: strictly, as the service level says.
    #[must_use]
    pub fn exceeds(self, limit: Duration) -> bool {
        self > Self::Time(limit)
    }

    /// Seconds; infinity for an error.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        match self {
            Self::Time(time) => time.as_secs_f64(),
            Self::Infinite => f64::INFINITY,
        }
    }

    /// The time; nothing for an error.
    #[must_use]
    pub fn time(self) -> Option<Duration> {
        match self {
            Self::Time(time) => Some(time),
            Self::Infinite => None,
        }
    }
}

impl fmt::Display for Quantile {
    /// Seconds with two decimals, or as many as the formatter asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => {
                write!(f, "{:.*} s", f.precision().unwrap_or(2), time.as_secs_f64())
            }
            Self::Infinite => f.pad("an error"),
        }
    }
}

impl From<Quantile> for Option<u64> {
    fn from(value: Quantile) -> Self {
        value.time().map(nanos)
    }
}

impl From<Option<u64>> for Quantile {
    fn from(nanos: Option<u64>) -> Self {
        nanos.map_or(Self::Infinite, |n| Self::Time(Duration::from_nanos(n)))
    }
}

/// How a percentile of few values is read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "workload.md 6.8 names exactly these")]
pub enum Method {
    /// The value at rank `ceil(p * n)`.
    #[default]
    NearestRank,
    /// Between the two values around position `p * (n - 1)`, as spreadsheets do. Beside an error
    /// it is infinite.
    Linear,
}

impl Method {
    /// The percentile of `count` values; `value` gives the one at a rank from 1. Nothing if there
    /// is no value.
    pub(super) fn quantile(
        self,
        percentile: Percentile,
        count: usize,
        value: impl Fn(usize) -> Quantile,
    ) -> Option<Quantile> {
        if count == 0 {
            return None;
        }
        if self == Self::NearestRank {
            return Some(value(percentile.nearest_rank(count)));
        }
        let position = (count - 1) * percentile.percent();
        let (low, hundredths) = (value(position / 100 + 1), position % 100);
        if hundredths == 0 {
            return Some(low);
        }
        let (Quantile::Time(low), Quantile::Time(high)) = (low, value(position / 100 + 2)) else {
            return Some(Quantile::Infinite);
        };
        let part = (high - low).as_nanos() * hundredths as u128 / 100;
        Some(Quantile::Time(low + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))))
    }
}

/// Whole nanoseconds; 584 years and more are cut.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
