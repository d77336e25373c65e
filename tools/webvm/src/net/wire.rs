// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The messages between a host's uplink and the switch, as bytes.
//!
//! ```text
//! type u8 | frame kind u8 | 0 u16 | connection u32 | payload length u32 | number u64 | payload
//! ```
//! All numbers are little-endian. The payload of an attach is the magic number and the
//! acknowledged number, that of its answer the generation, that of a refusal its reason.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{FRAME_BYTES_MAX, Frame, FrameKind};
use super::port::Attach;

const HEADER: usize = 20;
const MAGIC: u64 = u64::from_le_bytes(*b"precnet1");
const REASON_MAX: usize = 1024;

const ATTACH: u8 = 1;
const ATTACHED: u8 = 2;
const REFUSED: u8 = 3;
const FRAME: u8 = 4;
const ACKNOWLEDGE: u8 = 5;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// Host to switch, first.
    Attach(Attach),
    /// Switch to host: the answer.
    Attached { acknowledged: u64, generation: u64 },
    /// Switch to host: no, and the connection ends.
    Refused(String),
    /// A frame and its number.
    Frame(u64, Frame),
    /// All frames up to this number have arrived.
    Acknowledge(u64),
}

/// Bytes that are no message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not a message type, or not one for this side.
    #[error("Message type {value} is unknown (1 to 5 are known); is the peer a switch or a host?")]
    Type {
        /// The type's number.
        value: u8,
    },
    /// Not a frame kind.
    #[error("Frame kind {value} is unknown (1 to 3 are known)")]
    Kind {
        /// The kind's number.
        value: u8,
    },
    /// A payload of the wrong length.
    #[error("A message of type {kind} has {bytes} bytes of payload; {min} to {max} are allowed")]
    Length {
        /// The message's type.
        kind: u8,
        /// Payload bytes announced.
        bytes: usize,
        /// Fewest allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// Not this protocol.
    #[error("The peer does not speak this protocol: its first message has no magic number")]
    Magic,
    /// A message that does not belong here.
    #[error("A message of the wrong side arrived; is a host connected to a host?")]
    Unexpected,
}

/// Appends a message.
pub(super) fn encode(message: &Message, out: &mut BytesMut) {
    match message {
        Message::Attach(attach) => {
            header(out, ATTACH, 0, 0, 16, attach.received);
            out.put_u64_le(MAGIC);
            out.put_u64_le(attach.sent_acknowledged);
        }
        Message::Attached { acknowledged, generation } => {
            header(out, ATTACHED, 0, 0, 8, *acknowledged);
            out.put_u64_le(*generation);
        }
        Message::Refused(reason) => {
            let cut = reason.floor_char_boundary_at(REASON_MAX);
            header(out, REFUSED, 0, 0, cut.len(), 0);
            out.put_slice(cut.as_bytes());
        }
        Message::Frame(number, frame) => {
            let kind = match frame.kind {
                FrameKind::Open => 1,
                FrameKind::Data => 2,
                FrameKind::Close => 3,
            };
            header(out, FRAME, kind, frame.conn, frame.bytes.len(), *number);
            out.put_slice(&frame.bytes);
        }
        Message::Acknowledge(number) => header(out, ACKNOWLEDGE, 0, 0, 0, *number),
    }
}

fn header(out: &mut BytesMut, kind: u8, frame_kind: u8, conn: u32, length: usize, number: u64) {
    out.put_u8(kind);
    out.put_u8(frame_kind);
    out.put_u16_le(0);
    out.put_u32_le(conn);
    out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u64_le(number);
}

trait CutText {
    fn floor_char_boundary_at(&self, limit: usize) -> &str;
}

impl CutText for String {
    fn floor_char_boundary_at(&self, limit: usize) -> &str {
        let mut end = self.len().min(limit);
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        &self[..end]
    }
}

