// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a trace could not be read or written.

use std::io;

use crate::units::Tick;

/// A trace file could not be read or written. Offsets are in bytes from the file's beginning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The system could not read.
    #[error("The trace could not be read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The system could not write.
    #[error("The trace could not be written at byte {offset}; what is before can be salvaged")]
    Write {
        /// Where.
        offset: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The file is something else.
    #[error(
        "Not a precopy trace: byte 0 does not begin its 8 bytes of identification; text traces \
         are read by `precopy trace import`"
    )]
    NotATrace,
    /// A newer program wrote it.
    #[error("Format version {version} at byte 8 of the trace: this build reads version {known}")]
    Version {
        /// The version found.
        version: u16,
        /// The one that can be read.
        known: u16,
    },
    /// Bytes of the header are not what was written: without it no tick means anything.
    #[error("The header of the trace is damaged at byte {offset}: {what}; nothing can be salvaged")]
    HeaderDamaged {
        /// Where.
        offset: u64,
        /// What does not hold there.
        what: &'static str,
    },
    /// There is no index at its end: whoever wrote it did not get so far.
    #[error(
        "The trace stops at byte {offset} before its index: it was cut off, or is still being \
         written; `precopy trace salvage` keeps what is whole, if a chunk is"
    )]
    Unfinished {
        /// Where it stops.
        offset: u64,
    },
    /// Bytes are not what was written.
    #[error(
        "The trace is damaged at byte {offset}: {what}; `precopy trace salvage` keeps the rest"
    )]
    Damaged {
        /// Where.
        offset: u64,
        /// What does not hold there.
        what: &'static str,
    },
    /// A number is beyond what is allowed.
    #[error("Byte {offset} of the trace: {what} is {value}, and at most {max} is allowed")]
    TooLarge {
        /// Where.
        offset: u64,
        /// What the number says.
        what: &'static str,
        /// The number.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// It is compressed in a way that this build does not know.
    #[error(
        "The part of the trace at byte {offset} is compressed with LZ4, which this build cannot \
         read: build with the feature `lz4`"
    )]
    NeedsLz4 {
        /// Where.
        offset: u64,
    },
    /// A header with a field that no trace may have.
    #[error("{field} of the trace is {value}; it must be {valid}")]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What can be written.
        valid: String,
    },
    /// Ticks are not in order.
    #[error("Tick {tick} ends at {} ns, not later than the tick before, {} ns",
            .end.as_nanos(), .before.as_nanos())]
    Order {
        /// Number of the tick, from 0.
        tick: u64,
        /// Its end.
        end: Tick,
        /// End of the tick before.
        before: Tick,
    },
    /// A tick that cannot be written.
    #[error("Tick {tick}: {what}")]
    Tick {
        /// Number of the tick, from 0.
        tick: u64,
        /// Which rule of [`TraceTick`](super::TraceTick) it breaks, or which bound.
        what: &'static str,
    },
}

impl TraceError {
    /// What is wrong, for someone who has tried to salvage the trace: the advice to do so is left
    /// out.
    #[must_use]
    pub fn without_advice(&self) -> String {
        let all = self.to_string();
        match all.split_once("; `precopy trace salvage`") {
            Some((what, _)) => what.to_owned(),
            None => all,
        }
    }
}
