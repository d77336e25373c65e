// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a trace could not be read.

use std::io;

/// A trace, or the JSON file beside it, could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file could not be read or decompressed.
    #[error("Line {line} of the trace could not be read: the file is damaged or cut off")]
    Read {
        /// The line, from 1.
        line: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
    /// The file is no Zstandard stream.
    #[error("The trace cannot be decompressed: it must be a Zstandard file (.trace.zst)")]
    Compression {
        /// What the decompressor says.
        source: io::Error,
    },
    /// The first line is not the expected JSON object.
    #[error("Line 1 of the trace is not a JSON object with the fields of dirty trace text v1")]
    Header {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A field of the first line or of the companion has a value that cannot be used.
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
    /// The companion file cannot be understood.
    #[error("The companion file is not the JSON object that belongs to a trace")]
    Companion {
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No window of the wanted length fits into the trace.
    #[error("A window of {window} does not fit into the trace: it must be {valid}")]
    Window {
        /// The window asked for.
        window: String,
        /// Windows that can be used.
        valid: String,
    },
}
