// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads "dirty trace text v1" line by line, in bounded memory.

use std::io::{BufRead, BufReader, Read};

use precopy::units::{PageIndex, PageRun, Tick};
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};

use super::TraceError;

/// The most that a reader accepts. The default reads 4 hours of a 256 GiB guest in 10 ms epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain settings, all with defaults")]
pub struct Limits {
    /// Bytes of one line, without its end.
    pub line_bytes: usize,
    /// Pages of the guest.
    pub pages: u64,
    /// Epochs of the trace.
    pub epochs: u64,
    /// Ranges over all epochs; bounds the memory of a trace that is read as a whole.
    pub ranges: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes: 16 << 20, pages: 1 << 26, epochs: 1_440_000, ranges: 1 << 26 }
    }
}

/// The first line of a trace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// `dirty-trace-text`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the guest.
    pub pages: u64,
    /// Intended length of an epoch in nanoseconds; the times of the lines are exact.
    pub epoch_ns: u64,
    /// What was recorded.
    #[serde(default)]
    pub guest: String,
    /// What it did.
    #[serde(default)]
    pub scenario: String,
    /// Emulated users; 0 if there were none.
    #[serde(default)]
    pub users: u32,
    /// HTTP requests a second over the recording.
    #[serde(default)]
    pub requests_per_s: Option<f64>,
    /// Remarks.
    #[serde(default)]
    pub notes: String,
}

impl Header {
    fn check(&self, limits: &Limits) -> Result<(), TraceError> {
        let field =
            |field, value: String, valid: String| Err(TraceError::Field { field, value, valid });
        if self.format != "dirty-trace-text" {
            let short = self.format.chars().take(40).collect();
            return field("format", short, "dirty-trace-text".into());
        }
        if self.version != 1 {
            return field("version", self.version.to_string(), "1".into());
        }
        if !self.page_size.is_power_of_two() || self.page_size < 4096 {
            return field("page_size", self.page_size.to_string(), "a power of two, 4096+".into());
        }
        if self.pages == 0 || self.pages > limits.pages {
            return field("pages", self.pages.to_string(), format!("1 to {}", limits.pages));
        }
        if self.epoch_ns == 0 || self.epoch_ns > 3_600_000_000_000 {
            return field("epoch_ns", self.epoch_ns.to_string(), "1 to an hour".into());
        }
        Ok(())
    }
}

/// The pages written in one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Epoch {
    /// End of the epoch.
    pub time: Tick,
    /// Runs of pages, in ascending order, none empty and none overlapping.
    pub runs: Vec<PageRun>,
}

/// Reads a trace epoch by epoch.
#[derive(Debug)]
pub struct TraceReader<R> {
    source: R,
    header: Header,
    limits: Limits,
    /// The line that was read last, from 1.
    line: u64,
    text: Vec<u8>,
    time: Option<Tick>,
    ranges: u64,
}

/// A decompressing source.
type Unzstd<R> = BufReader<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>;

impl<R: Read> TraceReader<Unzstd<R>> {
    /// Starts to read a compressed trace (`.trace.zst`).
    ///
    /// # Errors
    /// [`TraceError::Compression`] if it is not compressed, else as [`new`](Self::new).
    pub fn compressed(source: R, limits: Limits) -> Result<Self, TraceError> {
        let decoder = StreamingDecoder::new(source)
            .map_err(|e| TraceError::Compression { source: std::io::Error::other(e) })?;
        Self::new(BufReader::with_capacity(1 << 16, decoder), limits)
    }
}

