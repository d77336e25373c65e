// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! "Dirty trace text v1": a JSON object, then one line for each epoch, in bounded memory.
//!
//! The first line is a [`TextHeader`]. Each other line is `<t_ns> <start>:<len> ...`: the end of
//! the epoch in nanoseconds, then the runs of pages that were written; `start` in hexadecimal is
//! relative to the end of the run before (the first one to page 0), `len` in hexadecimal pages.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::units::{PageIndex, PageRun, PageSize, Tick};

use super::{TraceHeader, TraceTick};

/// A text trace could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The file could not be read or decompressed.
    #[error("Line {line} of the trace could not be read: the file is damaged or cut off")]
    Read {
        /// The line, from 1.
        line: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
    /// The first line is not the expected JSON object.
    #[error("Line 1 of the trace is not a JSON object with the fields of dirty trace text v1")]
    Header {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A field of the first line has a value that cannot be used.
    #[error("{field} is {value}; it must be {valid}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Values that can be used.
        valid: String,
    },
    /// A line does not follow the format.
    #[error("Line {line}, column {column} of the trace: expected {expected}")]
    Syntax {
        /// The line, from 1.
        line: u64,
        /// The column in bytes, from 1.
        column: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// Pages beyond the end of the guest.
    #[error(
        "Line {line}, column {column} of the trace: pages up to {end} of a guest of {pages} pages"
    )]
    OutOfGuest {
        /// The line, from 1.
        line: u64,
        /// The column in bytes, from 1.
        column: usize,
        /// One past the last page.
        end: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// Lines are not in order of time.
    #[error("Line {line} of the trace: time {time_ns} ns is not later than {before_ns} ns before")]
    Order {
        /// The line, from 1.
        line: u64,
        /// Its time in nanoseconds.
        time_ns: u64,
        /// The time of the line before.
        before_ns: u64,
    },
    /// The trace is larger than the reader's limits.
    #[error("Line {line} of the trace: more than {max} {what}; raise the limit to read it")]
    TooLarge {
        /// The line, from 1.
        line: u64,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
    },
}

/// The most that a reader accepts. The default reads 4 hours of a 256 GiB guest in 10 ms epochs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain settings, all with defaults")]
pub struct TextLimits {
    /// Bytes of one line, without its end.
    pub line_bytes: usize,
    /// Pages of the guest.
    pub pages: u64,
    /// Epochs of the trace.
    pub epochs: u64,
    /// Ranges over all epochs; bounds the memory of a trace that is read as a whole.
    pub ranges: u64,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self { line_bytes: 16 << 20, pages: 1 << 26, epochs: 1_440_000, ranges: 1 << 26 }
    }
}

/// The first line of a trace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TextHeader {
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

const FORMAT: &str = "dirty-trace-text";

impl TextHeader {
    /// The first line of a trace's text: origin and notes go to `guest` and `notes`.
    #[must_use]
    pub fn of(header: &TraceHeader) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: 1,
            page_size: header.page_size.bytes_u32(),
            pages: header.pages,
            epoch_ns: u64::try_from(header.tick.as_nanos()).unwrap_or(u64::MAX),
            guest: header.origin.clone(),
            scenario: String::new(),
            users: 0,
            requests_per_s: None,
            notes: header.notes.clone(),
        }
    }

    /// The same as the header of a trace. `None` if the page size is not one that this crate has.
    #[must_use]
    pub fn to_trace(&self) -> Option<TraceHeader> {
        let mut parts = vec![self.guest.clone()];
        parts.extend((!self.scenario.is_empty()).then(|| self.scenario.clone()));
        parts.extend((self.users > 0).then(|| format!("{} users", self.users)));
        parts.retain(|part| !part.is_empty());
        Some(TraceHeader {
            page_size: PageSize::new(self.page_size).ok()?,
            tick: Duration::from_nanos(self.epoch_ns),
            notes: self.notes.clone(),
            ..TraceHeader::new(self.pages, parts.join("; "))
        })
    }

    fn check(&self, limits: &TextLimits) -> Result<(), TextError> {
        let field =
            |field, value: String, valid: String| Err(TextError::Field { field, value, valid });
        if self.format != FORMAT {
            let short = self.format.chars().take(40).collect();
            return field("format", short, FORMAT.into());
        }
        if self.version != 1 {
            return field("version", self.version.to_string(), "1".into());
        }
        if PageSize::new(self.page_size).is_err() {
            let valid = "a power of two from 4096 to 1073741824".to_owned();
            return field("page_size", self.page_size.to_string(), valid);
        }
        if self.pages == 0 || self.pages > limits.pages {
            return field("pages", self.pages.to_string(), format!("1 to {}", limits.pages));
        }
        if self.epoch_ns == 0 || u128::from(self.epoch_ns) > limits::TRACE_TICK_MAX.as_nanos() {
            return field("epoch_ns", self.epoch_ns.to_string(), "1 to an hour".into());
        }
        Ok(())
    }
}

/// The pages written in one epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TextEpoch {
    /// End of the epoch.
    pub time: Tick,
    /// Runs of pages, in ascending order, none empty and none overlapping; they may touch.
    pub runs: Vec<PageRun>,
}

