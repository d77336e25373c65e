// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LZ4 blocks, one a page, without frame and size prefix.

use super::{DecodeError, PageDecoder, PageEncoder, PageKind};
use crate::units::PageIndex;

/// Compresses each page by itself. A page that does not get shorter goes raw.
#[derive(Debug, Default)]
pub struct Lz4Encoder {
    scratch: Vec<u8>,
}

impl Lz4Encoder {
    /// With an empty buffer, which grows at the first page.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl PageEncoder for Lz4Encoder {
    fn name(&self) -> &'static str {
        "lz4"
    }

    fn encode(&mut self, _page: PageIndex, bytes: &[u8], out: &mut Vec<u8>) -> PageKind {
        // The block API wants room for the worst case, or it fails; keep that away from `out`.
        let worst = lz4_flex::block::get_maximum_output_size(bytes.len());
        if self.scratch.len() < worst {
            self.scratch.resize(worst, 0);
        }
        match lz4_flex::block::compress_into(bytes, &mut self.scratch) {
            Ok(length) if length < bytes.len() => {
                out.extend_from_slice(&self.scratch[..length]);
                PageKind::Lz4
            }
            _ => PageKind::Raw,
        }
    }
}

/// Undoes [`Lz4Encoder`]. Reads and writes nothing outside its slices: lz4_flex checks every
/// length and offset of a block.
#[derive(Debug, Default, Clone, Copy)]
#[non_exhaustive]
pub struct Lz4Decoder;

impl PageDecoder for Lz4Decoder {
    fn decode(&mut self, kind: PageKind, body: &[u8], page: &mut [u8]) -> Result<(), DecodeError> {
        if kind != PageKind::Lz4 {
            return Err(DecodeError::Unsupported { kind });
        }
        let damaged = |why| DecodeError::Damaged { kind, body_bytes: body.len(), why };
        match lz4_flex::block::decompress_into(body, page) {
            Ok(length) if length == page.len() => Ok(()),
            Ok(length) => Err(damaged(format!("it has only {length} bytes"))),
            Err(error) => Err(damaged(error.to_string())),
        }
    }
}