/// Takes messages out of a stream of bytes, whatever pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where arriving bytes are appended.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, WireError> {
        let Some(header) = self.buffer.get(..HEADER) else { return Ok(None) };
        let mut header = header;
        let (kind, frame_kind) = (header.get_u8(), header.get_u8());
        header.advance(2);
        let (conn, length) = (header.get_u32_le(), header.get_u32_le() as usize);
        let number = header.get_u64_le();
        let (min, max) = match kind {
            ATTACH => (16, 16),
            ATTACHED => (8, 8),
            REFUSED => (0, REASON_MAX),
            FRAME if frame_kind == 2 => (0, FRAME_BYTES_MAX),
            FRAME | ACKNOWLEDGE => (0, 0),
            value => return Err(WireError::Type { value }),
        };
        if !(min..=max).contains(&length) {
            return Err(WireError::Length { kind, bytes: length, min, max });
        }
        if self.buffer.len() < HEADER + length {
            self.buffer.reserve(HEADER + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        // A copy of the payload's own, so that a kept frame does not keep its neighbours.
        let payload = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        message(kind, frame_kind, conn, number, payload).map(Some)
    }
}

fn message(
    kind: u8,
    frame_kind: u8,
    conn: u32,
    number: u64,
    mut payload: Bytes,
) -> Result<Message, WireError> {
    Ok(match kind {
        ATTACH => {
            if payload.get_u64_le() != MAGIC {
                return Err(WireError::Magic);
            }
            let sent_acknowledged = payload.get_u64_le();
            Message::Attach(Attach { received: number, sent_acknowledged })
        }
        ATTACHED => Message::Attached { acknowledged: number, generation: payload.get_u64_le() },
        REFUSED => Message::Refused(String::from_utf8_lossy(&payload).into_owned()),
        ACKNOWLEDGE => Message::Acknowledge(number),
        _ => {
            let kind = match frame_kind {
                1 => FrameKind::Open,
                2 => FrameKind::Data,
                3 => FrameKind::Close,
                value => return Err(WireError::Kind { value }),
            };
            Message::Frame(number, Frame { conn, kind, bytes: payload })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (any::<u64>(), any::<u64>()).prop_map(|(received, sent_acknowledged)| {
                Message::Attach(Attach { received, sent_acknowledged })
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(acknowledged, generation)| {
                Message::Attached { acknowledged, generation }
            }),
            ".{0,40}".prop_map(Message::Refused),
            (any::<u64>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..3000)).prop_map(
                |(number, conn, bytes)| Message::Frame(number, Frame::data(conn, bytes.into()))
            ),
            (any::<u64>(), any::<u32>())
                .prop_map(|(number, conn)| Message::Frame(number, Frame::open(conn))),
            (any::<u64>(), any::<u32>())
                .prop_map(|(number, conn)| Message::Frame(number, Frame::close(conn))),
            any::<u64>().prop_map(Message::Acknowledge),
        ]
    }

    proptest! {
        #[test]
        fn messages_read_back_from_any_pieces(
            messages in proptest::collection::vec(any_message(), 0..12),
            piece in 1usize..700,
        ) {
            let mut bytes = BytesMut::new();
            for message in &messages {
                encode(message, &mut bytes);
            }
            let (mut decoder, mut read) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                decoder.feed(piece);
                while let Some(message) = decoder.next().unwrap() {
                    read.push(message);
                }
            }
            prop_assert_eq!(read, messages);
            prop_assert!(decoder.buffer.is_empty());
        }

        #[test]
        fn nonsense_is_refused_and_never_kept(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let mut bytes = BytesMut::new();
        header(&mut bytes, FRAME, 2, 1, FRAME_BYTES_MAX + 1, 1);
        let mut decoder = Decoder::default();
        decoder.feed(&bytes);
        assert!(matches!(decoder.next(), Err(WireError::Length { max: FRAME_BYTES_MAX, .. })));
    }
}
