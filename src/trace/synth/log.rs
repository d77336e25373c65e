// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A log that is appended to: a page is written a few times, then not again until the log is full.

use super::{Due, Slice, Touched, Writer, WriterInfo, rate, share, share_of};
use crate::policy::{ParameterInfo, ParameterKind};
use crate::rng::Rng;

pub(super) const INFO: WriterInfo = WriterInfo {
    name: "log",
    rule: "a page is written `writes` times, then the next one; at the end of the span again from \
           its beginning",
    source: "journals, page caches and key-value logs; heuristics.md 5, traces (ii)",
    parameters: &[
        rate("2000"),
        share("span", "1", "share of memory that the log takes"),
        ParameterInfo::new(
            "writes",
            ParameterKind::Integer { min: 1, max: 1 << 20 },
            "8",
            "writes to a page before it is full",
        ),
    ],
    build: |values| {
        Box::new(Log {
            rate: values.number("rate"),
            share: values.number("span"),
            writes: values.integer("writes"),
            span: 1,
            at: 0,
            due: Due::default(),
        })
    },
};

#[derive(Debug)]
struct Log {
    rate: f64,
    share: f64,
    writes: u64,
    span: u64,
    /// Writes since the log's beginning.
    at: u64,
    due: Due,
}

impl Writer for Log {
    fn begin(&mut self, pages: u64, _: &mut Rng) {
        self.span = share_of(pages, self.share);
    }

    fn write(&mut self, time: Slice, factor: f64, _: &mut Rng, into: &mut Touched) {
        let due = self.due.take(self.rate * factor * time.seconds());
        if due == 0 {
            return;
        }
        let first = self.at / self.writes;
        let last = (self.at + due - 1) / self.writes;
        let (start, pages) = (first % self.span, (last - first + 1).min(self.span));
        let head = pages.min(self.span - start);
        into.run(start, head);
        into.run(0, pages - head);
        self.at = (self.at + due) % (self.span * self.writes);
    }
}
