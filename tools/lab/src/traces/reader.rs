// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decompresses "dirty trace text v1" while it is read.

use std::io::{BufReader, Read};

use precopy::trace::text::{TextLimits, TextReader};
use ruzstd::decoding::StreamingDecoder;

use super::TraceError;

/// A decompressing source.
pub type Unzstd<R> = BufReader<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>;

/// Decompresses a Zstandard file while it is read.
///
/// # Errors
/// [`TraceError::Compression`] if it is none.
pub fn decompress<R: Read>(source: R) -> Result<Unzstd<R>, TraceError> {
    let decoder = StreamingDecoder::new(source)
        .map_err(|e| TraceError::Compression { source: std::io::Error::other(e) })?;
    Ok(BufReader::with_capacity(1 << 16, decoder))
}

/// Starts to read a compressed trace (`.trace.zst`).
///
/// # Errors
/// [`TraceError::Compression`] if it is not compressed, else as [`TextReader::new`].
pub fn compressed<R: Read>(
    source: R,
    limits: TextLimits,
) -> Result<TextReader<Unzstd<R>>, TraceError> {
    Ok(TextReader::new(decompress(source)?, limits)?)
}
