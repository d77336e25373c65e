// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace that is held in memory.

use std::convert::Infallible;
use std::sync::Arc;

use super::{TickSource, Trace, TraceHeader, TraceTick};
use crate::units::Tick;

#[derive(Debug)]
struct Content {
    header: TraceHeader,
    ticks: Vec<TraceTick>,
}

/// A whole trace in memory. A copy shares it and reads on its own.
#[derive(Clone, Debug)]
pub struct MemoryTrace {
    content: Arc<Content>,
    next: usize,
}

impl MemoryTrace {
    /// A trace of these ticks, which must be in order of time.
    #[must_use]
    pub fn new(header: TraceHeader, ticks: Vec<TraceTick>) -> Self {
        debug_assert!(ticks.is_sorted_by(|a, b| a.end < b.end), "ticks out of order");
        Self { content: Arc::new(Content { header, ticks }), next: 0 }
    }

    /// Reads a source from its beginning to its end.
    ///
    /// # Errors
    /// As the source says.
    pub fn read<S: TickSource>(source: &mut S) -> Result<Self, S::Error> {
        source.seek(Tick::ZERO)?;
        let (mut ticks, mut tick) = (Vec::new(), TraceTick::default());
        while source.next_tick(&mut tick)? {
            ticks.push(std::mem::take(&mut tick));
        }
        Ok(Self::new(source.header().clone(), ticks))
    }

    /// All ticks.
    #[must_use]
    pub fn ticks(&self) -> &[TraceTick] {
        &self.content.ticks
    }
}

impl TickSource for MemoryTrace {
    type Error = Infallible;

    fn header(&self) -> &TraceHeader {
        &self.content.header
    }

    fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, Infallible> {
        into.clear();
        let Some(tick) = self.content.ticks.get(self.next) else { return Ok(false) };
        into.clone_from(tick);
        self.next += 1;
        Ok(true)
    }

    fn seek(&mut self, at: Tick) -> Result<(), Infallible> {
        self.next = self.content.ticks.partition_point(|tick| tick.end <= at);
        Ok(())
    }

    fn end(&self) -> Option<Tick> {
        self.content.ticks.last().map(|tick| tick.end)
    }
}

impl Trace for MemoryTrace {
    type Source = Self;

    fn open(&self) -> Result<Self, Infallible> {
        Ok(Self { next: 0, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{PageIndex, PageRun};

    fn trace() -> MemoryTrace {
        let tick = |ms: u64, page| {
            let end = Tick::from_nanos(ms * 1_000_000);
            TraceTick::new(end, vec![PageRun::new(PageIndex::new(page), 1)])
        };
        MemoryTrace::new(TraceHeader::new(8, "test"), vec![tick(10, 1), tick(20, 2), tick(30, 3)])
    }

    fn ends(source: &mut MemoryTrace) -> Vec<u64> {
        let (mut ends, mut tick) = (Vec::new(), TraceTick::default());
        while source.next_tick(&mut tick).unwrap() {
            ends.push(tick.end.as_nanos() / 1_000_000);
        }
        ends
    }

    #[test]
    fn seeking_goes_to_the_first_tick_that_ends_later() {
        let mut trace = trace();
        assert_eq!(ends(&mut trace), [10, 20, 30]);
        for (at_ms, left) in [(0, vec![10, 20, 30]), (10, vec![20, 30]), (11, vec![20, 30])] {
            trace.seek(Tick::from_nanos(at_ms * 1_000_000)).unwrap();
            assert_eq!(ends(&mut trace), left);
        }
        assert_eq!(ends(&mut trace.open().unwrap()), [10, 20, 30]);
        assert_eq!(MemoryTrace::read(&mut trace).unwrap().ticks().len(), 3);
    }
}
