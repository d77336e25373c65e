// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An adversary: the dirty rate falls as if all were well, and just when it is at its lowest a
//! large set is written at once. Whoever waits for a little less pays for it.

use super::{Due, Slice, Touched, Writer, WriterInfo, millis, rate, share, share_of};
use crate::rng::Rng;

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "jump",
    rule: "uniform writes whose rate falls evenly from twice `rate` to nothing in each period, at \
           whose end `jump` of memory is written within a tick",
    source: "heuristics.md 5, traces (iii): a residual that jumps after every low",
    parameters: &[
        rate("10000"),
        millis("period_ms", "1500", "from one jump to the next"),
        share("jump", "0.02", "share of memory that a jump writes"),
        share("span", "0.05", "share of memory that is written in between"),
    ],
    build: |values| {
        Box::new(Jump {
            rate: values.number("rate"),
            period_ms: values.number("period_ms"),
            jump: values.number("jump"),
            share: values.number("span"),
            pages: 1,
            span: 1,
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Jump {
    rate: f64,
    period_ms: f64,
    jump: f64,
    share: f64,
    pages: u64,
    span: u64,
    due: Due,
}

impl Writer for Jump {
    fn begin(&mut self, pages: u64, _: &mut Rng) {
        (self.pages, self.span) = (pages, share_of(pages, self.share));
    }

    #[expect(clippy::cast_precision_loss, reason = "a phase")]
    fn write(&mut self, time: Slice, factor: f64, rng: &mut Rng, into: &mut Touched) {
        let period = self.period_ms * 1e6;
        let phase = |nanos: u64| nanos as f64 / period;
        let (from, to) = (phase(time.from.as_nanos()), phase(time.to.as_nanos()));
        if to.floor() > from.floor() && self.jump > 0.0 {
            into.run(rng.below(self.pages), share_of(self.pages, self.jump));
        }
        let left = 2.0 * (1.0 - from.fract());
        for _ in 0..self.due.take(self.rate * left * factor * time.seconds()) {
            into.page(rng.below(self.span));
        }
    }
}
