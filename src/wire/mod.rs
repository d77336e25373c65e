// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The wire: messages, frames, and the bounded parser.
//!
//! Every frame is a fixed little-endian header and a body; a CRC32 covers each. Nothing that a
//! header says is used before the header's own CRC and [`crate::limits`] agree. See `PROTOCOL.md`.

mod message;

pub use message::{
    AbortCode, Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts, VersionRange,
};
