// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The frame header: 32 bytes, little-endian, the same in every version of the protocol.
//!
//! ```text
//!  0      4    5     6       7        8        12    16       20       24       28         32
//!  | PCPY |kind|flags|channel|reserved|sequence|round|body_len|body_crc|reserved|header_crc|
//! ```

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::WireError;
use crate::limits;
use crate::units::ChannelId;

/// Length of a frame header in bytes.
pub const HEADER_BYTES: usize = 32;
/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"PCPY";

const CRC_COVERS: usize = 28;

/// What a frame carries. The numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum FrameKind {
    /// [`Message::Hello`](super::Message::Hello).
    Hello = 1,
    /// [`Message::Accept`](super::Message::Accept).
    Accept = 2,
    /// [`Message::Refuse`](super::Message::Refuse).
    Refuse = 3,
    /// [`Message::Attach`](super::Message::Attach).
    Attach = 4,
    /// [`Message::ChannelsReady`](super::Message::ChannelsReady).
    ChannelsReady = 5,
    /// [`Message::Announce`](super::Message::Announce).
    Announce = 6,
    /// A page frame; see [`super::PageFrameView`].
    Pages = 7,
    /// [`Message::RoundEnd`](super::Message::RoundEnd).
    RoundEnd = 8,
    /// [`Message::RoundAck`](super::Message::RoundAck).
    RoundAck = 9,
    /// [`Message::State`](super::Message::State).
    State = 10,
    /// [`Message::Prepare`](super::Message::Prepare).
    Prepare = 11,
    /// [`Message::Ready`](super::Message::Ready).
    Ready = 12,
    /// [`Message::Commit`](super::Message::Commit).
    Commit = 13,
    /// [`Message::Committed`](super::Message::Committed).
    Committed = 14,
    /// [`Message::Abort`](super::Message::Abort).
    Abort = 15,
    /// [`Message::Ping`](super::Message::Ping).
    Ping = 16,
    /// [`Message::Pong`](super::Message::Pong).
    Pong = 17,
    /// [`Message::Query`](super::Message::Query).
    Query = 18,
    /// [`Message::Answer`](super::Message::Answer).
    Answer = 19,
}

impl FrameKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Hello,
        Self::Accept,
        Self::Refuse,
        Self::Attach,
        Self::ChannelsReady,
        Self::Announce,
        Self::Pages,
        Self::RoundEnd,
        Self::RoundAck,
        Self::State,
        Self::Prepare,
        Self::Ready,
        Self::Commit,
        Self::Committed,
        Self::Abort,
        Self::Ping,
        Self::Pong,
        Self::Query,
        Self::Answer,
    ];

    /// The kind with this wire number.
    #[must_use]
    pub fn from_wire(kind: u8) -> Option<Self> {
        Self::ALL.get(usize::from(kind).checked_sub(1)?).copied()
    }

    /// The wire's number.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Most bytes of a body of this kind.
    #[must_use]
    pub const fn body_max(self) -> u32 {
        match self {
            Self::Pages => limits::FRAME_BODY_MAX,
            Self::State => limits::STATE_CHUNK_MAX + limits::SMALL_BODY_MAX,
            Self::Hello => limits::HELLO_BODY_MAX,
            Self::Announce => limits::ANNOUNCE_RUNS_MAX * 16 + limits::SMALL_BODY_MAX,
            _ => limits::SMALL_BODY_MAX,
        }
    }

    /// Whether the header's round number means something; for all others it must be 0.
    #[must_use]
    pub const fn has_round(self) -> bool {
        matches!(self, Self::Pages | Self::RoundEnd | Self::RoundAck)
    }
}

/// The header as it lies on the wire.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    kind: u8,
    flags: u8,
    channel: u8,
    reserved: u8,
    sequence: U32,
    round: U32,
    body_len: U32,
    body_crc: U32,
    reserved_2: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);

