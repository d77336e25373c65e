// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Decompresses "dirty trace text v1" while it is read.

use std::fmt;
use std::io::{self, BufReader, Read};

use precopy::trace::text::{TextLimits, TextReader};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::TraceError;

/// A decompressing source.
pub type Unzstd<R> = BufReader<Checked<R>>;

/// A Zstandard frame whose end is checked, which the decompressor leaves to others: the checksum
/// must be right, and nothing may follow that would be left out unnoticed.
pub struct Checked<R: Read>(StreamingDecoder<R, FrameDecoder>);

impl<R: Read> fmt::Debug for Checked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").finish_non_exhaustive()
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        if read == 0 && !into.is_empty() {
            let told = self.0.decoder.get_checksum_from_data();
            if told.is_some() && told != self.0.decoder.get_calculated_checksum() {
                return Err(io::Error::other("its checksum does not match"));
            }
            if self.0.get_mut().read(&mut [0])? > 0 {
                return Err(io::Error::other(
                    "more follows the first Zstandard frame; compress it as one",
                ));
            }
        }
        Ok(read)
    }
}

/// Decompresses a Zstandard file while it is read.
///
/// # Errors
/// [`TraceError::Compression`] if it is none.
pub fn decompress<R: Read>(source: R) -> Result<Unzstd<R>, TraceError> {
    let decoder = StreamingDecoder::new(source)
        .map_err(|e| TraceError::Compression { source: io::Error::other(e) })?;
    Ok(BufReader::with_capacity(1 << 16, Checked(decoder)))
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
