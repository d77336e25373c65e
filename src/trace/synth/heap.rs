// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A garbage-collected heap: allocation runs through a ring, and each time round the survivors are
//! copied out in one burst.

use super::{Due, Slice, Touched, Writer, WriterInfo, rate, share, share_of};
use crate::rng::Rng;

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "gc-ring",
    rule: "pages of a ring are written one after the other; at its end a share of it is written \
           at once to the memory behind",
    source: "young generation of a copying collector (JAVMM, EuroSys 2015); heuristics.md 6.11 D",
    parameters: &[
        rate("10000"),
        share("ring", "0.1", "share of memory that is the young generation"),
        share("survivors", "0.05", "share of the ring that is copied out"),
    ],
    build: |values| {
        Box::new(Heap {
            rate: values.number("rate"),
            share: values.number("ring"),
            survivors: values.number("survivors"),
            ring: 1,
            old: 0,
            next: 0,
            next_old: 0,
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Heap {
    rate: f64,
    share: f64,
    survivors: f64,
    ring: u64,
    /// Pages behind the ring.
    old: u64,
    next: u64,
    next_old: u64,
    due: Due,
}

impl Heap {
    fn collect(&mut self, into: &mut Touched) {
        if self.old == 0 || self.survivors == 0.0 {
            return;
        }
        let copied = share_of(self.ring, self.survivors).min(self.old);
        let head = copied.min(self.old - self.next_old);
        into.run(self.ring + self.next_old, head);
        into.run(self.ring, copied - head);
        self.next_old = (self.next_old + copied) % self.old;
    }
}

impl Writer for Heap {
    fn begin(&mut self, pages: u64, _: &mut Rng) {
        self.ring = share_of(pages, self.share);
        self.old = pages - self.ring;
    }

    fn write(&mut self, time: Slice, factor: f64, _: &mut Rng, into: &mut Touched) {
        let mut left = self.due.take(self.rate * factor * time.seconds());
        while left > 0 {
            let pages = left.min(self.ring - self.next);
            into.run(self.next, pages);
            (self.next, left) = (self.next + pages, left - pages);
            if self.next == self.ring {
                self.next = 0;
                self.collect(into);
            }
        }
    }
}