/// A header that was checked: its CRC holds, its kind is known, its numbers are within limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct FrameHeader {
    /// What the frame carries.
    pub kind: FrameKind,
    /// The channel that it belongs to.
    pub channel: ChannelId,
    /// Frames sent before this one on this channel in this direction, modulo 2^32.
    pub sequence: u32,
    /// The round that it belongs to; 0 if its kind has none.
    pub round: u32,
    /// Length of the body in bytes, at most [`FrameKind::body_max`].
    pub body_len: u32,
    /// CRC32 (the one of zlib) of the body.
    pub body_crc: u32,
}

impl FrameHeader {
    /// A header for a body whose length and CRC are known.
    #[must_use]
    pub const fn new(
        kind: FrameKind,
        channel: ChannelId,
        sequence: u32,
        round: u32,
        body_len: u32,
        body_crc: u32,
    ) -> Self {
        Self { kind, channel, sequence, round, body_len, body_crc }
    }

    /// Length of the body in bytes, as a slice length.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        self.body_len as usize
    }

    /// Bytes of the frame, header included.
    #[must_use]
    pub const fn wire_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.body_len as u64
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut raw = RawHeader {
            magic: MAGIC,
            kind: self.kind.to_wire(),
            flags: 0,
            channel: self.channel.get(),
            reserved: 0,
            sequence: self.sequence.into(),
            round: self.round.into(),
            body_len: self.body_len.into(),
            body_crc: self.body_crc.into(),
            reserved_2: U32::ZERO,
            header_crc: U32::ZERO,
        };
        raw.header_crc = crc32fast::hash(&raw.as_bytes()[..CRC_COVERS]).into();
        zerocopy::transmute!(raw)
    }

    /// Checks the bytes of a header.
    ///
    /// # Errors
    /// [`WireError`] for the first rule that they break; the magic and the CRC come first.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, WireError> {
        let raw: &RawHeader = zerocopy::transmute_ref!(bytes);
        if raw.magic != MAGIC {
            return Err(WireError::Magic { found: u32::from_le_bytes(raw.magic) });
        }
        let computed = crc32fast::hash(&bytes[..CRC_COVERS]);
        if raw.header_crc.get() != computed {
            return Err(WireError::HeaderCrc { found: raw.header_crc.get(), computed });
        }
        if raw.flags != 0 || raw.reserved != 0 || raw.reserved_2.get() != 0 {
            return Err(WireError::Reserved { place: "a frame header" });
        }
        let kind = FrameKind::from_wire(raw.kind).ok_or(WireError::Kind { kind: raw.kind })?;
        if raw.channel >= limits::CHANNELS_MAX {
            return Err(WireError::Value { field: "Channel", value: raw.channel.into() });
        }
        let round = raw.round.get();
        if round > if kind.has_round() { limits::ROUNDS_MAX } else { 0 } {
            return Err(WireError::Value { field: "Round", value: round.into() });
        }
        let (body_len, limit) = (raw.body_len.get(), kind.body_max());
        if body_len > limit {
            let (found, limit) = (body_len.into(), limit.into());
            return Err(WireError::TooLong { what: "A frame's body", found, limit });
        }
        Ok(Self {
            kind,
            channel: ChannelId::new(raw.channel),
            sequence: raw.sequence.get(),
            round,
            body_len,
            body_crc: raw.body_crc.get(),
        })
    }

    /// Compares the body's CRC, computed elsewhere, with the header's.
    ///
    /// # Errors
    /// [`WireError::BodyCrc`] if they differ.
    pub const fn check_crc(&self, computed: u32) -> Result<(), WireError> {
        if self.body_crc == computed {
            Ok(())
        } else {
            Err(WireError::BodyCrc { kind: self.kind, found: self.body_crc, computed })
        }
    }
}

/// Numbers the frames that one side sends on one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCounter {
    next: u32,
}

impl FrameCounter {
    /// The number of the next frame, and counts on.
    pub fn take(&mut self) -> u32 {
        let sequence = self.next;
        self.next = sequence.wrapping_add(1);
        sequence
    }
}

/// Checks that frames come in on one connection as they were sent: all of one channel, none lost,
/// none twice, none out of order. The first frame says which channel it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameOrder {
    channel: Option<ChannelId>,
    next: u32,
}

