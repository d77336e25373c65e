// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A slow rise and fall, as of day and night.

use std::f64::consts::TAU;

use super::{Modulator, ModulatorInfo, Slice, millis, share};
use crate::rng::Rng;

pub(super) const INFO: ModulatorInfo = ModulatorInfo {
    name: "diurnal",
    rule: "1 + depth * sin(2 pi t / period)",
    source: "heuristics.md 6.11",
    parameters: &[
        share("depth", "0.35", "by how much the rate rises and falls"),
        millis("period_ms", "40000", "from one peak to the next"),
    ],
    build: |values| {
        Box::new(Diurnal { depth: values.number("depth"), period_ms: values.number("period_ms") })
    },
};

#[derive(Debug)]
struct Diurnal {
    depth: f64,
    period_ms: f64,
}

impl Modulator for Diurnal {
    #[expect(clippy::cast_precision_loss, reason = "a phase")]
    fn factor(&mut self, time: Slice, _: &mut Rng) -> f64 {
        // The exact mean, so that ticks of any length add up.
        let angle = |nanos: u64| TAU * (nanos as f64 / (self.period_ms * 1e6));
        let (from, to) = (angle(time.from.as_nanos()), angle(time.to.as_nanos()));
        let mean = if to > from { (from.cos() - to.cos()) / (to - from) } else { from.sin() };
        1.0 + self.depth * mean
    }
}
