// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with bytes from a peer.

use std::io;

use super::frame::FrameKind;
use super::message::VersionRange;
use crate::encode::PageKind;
use crate::region::RegionError;
use crate::units::UnitError;

/// A frame or a message that breaks the protocol. After one, the connection is of no more use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not a precopy peer, or the stream lost its place.
    #[error("A frame starts with {found:#010x}, not with the magic of precopy; is the peer one?")]
    Magic {
        /// The four bytes, read as a little-endian number.
        found: u32,
    },
    /// The header was damaged.
    #[error("A frame header has CRC {computed:#010x} but says {found:#010x}")]
    HeaderCrc {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The body was damaged.
    #[error(
        "The body of a {kind:?} frame has CRC {computed:#010x} but its header says {found:#010x}"
    )]
    BodyCrc {
        /// The frame's kind.
        kind: FrameKind,
        /// What the header says.
        found: u32,
        /// What the body's bytes give.
        computed: u32,
    },
    /// A frame kind that this version does not know.
    #[error("Frame kind {kind} is unknown in this version of the protocol")]
    Kind {
        /// The number.
        kind: u8,
    },
    /// A frame that cannot come here: page frames are no messages, and the other way round.
    #[error("A {found:?} frame came where one of another kind is read")]
    Unexpected {
        /// What came.
        found: FrameKind,
    },
    /// Bits that must be zero are not.
    #[error("Reserved bits in {place} are not zero")]
    Reserved {
        /// Where.
        place: &'static str,
    },
    /// A body, list or text longer than [`crate::limits`] allows.
    #[error("{what} is {found} long; at most {limit} is allowed")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long it says it is.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A number that its field cannot have.
    #[error("{field} cannot be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The body ends before the message does.
    #[error("The body of a {kind:?} frame ends before its fields do")]
    Short {
        /// The frame's kind.
        kind: FrameKind,
    },
    /// The body goes on after the message.
    #[error("The body of a {kind:?} frame has {bytes} bytes too many")]
    Trailing {
        /// The frame's kind.
        kind: FrameKind,
        /// How many.
        bytes: usize,
    },
    /// A text is not UTF-8.
    #[error("{field} is not UTF-8")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// No version in common. The leading fields of Hello keep their place in every version.
    #[error(
        "The peer speaks protocol versions {} to {}, this side {} to {}; update the older one",
        theirs.min, theirs.max, VersionRange::OURS.min, VersionRange::OURS.max
    )]
    Version {
        /// What the peer speaks.
        theirs: VersionRange,
    },
    /// A frame was lost, duplicated or reordered.
    #[error("Frame {found} came on channel {channel} where frame {expected} is due")]
    Sequence {
        /// The channel.
        channel: u8,
        /// The frame's number.
        found: u32,
        /// The number that was due.
        expected: u32,
    },
    /// A frame of another channel came on this connection.
    #[error("A frame of channel {found} came on the connection of channel {expected}")]
    Channel {
        /// The frame's.
        found: u8,
        /// The connection's.
        expected: u8,
    },
    /// A memory map or a run that does not hold.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// A page size that does not hold.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// An entry of a page frame does not start after the one before it.
    #[error("Entry {entry} of a page frame starts at page {start}, before page {floor}")]
    Order {
        /// Which entry.
        entry: u32,
        /// Its first page.
        start: u64,
        /// The least that it could be.
        floor: u64,
    },
    /// An entry's body has a length that its kind cannot have.
    #[error("Entry {entry} of a page frame: {pages} pages of kind {kind:?} in {body_len} bytes")]
    EntryLength {
        /// Which entry.
        entry: u32,
        /// How its pages travel.
        kind: PageKind,
        /// How many pages.
        pages: u32,
        /// Length of its body in bytes.
        body_len: u32,
    },
    /// A page kind that this version does not know.
    #[error("Page kind {kind} is unknown in this version of the protocol")]
    PageKind {
        /// The number.
        kind: u8,
    },
    /// A page kind that was not negotiated.
    #[error("Pages of kind {kind:?} were not negotiated")]
    NotNegotiated {
        /// The kind.
        kind: PageKind,
    },
    /// The run does not fit the page frame under construction; finish that one first.
    #[error("{pages} pages from page {start} do not fit the page frame under construction")]
    Full {
        /// First page.
        start: u64,
        /// Number of pages.
        pages: u64,
    },
}

/// No frame could be read from a blocking stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadFrameError {
    /// The peer closed the stream between two frames.
    #[error("The peer closed the connection")]
    Closed,
    /// The stream ended inside a frame.
    #[error("The connection ended inside a frame, after {got} of {want} bytes of its {part}")]
    Truncated {
        /// `header` or `body`.
        part: &'static str,
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        want: usize,
    },
    /// Nothing came within the connection's time limit. No byte was lost: reading may go on.
    #[error("No frame came within the time limit")]
    Idle,
    /// Part of a frame came, then nothing within the connection's time limit.
    #[error("A frame stopped coming after {got} of {want} bytes of its {part}")]
    Stalled {
        /// `header` or `body`.
        part: &'static str,
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        want: usize,
    },
    /// The system's answer to a read.
    #[error("Could not read from the connection")]
    Io(#[source] io::Error),
    /// What came breaks the protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
}
