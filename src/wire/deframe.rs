// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes to frames: from pieces of any size, or from a blocking stream.

use std::io::{self, ErrorKind, Read};

use super::error::{ReadFrameError, WireError};
use super::frame::{FrameHeader, HEADER_BYTES};

/// Bytes that are read, and whose CRC is taken while they are in the cache, in one go.
const READ_BYTES: usize = 256 << 10;

/// Cuts a stream of bytes into frames. Holds at most one frame, and never more than twice the
/// bytes that came for it, whatever its header says.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The present frame as far as it came.
    buffer: Vec<u8>,
    /// The present frame's header, once it is complete and checked.
    header: Option<FrameHeader>,
    /// The present frame was handed out; the next byte starts another.
    done: bool,
    /// What was wrong; a stream never recovers.
    failed: Option<WireError>,
}

impl Deframer {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` until a frame is complete and returns it, or until
    /// `input` is empty. Call again with what is left of `input`.
    ///
    /// # Errors
    /// [`WireError`] for a frame that breaks a rule; every further call then fails with the same.
    pub fn next_frame(
        &mut self,
        input: &mut &[u8],
    ) -> Result<Option<(FrameHeader, &[u8])>, WireError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        match self.advance(input) {
            Ok(None) => Ok(None),
            Ok(Some(header)) => Ok(Some((header, &self.buffer[HEADER_BYTES..]))),
            Err(error) => {
                self.failed = Some(error.clone());
                self.buffer = Vec::new();
                Err(error)
            }
        }
    }

    /// Whether the stream could end here: no frame has begun that is not complete.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.failed.is_none() && (self.done || self.buffer.is_empty())
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, WireError> {
        if std::mem::take(&mut self.done) {
            self.buffer.clear();
            self.header = None;
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                self.fill_to(HEADER_BYTES, input);
                let Some(bytes) = self.buffer.first_chunk() else { return Ok(None) };
                *self.header.insert(FrameHeader::parse(bytes)?)
            }
        };
        let whole = HEADER_BYTES + header.body_bytes();
        self.fill_to(whole, input);
        if self.buffer.len() < whole {
            return Ok(None);
        }
        header.check_crc(crc32fast::hash(&self.buffer[HEADER_BYTES..]))?;
        self.done = true;
        Ok(Some(header))
    }

    fn fill_to(&mut self, length: usize, input: &mut &[u8]) {
        let (head, tail) = input.split_at(input.len().min(length - self.buffer.len()));
        self.buffer.extend_from_slice(head);
        *input = tail;
    }
}

/// Reads one frame from a blocking stream: checks its header, reads the body into `body` (which
/// then has exactly the body's length), and checks that. `body` grows to the largest frame seen,
/// at most [`crate::limits::FRAME_BODY_MAX`], and is never shrunk.
///
/// # Errors
/// [`ReadFrameError`]. Only after [`ReadFrameError::Idle`] may the stream be read again.
pub fn read_frame(
    stream: &mut dyn Read,
    body: &mut Vec<u8>,
) -> Result<FrameHeader, ReadFrameError> {
    let mut bytes = [0; HEADER_BYTES];
    read_part(stream, "header", &mut bytes, |_| ())?;
    let header = FrameHeader::parse(&bytes)?;
    body.resize(header.body_bytes(), 0);
    let mut crc = crc32fast::Hasher::new();
    read_part(stream, "body", body, |piece| crc.update(piece))?;
    header.check_crc(crc.finalize())?;
    Ok(header)
}

/// Fills `into` and shows each piece to `seen` as it comes.
fn read_part(
    stream: &mut dyn Read,
    part: &'static str,
    into: &mut [u8],
    mut seen: impl FnMut(&[u8]),
) -> Result<(), ReadFrameError> {
    let (mut got, want) = (0, into.len());
    while got < want {
        let end = want.min(got + READ_BYTES);
        match stream.read(&mut into[got..end]) {
            Ok(0) if part == "header" && got == 0 => return Err(ReadFrameError::Closed),
            Ok(0) => return Err(ReadFrameError::Truncated { part, got, want }),
            Ok(count) => {
                seen(&into[got..got + count]);
                got += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) && part == "header" && got == 0 => {
                return Err(ReadFrameError::Idle);
            }
            Err(error) if is_timeout(&error) => {
                return Err(ReadFrameError::Stalled { part, got, want });
            }
            Err(error) => return Err(ReadFrameError::Io(error)),
        }
    }
    Ok(())
}

/// Whether an error of a read or write says that the connection's time limit passed.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