/// Reads a trace that is plain text, epoch by epoch.
#[derive(Debug)]
pub struct TextReader<R> {
    source: R,
    header: TextHeader,
    limits: TextLimits,
    /// The line that was read last, from 1.
    line: u64,
    text: Vec<u8>,
    time: Option<Tick>,
    ranges: u64,
}

impl<R: BufRead> TextReader<R> {
    /// Starts to read a trace: its first line.
    ///
    /// # Errors
    /// [`TextError::Header`] or [`TextError::Field`] if the first line is not one of this
    /// format, [`TextError::Read`] and [`TextError::TooLarge`] if it cannot be read.
    pub fn new(source: R, limits: TextLimits) -> Result<Self, TextError> {
        let header = TextHeader::of(&TraceHeader::new(0, ""));
        let mut reader =
            Self { source, header, limits, line: 0, text: Vec::new(), time: None, ranges: 0 };
        reader.read_line()?;
        let header: TextHeader =
            serde_json::from_slice(&reader.text).map_err(|source| TextError::Header { source })?;
        header.check(&limits)?;
        reader.header = header;
        Ok(reader)
    }

    /// The first line.
    pub fn header(&self) -> &TextHeader {
        &self.header
    }

    /// The next epoch; nothing at the end.
    ///
    /// # Errors
    /// Any [`TextError`] of a line, which it names; the reader must not be used afterwards.
    pub fn next_epoch(&mut self) -> Result<Option<TextEpoch>, TextError> {
        let mut epoch = TextEpoch::default();
        Ok(self.next_into(&mut epoch.time, &mut epoch.runs)?.then_some(epoch))
    }

    /// Puts the next epoch into `into`, with runs that touch made one; `false` at the end.
    ///
    /// # Errors
    /// As [`next_epoch`](Self::next_epoch).
    pub fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, TextError> {
        into.clear();
        if !self.next_into(&mut into.end, &mut into.runs)? {
            return Ok(false);
        }
        into.runs.dedup_by(|run, before| {
            let touch = before.end() == run.start();
            if touch {
                *before = PageRun::new(before.start(), before.pages() + run.pages());
            }
            touch
        });
        Ok(true)
    }

    fn next_into(&mut self, time: &mut Tick, runs: &mut Vec<PageRun>) -> Result<bool, TextError> {
        if !self.read_line()? {
            return Ok(false);
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
            return Err(TextError::Order { line: self.line, time_ns, before_ns });
        }
        let mut end = 0;
        while !cursor.is_at_end() {
            let run = cursor.run(end, self.header.pages)?;
            end = run.end().get();
            runs.push(run);
        }
        *time = Tick::from_nanos(time_ns);
        self.time = Some(*time);
        self.ranges += runs.len() as u64;
        if self.ranges > self.limits.ranges {
            return Err(self.too_large("ranges", self.limits.ranges));
        }
        Ok(true)
    }

    /// Reads a line into `text`, without its end. False at the end of the trace.
    fn read_line(&mut self) -> Result<bool, TextError> {
        self.line += 1;
        self.text.clear();
        let max = self.limits.line_bytes as u64;
        let line = self.line;
        let read = self
            .source
            .by_ref()
            .take(max.saturating_add(1))
            .read_until(b'\n', &mut self.text)
            .map_err(|source| TextError::Read { line, source })?;
        if self.text.last() == Some(&b'\n') {
            self.text.pop();
        } else if read as u64 > max {
            return Err(self.too_large("bytes in a line", max));
        }
        Ok(read > 0)
    }

    fn too_large(&self, what: &'static str, max: u64) -> TextError {
        TextError::TooLarge { line: self.line, what, max }
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
    fn run(&mut self, end: u64, pages: u64) -> Result<PageRun, TextError> {
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
            return Err(TextError::OutOfGuest { line: self.line, column, end: new_end, pages });
        }
        Ok(PageRun::new(PageIndex::new(start), length))
    }

    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), TextError> {
        if self.text.get(self.at) != Some(&byte) {
            return Err(self.syntax(self.at, expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Digits up to the next byte that is none. An overflow is reported at its first digit.
    fn number(&mut self, radix: u32, expected: &'static str) -> Result<u64, TextError> {
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

    fn syntax(&self, at: usize, expected: &'static str) -> TextError {
        TextError::Syntax { line: self.line, column: at + 1, expected }
    }
}

/// Writes the first line of a trace's text.
///
/// # Errors
/// As the sink says.
pub fn write_header(to: &mut impl Write, header: &TextHeader) -> io::Result<()> {
    serde_json::to_writer(&mut *to, header)?;
    to.write_all(b"\n")
}

/// Writes a tick as a line. The text has no place for anything but its time and pages.
///
/// # Errors
/// As the sink says.
pub fn write_tick(to: &mut impl Write, tick: &TraceTick) -> io::Result<()> {
    write!(to, "{}", tick.end.as_nanos())?;
    let mut end = PageIndex::new(0);
    for run in &tick.runs {
        write!(to, " {:x}:{:x}", run.start() - end, run.pages())?;
        end = run.end();
    }
    to.write_all(b"\n")
}
