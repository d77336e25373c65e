// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One chunk in memory: from a file's bytes to its ticks.

use std::io::{self, Read};

use crate::units::Tick;

use super::bytes::Cursor;
use super::format::{self, CHUNK_HEADER_BYTES, ChunkHeader};
use super::model::Unpacker;
use super::{TraceError, TraceHeader, TraceTick, coding};

/// The chunk that is being read. Its buffers are used again for the next one.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    header: Option<ChunkHeader>,
    /// Where the payload begins in the file.
    offset: u64,
    stored: Vec<u8>,
    #[cfg(feature = "lz4")]
    unpacked: Vec<u8>,
    /// For a modelled payload.
    unpacker: Option<Unpacker>,
    /// Bytes of the plain payload that were read.
    at: usize,
    /// Ticks that were read.
    ticks: u32,
    before: Option<Tick>,
    /// A tick that was read to look at its time, and is still to be given.
    ahead: Option<TraceTick>,
}

/// Reads all of `into`, which stands at `offset`.
pub(super) fn read_at(
    source: &mut impl Read,
    into: &mut [u8],
    offset: u64,
) -> Result<(), TraceError> {
    source.read_exact(into).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => TraceError::Unfinished { offset },
        _ => TraceError::Read { offset, source },
    })
}

/// Reads the header of the chunk at `offset`.
pub(super) fn read_header(source: &mut impl Read, offset: u64) -> Result<ChunkHeader, TraceError> {
    let mut bytes = [0; CHUNK_HEADER_BYTES];
    read_at(source, &mut bytes, offset)?;
    ChunkHeader::parse(&bytes, offset)
}

impl Chunk {
    /// Forgets the chunk.
    pub(super) fn clear(&mut self) {
        self.header = None;
        self.rewind();
    }

    /// Goes back to the first tick.
    pub(super) fn rewind(&mut self) {
        (self.at, self.ticks, self.before, self.ahead) = (0, 0, None, None);
        let modelled = self.header.filter(|header| header.coding == format::MODELLED);
        self.unpacker = modelled.map(|header| Unpacker::new(&self.stored, header.plain_bytes));
    }

    /// Reads the payload after a header that was read at `offset`.
    pub(super) fn load(
        &mut self,
        source: &mut impl Read,
        header: ChunkHeader,
        offset: u64,
    ) -> Result<(), TraceError> {
        self.clear();
        self.offset = offset + CHUNK_HEADER_BYTES as u64;
        self.stored.resize(header.stored_bytes as usize, 0);
        read_at(source, &mut self.stored, self.offset)?;
        let damaged = |what| TraceError::Damaged { offset: self.offset, what };
        if crc32fast::hash(&self.stored) != header.crc {
            return Err(damaged("the CRC of the chunk does not match"));
        }
        match header.coding {
            format::PLAIN if header.plain_bytes == header.stored_bytes => {}
            format::MODELLED => {}
            #[cfg(feature = "lz4")]
            format::LZ4 => {
                self.unpacked.resize(header.plain_bytes as usize, 0);
                let done = lz4_flex::block::decompress_into(&self.stored, &mut self.unpacked);
                if !done.is_ok_and(|length| length == self.unpacked.len()) {
                    return Err(damaged("the LZ4 block cannot be decompressed"));
                }
            }
            #[cfg(not(feature = "lz4"))]
            format::LZ4 => return Err(TraceError::NeedsLz4 { offset }),
            _ => return Err(damaged("ticks in a coding that version 1 does not have")),
        }
        self.header = Some(header);
        self.rewind();
        Ok(())
    }

    /// The next tick of the chunk; `false` if there is no more.
    pub(super) fn next_tick(
        &mut self,
        trace: &TraceHeader,
        into: &mut TraceTick,
    ) -> Result<bool, TraceError> {
        if let Some(tick) = self.ahead.take() {
            *into = tick;
            return Ok(true);
        }
        let Some(header) = self.header.filter(|header| self.ticks < header.ticks) else {
            return Ok(false);
        };
        let (left, place) = self.decode(trace, &header, into)?;
        self.ticks += 1;
        self.before = Some(into.end);
        if self.ticks == header.ticks && (left > 0 || into.end != header.last) {
            let what = "the ticks of the chunk are not those that its header announces";
            return Err(TraceError::Damaged { offset: place, what });
        }
        Ok(true)
    }

    /// Reads a tick; says how many bytes are left, and where in the file.
    fn decode(
        &mut self,
        trace: &TraceHeader,
        header: &ChunkHeader,
        into: &mut TraceTick,
    ) -> Result<(usize, u64), TraceError> {
        if let Some(unpacker) = &mut self.unpacker {
            let times = (self.before, header.first);
            unpacker.read(trace, times, (&self.stored, self.offset), into)?;
            return Ok((self.stored.len() - unpacker.at(), self.offset));
        }
        let mut cursor = self.cursor(header, self.at);
        let length = cursor.len();
        coding::read(trace, self.before, header.first, &mut cursor, into)?;
        let (left, place) = (cursor.len(), cursor.offset());
        self.at += length - left;
        Ok((left, place))
    }

    /// Goes on to the first tick that ends after `at`.
    pub(super) fn skip_to(&mut self, trace: &TraceHeader, at: Tick) -> Result<(), TraceError> {
        let mut tick = TraceTick::default();
        while self.next_tick(trace, &mut tick)? {
            if tick.end > at {
                self.ahead = Some(tick);
                break;
            }
        }
        Ok(())
    }

    fn cursor(&self, header: &ChunkHeader, at: usize) -> Cursor<'_> {
        #[cfg(feature = "lz4")]
        if header.coding == format::LZ4 {
            let rest = self.unpacked.get(at..).unwrap_or_default();
            return Cursor::compressed(rest, self.offset);
        }
        let _ = header;
        let rest = self.stored.get(at..).unwrap_or_default();
        Cursor::new(rest, self.offset + at as u64)
    }
}
