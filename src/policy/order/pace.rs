// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often an order harvests, and whether it clears at send: what all picking orders share.

use std::time::Duration;

use crate::policy::parameters::{ParameterInfo, ParameterKind, Values};

const MILLISECONDS_MAX: u64 = 60_000;

pub(super) const SLICE: ParameterInfo = ParameterInfo::new(
    "slice_ms",
    ParameterKind::IntegerOr { min: 1, max: MILLISECONDS_MAX, word: "off" },
    "50",
    "longest time from a harvest to the next; off: whole rounds",
);

pub(super) const LEAST: ParameterInfo = ParameterInfo::new(
    "least_ms",
    ParameterKind::Integer { min: 0, max: MILLISECONDS_MAX },
    "10",
    "least time from a harvest to the next",
);

pub(super) const CLEAR: ParameterInfo = ParameterInfo::new(
    "clear",
    ParameterKind::Switch,
    "true",
    "clear a page's dirty record just before the page is read, where the tracker can",
);

/// When the next harvest comes, and what is cleared by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    /// `None`: whole rounds.
    pub(super) slice: Option<Duration>,
    pub(super) least: Duration,
    pub(super) clear: bool,
}

impl Pace {
    /// A harvest every `slice`, dirty records cleared at send.
    pub(super) fn every(slice: Duration) -> Self {
        Self { slice: Some(slice), least: Duration::from_millis(10), clear: true }
    }

    /// Reads [`SLICE`], [`LEAST`] and [`CLEAR`].
    pub(super) fn read(values: &Values) -> Self {
        Self {
            slice: values.integer_or(SLICE.name).map(Duration::from_millis),
            least: Duration::from_millis(values.integer(LEAST.name)),
            clear: values.switch(CLEAR.name),
        }
    }
}

/// The methods of [`PageOrder`](super::PageOrder) that a picking order's pace answers.
macro_rules! paced {
    () => {
        fn picks(&self) -> bool {
            true
        }

        fn slice(&self) -> Option<std::time::Duration> {
            self.pace.slice
        }

        fn least_interval(&self) -> std::time::Duration {
            self.pace.least
        }

        fn clears_at_send(&self) -> bool {
            self.pace.clear
        }

        fn fork(&self) -> Box<dyn PageOrder> {
            Box::new(self.clone())
        }
    };
}
pub(super) use paced;
