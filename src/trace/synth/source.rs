// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A synthetic guest as a trace.

use std::convert::Infallible;
use std::time::Duration;

use super::{Modulator, Slice, SynthError, SynthSpec, Touched, Writer};
use crate::limits;
use crate::policy::Spec;
use crate::rng::Rng;
use crate::trace::{Clock, TickSource, Trace, TraceHeader, TraceTick};
use crate::units::{PageRun, Tick};

/// A trace that is computed while it is read.
#[derive(Clone, PartialEq, Debug)]
pub struct SynthTrace {
    spec: SynthSpec,
    header: TraceHeader,
    length: Duration,
    seed: u64,
}

impl SynthTrace {
    /// A trace of `length`, rounded up to whole ticks, of a guest of `pages` pages, all of which
    /// are populated, in ticks of `tick`.
    ///
    /// # Errors
    /// [`SynthError::Value`] if there are no pages or more than a guest has, or if tick or length
    /// are zero or too long.
    pub fn new(
        spec: SynthSpec,
        pages: u64,
        tick: Duration,
        length: Duration,
        seed: u64,
    ) -> Result<Self, SynthError> {
        let bad = |what, value, valid| Err(SynthError::Value { what, value, valid });
        if pages == 0 || pages > limits::PAGES_MAX {
            let valid = format!("1 to {}", limits::PAGES_MAX);
            return bad("The number of pages", pages.to_string(), valid);
        }
        if tick.is_zero() || tick > limits::TRACE_TICK_MAX {
            let valid = format!("more than 0 and up to {:?}", limits::TRACE_TICK_MAX);
            return bad("The tick", format!("{tick:?}"), valid);
        }
        // So that the time of no tick overflows.
        let longest = Duration::from_nanos(u64::MAX / 4);
        if length.is_zero() || length > longest {
            let valid = format!("more than 0 and up to {longest:?}");
            return bad("The length of the trace", format!("{length:?}"), valid);
        }
        let header = TraceHeader {
            tick,
            clock: Clock::Virtual,
            notes: format!("seed {seed}"),
            populated: Some(vec![PageRun::from_range(0..pages)]),
            ..TraceHeader::new(pages, format!("synthetic: {spec}"))
        };
        Ok(Self { spec, header, length, seed })
    }

    /// What holds for the whole trace.
    #[must_use]
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }
}

impl Trace for SynthTrace {
    type Source = SynthSource;

    fn open(&self) -> Result<SynthSource, Infallible> {
        let mut source = SynthSource {
            trace: self.clone(),
            writers: Vec::new(),
            modulators: Vec::new(),
            touched: Touched::default(),
            time: Tick::ZERO,
            skipped: None,
        };
        source.restart();
        Ok(source)
    }
}

/// One reading of a [`SynthTrace`]. To go back in time it starts again from the beginning.
#[derive(Debug)]
pub struct SynthSource {
    trace: SynthTrace,
    writers: Vec<(Box<dyn Writer>, Rng)>,
    modulators: Vec<(Box<dyn Modulator>, Rng)>,
    touched: Touched,
    /// End of the tick that was computed last.
    time: Tick,
    /// A tick that was computed while seeking, and is still to be given.
    skipped: Option<TraceTick>,
}

impl SynthSource {
    fn restart(&mut self) {
        let pages = self.trace.header.pages;
        // A stream for each part: one more part leaves the others as they were.
        let mut seeds = Rng::new(self.trace.seed);
        let mut stream = || Rng::new(seeds.next_u64());
        let begin = |spec: &Spec<dyn Writer>| {
            let (mut writer, mut rng) = (spec.build(), stream());
            writer.begin(pages, &mut rng);
            (writer, rng)
        };
        self.writers = self.trace.spec.writers.iter().map(begin).collect();
        self.modulators =
            self.trace.spec.modulators.iter().map(|spec| (spec.build(), stream())).collect();
        (self.time, self.skipped) = (Tick::ZERO, None);
    }

    fn compute(&mut self, into: &mut TraceTick) -> bool {
        into.clear();
        if self.time.since(Tick::ZERO) >= self.trace.length {
            return false;
        }
        let header = &self.trace.header;
        let time = Slice { from: self.time, to: self.time + header.tick };
        self.touched.begin(header.pages);
        let mut factor = 1.0;
        for (modulator, rng) in &mut self.modulators {
            factor *= modulator.factor(time, rng);
        }
        for (writer, rng) in &mut self.writers {
            writer.write(time, factor, rng, &mut self.touched);
        }
        self.touched.finish(&mut into.runs);
        (self.time, into.end) = (time.to, time.to);
        true
    }
}

impl TickSource for SynthSource {
    type Error = Infallible;

    fn header(&self) -> &TraceHeader {
        &self.trace.header
    }

    fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, Infallible> {
        if let Some(tick) = self.skipped.take() {
            *into = tick;
            return Ok(true);
        }
        Ok(self.compute(into))
    }

    fn seek(&mut self, at: Tick) -> Result<(), Infallible> {
        if at < self.time {
            self.restart();
        }
        self.skipped = None;
        let mut tick = TraceTick::default();
        while self.compute(&mut tick) {
            if tick.end > at {
                self.skipped = Some(tick);
                break;
            }
        }
        Ok(())
    }

    fn end(&self) -> Option<Tick> {
        let tick = self.trace.header.tick.as_nanos();
        let ticks = self.trace.length.as_nanos().div_ceil(tick);
        Some(Tick::from_nanos(u64::try_from(ticks * tick).unwrap_or(u64::MAX)))
    }
}
