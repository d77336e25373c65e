// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A whole trace in memory: 8 bytes for each range.

use std::io::{BufRead, Read};

use precopy::trace::{MemoryTrace, TickSource as _};
use precopy::units::{PageIndex, PageRun, Tick};

use super::{Epoch, Header, Limits, TextError, TextReader, TraceError, compressed};

/// A trace that was read to its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    header: Header,
    times: Vec<Tick>,
    /// `ends[e]` is where the runs of epoch `e` end in `runs`.
    ends: Vec<usize>,
    /// First page and number of pages.
    runs: Vec<(u32, u32)>,
}

impl Trace {
    /// Reads a compressed trace.
    ///
    /// # Errors
    /// Any [`TraceError`] of the reader, and one if the guest has more than 2^32 - 1 pages.
    pub fn read_compressed(source: impl Read, limits: Limits) -> Result<Self, TraceError> {
        Self::read_from(compressed(source, for_u32(limits))?)
    }

    /// Reads a trace that is plain text.
    ///
    /// # Errors
    /// As [`read_compressed`](Self::read_compressed).
    pub fn read(source: impl BufRead, limits: Limits) -> Result<Self, TraceError> {
        Self::read_from(TextReader::new(source, for_u32(limits))?)
    }

    fn read_from<R: BufRead>(mut reader: TextReader<R>) -> Result<Self, TraceError> {
        let mut trace = Self {
            header: reader.header().clone(),
            times: Vec::new(),
            ends: Vec::new(),
            runs: Vec::new(),
        };
        while let Some(epoch) = reader.next_epoch()? {
            trace.push(&epoch);
        }
        if trace.times.is_empty() {
            let expected = "at least one epoch";
            return Err(TextError::Syntax { line: 2, column: 1, expected }.into());
        }
        Ok(trace)
    }

    /// The same of a trace in memory, whatever its format was.
    ///
    /// # Errors
    /// [`TraceError`] if it has no tick, or more pages than [`Limits`] let a text have: what is
    /// computed of a trace in memory takes 8 bytes a page.
    pub fn of(source: &MemoryTrace) -> Result<Self, TraceError> {
        let field =
            |field, value: String, valid: String| Err(TraceError::Field { field, value, valid });
        let (pages, ticks) = (source.header().pages, source.ticks());
        let pages_max = Limits::default().pages;
        if pages > pages_max {
            return field("pages", pages.to_string(), format!("at most {pages_max}"));
        }
        if ticks.is_empty() {
            return field("ticks", "0".to_owned(), "at least one".to_owned());
        }
        let header = Header::of(source.header());
        let mut trace = Self { header, times: Vec::new(), ends: Vec::new(), runs: Vec::new() };
        ticks.iter().for_each(|tick| trace.add(tick.end, &tick.runs));
        Ok(trace)
    }

    fn push(&mut self, epoch: &Epoch) {
        self.add(epoch.time, &epoch.runs);
    }

    fn add(&mut self, end: Tick, runs: &[PageRun]) {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        self.times.push(end);
        self.runs.extend(runs.iter().map(|r| (narrow(r.start().get()), narrow(r.pages()))));
        self.ends.push(self.runs.len());
    }

    /// The first line.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// End of each epoch.
    #[must_use]
    pub fn times(&self) -> &[Tick] {
        &self.times
    }

    /// Number of epochs, at least one.
    #[must_use]
    pub fn epochs(&self) -> usize {
        self.times.len()
    }

    /// Pages of the guest.
    #[must_use]
    pub fn pages(&self) -> usize {
        usize::try_from(self.header.pages).unwrap_or(usize::MAX)
    }

    /// The runs of pages that were written in an epoch (nothing past the last one).
    pub fn runs(&self, epoch: usize) -> impl Iterator<Item = PageRun> {
        let end = self.ends.get(epoch).copied().unwrap_or(0);
        let start = epoch.checked_sub(1).and_then(|e| self.ends.get(e)).copied().unwrap_or(0);
        self.runs
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .map(|&(start, pages)| PageRun::new(PageIndex::new(start.into()), pages.into()))
    }

    /// Pages written in each epoch.
    #[must_use]
    pub fn pages_per_epoch(&self) -> Vec<u64> {
        (0..self.epochs()).map(|e| self.runs(e).map(PageRun::pages).sum()).collect()
    }

    /// In how many epochs each page was written.
    #[must_use]
    pub fn reports_per_page(&self) -> Vec<u32> {
        let mut counts = vec![0_u32; self.pages()];
        for epoch in 0..self.epochs() {
            for page in self.runs(epoch).flat_map(PageRun::iter) {
                counts[page.as_usize()] += 1;
            }
        }
        counts
    }
}

/// A page number of a trace in memory has 32 bits.
fn for_u32(limits: Limits) -> Limits {
    Limits { pages: limits.pages.min(u32::MAX.into()), ..limits }
}
