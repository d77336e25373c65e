// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page to bytes and back.
//!
//! An encoder sees private copies of pages, one at a time, in the order in which they go over one
//! channel, and is told of those that go as zeros. What encoders of several channels share lies in
//! their [`EncoderSet`]; a delta encoder keeps what was sent last there ([`DeltaCache`]).

#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod delta;
mod kind;
#[cfg(feature = "lz4")]
mod lz4;
mod raw;

pub use delta::{DeltaCache, DeltaDecoder, DeltaEncoder, DeltaStats};
pub use kind::{EncoderError, EncoderKind, EncoderSet, decoder, decoder_capabilities};
#[cfg(feature = "lz4")]
pub use lz4::{Lz4Decoder, Lz4Encoder};
pub use raw::{RawDecoder, RawEncoder};

use crate::units::{PageIndex, PageRun};

/// How a page travels. The numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum PageKind {
    /// The page's bytes as they are.
    Raw = 0,
    /// All zeros; no body.
    Zero = 1,
    /// One LZ4 block (no frame, no size prefix) that decodes to exactly one page.
    Lz4 = 2,
    /// What has changed since the page was last sent; see [`DeltaEncoder`].
    Delta = 3,
}

impl PageKind {
    /// The kind with this wire number, if it is one.
    #[must_use]
    pub const fn from_wire(kind: u8) -> Option<Self> {
        match kind {
            0 => Some(Self::Raw),
            1 => Some(Self::Zero),
            2 => Some(Self::Lz4),
            3 => Some(Self::Delta),
            _ => None,
        }
    }
}

/// Turns pages into bodies.
pub trait PageEncoder: Send {
    /// A short name for reports: `raw`, `lz4`, ...
    fn name(&self) -> &'static str;

    /// Encodes one page that is not all zeros (those never get here). Appends the body to `out`
    /// and returns its kind, or appends nothing and returns [`PageKind::Raw`]: then the caller
    /// sends the page as it is. A body is always shorter than the page.
    fn encode(&mut self, page: PageIndex, bytes: &[u8], out: &mut Vec<u8>) -> PageKind;

    /// The pages of the run are sent as zeros, which never get to [`encode`](Self::encode).
    fn zeros(&mut self, run: PageRun) {
        let _ = run;
    }
}

/// Turns bodies into pages.
pub trait PageDecoder: Send {
    /// Decodes one body of a kind other than raw or zero into `page`, which has exactly one
    /// page's length and holds, for delta kinds, the page's present contents.
    ///
    /// # Errors
    /// [`DecodeError`] if the body does not decode to exactly one page. Never reads or writes
    /// outside the two slices, whatever the body says.
    fn decode(&mut self, kind: PageKind, body: &[u8], page: &mut [u8]) -> Result<(), DecodeError>;
}

/// A body does not decode to one page.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// This side has no decoder for the kind.
    #[error("No decoder for page kind {kind:?} was negotiated")]
    Unsupported {
        /// The kind.
        kind: PageKind,
    },
    /// The body is damaged or decodes to another length.
    #[error("A {kind:?} body of {body_bytes} bytes does not decode to one page: {why}")]
    Damaged {
        /// The kind.
        kind: PageKind,
        /// Length of the body.
        body_bytes: usize,
        /// The decoder's reason.
        why: String,
    },
    /// A delta that was made from another page than the one that is here.
    #[error(
        "A delta does not give the page that the source has: what was sent of it before is not \
         what is here, so it was changed or discarded here, or came out of order. Try again, or \
         without deltas"
    )]
    Base,
}
