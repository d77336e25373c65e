// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A working set that moves: programs do one thing after the other.

use super::{
    Due, Slice, Touched, Writer, WriterInfo, exponential_nanos, millis, rate, share, share_of,
};
use crate::rng::Rng;

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "phases",
    rule: "writes go to any page of a working set; after an exponential time it moves on, and \
           keeps a share of its pages",
    source: "phase behaviour of programs: Denning, CACM 1968; heuristics.md 5, traces (iii)",
    parameters: &[
        rate("20000"),
        share("set", "0.05", "share of memory that is the working set"),
        share("keep", "0.25", "share of the set that the next one keeps"),
        millis("hold_ms", "5000", "mean length of a phase"),
    ],
    build: |values| {
        Box::new(Phases {
            rate: values.number("rate"),
            share: values.number("set"),
            keep: values.number("keep"),
            hold_ms: values.number("hold_ms"),
            pages: 1,
            set: 1,
            base: 0,
            until_ns: 0,
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Phases {
    rate: f64,
    share: f64,
    keep: f64,
    hold_ms: f64,
    pages: u64,
    set: u64,
    base: u64,
    until_ns: u64,
    due: Due,
}

impl Writer for Phases {
    fn begin(&mut self, pages: u64, rng: &mut Rng) {
        (self.pages, self.set) = (pages, share_of(pages, self.share));
        self.base = rng.below(pages);
        self.until_ns = exponential_nanos(self.hold_ms, rng);
    }

    fn write(&mut self, time: Slice, factor: f64, rng: &mut Rng, into: &mut Touched) {
        // A phase is at least a tick long: a shorter one could not be told from the next.
        if self.until_ns <= time.from.as_nanos() {
            let moves = self.set - share_of(self.set, self.keep).min(self.set - 1);
            self.base = (self.base + moves) % self.pages;
            self.until_ns = time.to.as_nanos() + exponential_nanos(self.hold_ms, rng);
        }
        for _ in 0..self.due.take(self.rate * factor * time.seconds()) {
            into.page(self.base + rng.below(self.set));
        }
    }
}
