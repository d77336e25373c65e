// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any page, all alike: the guest of the closed forms (heuristics.md 2.2).

use super::{Due, Slice, Touched, Writer, WriterInfo, rate, share, share_of};
use crate::rng::Rng;

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "uniform",
    rule: "each write goes to any page of the first `span` of memory",
    source: "heuristics.md 2.2",
    parameters: &[rate("10000"), share("span", "1", "share of memory that is written")],
    build: |values| {
        Box::new(Uniform {
            rate: values.number("rate"),
            share: values.number("span"),
            span: 1,
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Uniform {
    rate: f64,
    share: f64,
    span: u64,
    due: Due,
}

impl Writer for Uniform {
    fn begin(&mut self, pages: u64, _: &mut Rng) {
        self.span = share_of(pages, self.share);
    }

    fn write(&mut self, time: Slice, factor: f64, rng: &mut Rng, into: &mut Touched) {
        for _ in 0..self.due.take(self.rate * factor * time.seconds()) {
            into.page(rng.below(self.span));
        }
    }
}