impl FrameOrder {
    /// For a connection of a known channel.
    #[must_use]
    pub const fn of_channel(channel: ChannelId) -> Self {
        Self { channel: Some(channel), next: 0 }
    }

    /// Takes the next frame's header.
    ///
    /// # Errors
    /// [`WireError::Channel`] or [`WireError::Sequence`]; the connection is of no more use then.
    pub fn check(&mut self, header: &FrameHeader) -> Result<(), WireError> {
        let channel = *self.channel.get_or_insert(header.channel);
        if header.channel != channel {
            let (found, expected) = (header.channel.get(), channel.get());
            return Err(WireError::Channel { found, expected });
        }
        if header.sequence != self.next {
            return Err(WireError::Sequence {
                channel: channel.get(),
                found: header.sequence,
                expected: self.next,
            });
        }
        self.next = self.next.wrapping_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FrameHeader {
        FrameHeader::new(FrameKind::Pages, ChannelId::new(3), 7, 9, 1000, 0xfeed)
    }

    #[test]
    fn header_layout_is_fixed() {
        let bytes = sample().to_bytes();
        assert_eq!(&bytes[..8], b"PCPY\x07\x00\x03\x00");
        assert_eq!(bytes[8..16], [7, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(bytes[16..28], [0xe8, 3, 0, 0, 0xed, 0xfe, 0, 0, 0, 0, 0, 0]);
        assert_eq!(FrameHeader::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn every_bit_flip_of_a_header_is_seen() {
        let good = sample().to_bytes();
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::parse(&bad).is_err(), "bit {bit}");
        }
    }

    /// A header whose CRC holds but whose fields do not: what a hostile peer sends.
    fn forged(change: impl Fn(&mut [u8; HEADER_BYTES])) -> Result<FrameHeader, WireError> {
        let mut bytes = sample().to_bytes();
        change(&mut bytes);
        let crc = crc32fast::hash(&bytes[..CRC_COVERS]);
        bytes[CRC_COVERS..].copy_from_slice(&crc.to_le_bytes());
        FrameHeader::parse(&bytes)
    }

    #[test]
    fn fields_are_checked_behind_a_good_crc() {
        assert!(forged(|_| ()).is_ok());
        assert_eq!(forged(|b| b[4] = 0), Err(WireError::Kind { kind: 0 }));
        assert_eq!(forged(|b| b[4] = 20), Err(WireError::Kind { kind: 20 }));
        for reserved in [5, 7, 24, 27] {
            assert!(matches!(forged(|b| b[reserved] = 1), Err(WireError::Reserved { .. })));
        }
        assert!(matches!(forged(|b| b[6] = 64), Err(WireError::Value { .. })));
        assert!(matches!(forged(|b| b[14] = 0xff), Err(WireError::Value { .. })));
        assert!(matches!(forged(|b| b[4] = 16), Err(WireError::Value { .. })), "ping has no round");
        assert!(matches!(forged(|b| b[19] = 0xff), Err(WireError::TooLong { .. })));
        assert!(matches!(forged(|b| b[18] = 0x41), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn kinds_and_their_numbers_agree() {
        for (index, kind) in FrameKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.to_wire()), index + 1);
            assert_eq!(FrameKind::from_wire(kind.to_wire()), Some(kind));
            assert!(kind.body_max() <= limits::FRAME_BODY_MAX);
        }
    }

    #[test]
    fn lost_duplicated_reordered_and_strayed_frames_are_errors() {
        let at = |channel, sequence| FrameHeader {
            channel: ChannelId::new(channel),
            sequence,
            ..sample()
        };
        let mut order = FrameOrder::default();
        assert_eq!(order.check(&at(3, 0)), Ok(()));
        assert_eq!(order.check(&at(3, 1)), Ok(()));
        for wrong in [0, 1, 3] {
            let seen = order.check(&at(3, wrong));
            assert!(matches!(seen, Err(WireError::Sequence { expected: 2, .. })), "{wrong}");
        }
        assert!(matches!(order.check(&at(2, 2)), Err(WireError::Channel { .. })));
        let mut counter = FrameCounter { next: u32::MAX };
        assert_eq!((counter.take(), counter.take()), (u32::MAX, 0));
    }
}
