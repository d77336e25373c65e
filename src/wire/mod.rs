// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The wire: messages, frames, and the bounded parser.
//!
//! Every frame is a fixed little-endian header and a body; a CRC32 covers each. Nothing that a
//! header says is used before the header's own CRC and [`crate::limits`] agree. See `PROTOCOL.md`.

mod codec;
mod deframe;
mod error;
mod frame;
mod message;
mod pages;

#[cfg(test)]
mod tests;

pub use codec::{decode_message, encode_message};
pub use deframe::{Deframer, read_frame};
pub use error::{ReadFrameError, WireError};
pub use frame::{FrameCounter, FrameHeader, FrameKind, FrameOrder, HEADER_BYTES, MAGIC};
pub use message::{
    AbortCode, Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts, VersionRange,
};
pub(crate) use pages::ENTRY_BYTES;
pub use pages::{PageEntry, PageFrame, PageFrameBuilder, PageFrameView};
