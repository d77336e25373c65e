// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the switch and the guest say to each other.

use bytes::Bytes;

/// The most bytes of one frame: 64 KiB, as large as a network card's largest segment.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// What a frame means for its connection. Each connection is, in each direction, one `Open` (only
/// towards the guest), any number of `Data`, and one `Close`; it is over when both sides closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_enums, reason = "switch and guest agree on exactly these")]
pub enum FrameKind {
    /// A client has connected.
    Open,
    /// Bytes of the connection, in order.
    Data,
    /// No more bytes in this direction.
    Close,
}

/// A piece of one connection's traffic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_structs, reason = "switch and guest agree on exactly this")]
pub struct Frame {
    /// The connection; the switch counts them from 1 and uses no number twice.
    pub conn: u32,
    /// What the frame means.
    pub kind: FrameKind,
    /// At most [`FRAME_BYTES_MAX`]; empty unless the frame is `Data`.
    pub bytes: Bytes,
}

impl Frame {
    /// A client has connected.
    #[must_use]
    pub fn open(conn: u32) -> Self {
        Self { conn, kind: FrameKind::Open, bytes: Bytes::new() }
    }

    /// Bytes of a connection, at most [`FRAME_BYTES_MAX`].
    #[must_use]
    pub fn data(conn: u32, bytes: Bytes) -> Self {
        debug_assert!(bytes.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", bytes.len());
        Self { conn, kind: FrameKind::Data, bytes }
    }

    /// No more bytes in this direction.
    #[must_use]
    pub fn close(conn: u32) -> Self {
        Self { conn, kind: FrameKind::Close, bytes: Bytes::new() }
    }
}
