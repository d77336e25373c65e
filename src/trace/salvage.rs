// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is whole at the beginning of a trace that was cut off or damaged.

use std::io::{Read, Write};

use super::chunk::{Chunk, read_header};
use super::format::{CHUNK_HEADER_BYTES, INDEX_MAGIC};
use super::reader::read_trace_header;
use super::{TraceError, TraceTick, TraceWriter, WriterOptions, Written};

/// What was salvaged.
#[derive(Debug)]
#[non_exhaustive]
pub struct Salvaged {
    /// What the new file holds.
    pub written: Written,
    /// The first byte of the old file that was not used.
    pub good_bytes: u64,
    /// Why nothing was read from there; nothing if all chunks were whole.
    pub reason: Option<TraceError>,
}

/// Copies the chunks of a trace up to the first that is damaged or cut off into a new trace. The
/// index of the old one is not needed.
///
/// # Errors
/// [`TraceError`] if the header is damaged, for without it no tick means anything, or if the new
/// file cannot be written.
pub fn salvage(
    mut from: impl Read,
    to: impl Write,
    options: WriterOptions,
) -> Result<Salvaged, TraceError> {
    let (header, mut offset) = read_trace_header(&mut from)?;
    let mut writer = TraceWriter::new(to, &header, options)?;
    let (mut chunk, mut tick) = (Chunk::default(), TraceTick::default());
    let reason = loop {
        let mut begins = [0; 4];
        let found = match super::chunk::read_at(&mut from, &mut begins, offset) {
            Ok(()) if begins == INDEX_MAGIC => break None,
            Ok(()) => read_header(&mut begins.chain(&mut from), offset),
            Err(error) => Err(error),
        };
        let chunk_header = match found {
            Ok(header) if header.first > writer.written().end => header,
            Ok(_) => {
                let what = "the chunk is not later than the one before";
                break Some(TraceError::Damaged { offset, what });
            }
            Err(error) => break Some(error),
        };
        // A chunk is taken as a whole or not at all: all of it is read once before any is written.
        let mut whole = chunk.load(&mut from, chunk_header, offset).map(|()| true);
        while let Ok(true) = whole {
            whole = chunk.next_tick(&header, &mut tick);
        }
        if let Err(error) = whole {
            break Some(error);
        }
        chunk.rewind();
        while chunk.next_tick(&header, &mut tick)? {
            writer.push(&tick)?;
        }
        offset += CHUNK_HEADER_BYTES as u64 + u64::from(chunk_header.stored_bytes);
    };
    let (_, written) = writer.finish()?;
    Ok(Salvaged { written, good_bytes: offset, reason })
}
