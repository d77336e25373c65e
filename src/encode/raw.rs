// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No encoding at all.

use super::{DecodeError, PageDecoder, PageEncoder, PageKind};
use crate::units::PageIndex;

/// Leaves every page as it is.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct RawEncoder;

impl RawEncoder {
    /// There is nothing to set up.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl PageEncoder for RawEncoder {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn encode(&mut self, _page: PageIndex, _bytes: &[u8], _out: &mut Vec<u8>) -> PageKind {
        PageKind::Raw
    }
}

/// Knows no encoded kind: raw and zero pages never get to a decoder.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct RawDecoder;

impl PageDecoder for RawDecoder {
    fn decode(
        &mut self,
        kind: PageKind,
        _body: &[u8],
        _page: &mut [u8],
    ) -> Result<(), DecodeError> {
        Err(DecodeError::Unsupported { kind })
    }
}
