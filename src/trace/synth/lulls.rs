// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An adversary: lulls that are over before anybody can have reacted.

use super::{Modulator, ModulatorInfo, Slice, exponential_nanos, millis};
use crate::rng::Rng;

pub(super) const INFO: ModulatorInfo = ModulatorInfo {
    name: "lulls",
    rule: "nothing is written for `lull_ms`, then all goes on for an exponential time",
    source: "heuristics.md 5, traces (iii): a lull shorter than the reaction time",
    parameters: &[
        millis("lull_ms", "15", "length of a lull"),
        millis("every_ms", "400", "mean time from one lull's end to the next one's beginning"),
    ],
    build: |values| {
        let nanos = values.number("lull_ms") * 1e6;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive and below 2^60"
        )]
        let lull_ns = nanos as u64;
        Box::new(Lulls { lull_ns, every_ms: values.number("every_ms"), next_ns: None })
    },
};

#[derive(Debug)]
struct Lulls {
    lull_ns: u64,
    every_ms: f64,
    /// When the next lull begins, or the present one began.
    next_ns: Option<u64>,
}

impl Modulator for Lulls {
    #[expect(clippy::cast_precision_loss, reason = "a mean over a tick")]
    fn factor(&mut self, time: Slice, rng: &mut Rng) -> f64 {
        let (from, to) = (time.from.as_nanos(), time.to.as_nanos());
        let mut next = match self.next_ns {
            Some(next) => next,
            None => from.saturating_add(exponential_nanos(self.every_ms, rng)),
        };
        let mut quiet = 0;
        while next < to {
            let end = next.saturating_add(self.lull_ns);
            quiet += end.min(to) - next.max(from);
            if end > to {
                break;
            }
            // At least 10 us, so that a tick of an hour ends.
            next = end.saturating_add(exponential_nanos(self.every_ms, rng).max(10_000));
        }
        self.next_ns = Some(next);
        1.0 - quiet as f64 / (to - from).max(1) as f64
    }
}
