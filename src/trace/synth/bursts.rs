// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bursts: a Markov-modulated rate with three states.

use super::{Modulator, ModulatorInfo, Slice, exponential_nanos, millis};
use crate::policy::{ParameterInfo, ParameterKind};
use crate::rng::Rng;

const fn factor(name: &'static str, default: &'static str, doc: &'static str) -> ParameterInfo {
    ParameterInfo::new(name, ParameterKind::Number { min: 0.0, max: 1000.0 }, default, doc)
}

pub(super) const INFO: ModulatorInfo = ModulatorInfo {
    name: "bursts",
    rule: "low, middle or high rate, each for an exponential time; from the middle to either, \
           from either to the middle or to the other, with equal chance",
    source: "MMPP (Heffes and Lucantoni, IEEE JSAC 1986) with the states of heuristics.md 6.11",
    parameters: &[
        factor("low", "0.15", "factor in the low state"),
        factor("middle", "1", "factor in the middle state"),
        factor("high", "2.6", "factor in the high state"),
        millis("low_ms", "180", "mean stay in the low state"),
        millis("middle_ms", "600", "mean stay in the middle state"),
        millis("high_ms", "250", "mean stay in the high state"),
    ],
    build: |values| {
        let state = |factor, stay| (values.number(factor), values.number(stay));
        let states =
            [state("low", "low_ms"), state("middle", "middle_ms"), state("high", "high_ms")];
        Box::new(Bursts { states, now: 1, until_ns: None })
    },
};

#[derive(Debug)]
struct Bursts {
    /// Factor and mean stay in milliseconds.
    states: [(f64, f64); 3],
    now: usize,
    until_ns: Option<u64>,
}

impl Modulator for Bursts {
    #[expect(clippy::cast_precision_loss, reason = "a mean over a tick")]
    fn factor(&mut self, time: Slice, rng: &mut Rng) -> f64 {
        let (from, to) = (time.from.as_nanos(), time.to.as_nanos());
        let mut until = match self.until_ns {
            Some(until) => until,
            None => from.saturating_add(exponential_nanos(self.states[self.now].1, rng)),
        };
        let (mut at, mut sum) = (from, 0.0);
        while until < to {
            sum += self.states[self.now].0 * until.saturating_sub(at) as f64;
            at = until.max(at);
            self.now = (self.now + if rng.one_in(2) { 1 } else { 2 }) % self.states.len();
            // At least 10 us, so that a tick of an hour ends.
            let stay = exponential_nanos(self.states[self.now].1, rng).max(10_000);
            until = until.saturating_add(stay);
        }
        self.until_ns = Some(until);
        sum += self.states[self.now].0 * (to - at) as f64;
        sum / (to - from).max(1) as f64
    }
}