impl<R: BufRead> TraceReader<R> {
    /// Starts to read a trace that is plain text: its first line.
    ///
    /// # Errors
    /// [`TraceError::Header`] or [`TraceError::Field`] if the first line is not one of this
    /// format, [`TraceError::Read`] and [`TraceError::TooLarge`] if it cannot be read.
    pub fn new(source: R, limits: Limits) -> Result<Self, TraceError> {
        let header = Header {
            format: String::new(),
            version: 0,
            page_size: 0,
            pages: 0,
            epoch_ns: 0,
            guest: String::new(),
            scenario: String::new(),
            users: 0,
            requests_per_s: None,
            notes: String::new(),
        };
        let mut reader =
            Self { source, header, limits, line: 0, text: Vec::new(), time: None, ranges: 0 };
        reader.read_line()?;
        let header: Header =
            serde_json::from_slice(&reader.text).map_err(|source| TraceError::Header { source })?;
        header.check(&limits)?;
        reader.header = header;
        Ok(reader)
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next epoch; nothing at the end.
    ///
    /// # Errors
    /// Any [`TraceError`] of a line, which it names; the reader must not be used afterwards.
    pub fn next_epoch(&mut self) -> Result<Option<Epoch>, TraceError> {
        if !self.read_line()? {
            return Ok(None);
        }
        if self.line - 1 > self.limits.epochs {
            return Err(self.too_large("epochs", self.limits.epochs));
        }
        let mut cursor = Cursor { text: &self.text, at: 0, line: self.line };
        let time_ns = cursor.number(10, "a time in nanoseconds")?;
        if let Some(before) = self.time
            && before.as_nanos() >= time_ns
        {
            let before_ns = before.as_nanos();
            return Err(TraceError::Order { line: self.line, time_ns, before_ns });
        }
        let mut runs = Vec::new();
        let mut end = 0;
        while !cursor.is_at_end() {
            runs.push(cursor.run(end, self.header.pages)?);
            end = runs.last().map_or(end, |run| run.end().get());
        }
        let time = Tick::from_nanos(time_ns);
        self.time = Some(time);
        self.ranges += runs.len() as u64;
        if self.ranges > self.limits.ranges {
            return Err(self.too_large("ranges", self.limits.ranges));
        }
        Ok(Some(Epoch { time, runs }))
    }

    /// Reads a line into `text`, without its end. False at the end of the trace.
    fn read_line(&mut self) -> Result<bool, TraceError> {
        self.line += 1;
        self.text.clear();
        let max = self.limits.line_bytes as u64;
        let line = self.line;
        let read = self
            .source
            .by_ref()
            .take(max.saturating_add(1))
            .read_until(b'\n', &mut self.text)
            .map_err(|source| TraceError::Read { line, source })?;
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
        } else if read as u64 > max {
            return Err(self.too_large("bytes in a line", max));
        }
        Ok(read > 0)
    }

    fn too_large(&self, what: &'static str, max: u64) -> TraceError {
        TraceError::TooLarge { line: self.line, what, max }
    }
}

/// A place in a line.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Cursor<'_> {
    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    /// ` start:len`, after a run that ended at `end`.
    fn run(&mut self, end: u64, pages: u64) -> Result<PageRun, TraceError> {
        self.expect(b' ', "a space or the end of the line")?;
        let column = self.at + 1;
        let gap = self.number(16, "a start page in hexadecimal")?;
        self.expect(b':', "a colon")?;
        let length_at = self.at;
        let length = self.number(16, "a number of pages in hexadecimal")?;
        if length == 0 {
            return Err(self.syntax(length_at, "at least one page"));
        }
        let start = end.saturating_add(gap);
        let new_end = start.saturating_add(length);
        if new_end > pages {
            return Err(TraceError::OutOfGuest { line: self.line, column, end: new_end, pages });
        }
        Ok(PageRun::new(PageIndex::new(start), length))
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), TraceError> {
        if self.text.get(self.at) != Some(&byte) {
            return Err(self.syntax(self.at, expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Digits up to the next byte that is none. An overflow is reported at its first digit.
    fn number(&mut self, radix: u32, expected: &'static str) -> Result<u64, TraceError> {
        let start = self.at;
        let mut value: u64 = 0;
        while let Some(digit) = self.text.get(self.at).and_then(|&b| char::from(b).to_digit(radix))
        {
            value = value
                .checked_mul(u64::from(radix))
                .and_then(|v| v.checked_add(u64::from(digit)))
                .ok_or_else(|| self.syntax(start, expected))?;
            self.at += 1;
        }
        if self.at == start {
            return Err(self.syntax(start, expected));
        }
        Ok(value)
    }

    fn syntax(&self, at: usize, expected: &'static str) -> TraceError {
        TraceError::Syntax { line: self.line, column: at + 1, expected }
    }
}
