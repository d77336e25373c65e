// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the binary format: one chunk in memory, from any point in time.

use std::fmt::Debug;
use std::io::{Read, Seek, SeekFrom};

use crate::units::Tick;

use super::bytes::Cursor;
use super::chunk::{Chunk, read_at, read_header};
use super::format::{
    self, CHUNK_HEADER_BYTES, FOOTER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, PREFIX_BYTES, Prefix,
};
use super::{TickSource, TraceError, TraceHeader, TraceTick, header};

/// Reads a trace from a file, or from anything that can seek. Holds one chunk (at most 64 MiB),
/// the index (32 bytes a chunk) and the header.
#[derive(Debug)]
pub struct TraceReader<R> {
    source: R,
    header: TraceHeader,
    entries: Vec<IndexEntry>,
    /// Where the index begins: one past the last chunk.
    index_at: u64,
    /// Where the source stands, if that is known.
    position: Option<u64>,
    chunk: Chunk,
    /// Number of the chunk after the one that is being read.
    next: usize,
}

impl<R: Read + Seek> TraceReader<R> {
    /// Reads header and index.
    ///
    /// # Errors
    /// [`TraceError`] if the source is no whole trace, with the offset of what is wrong; damage
    /// inside a chunk shows when its ticks are read. [`TraceError::Unfinished`] if the index is
    /// missing, which [`salvage`](super::salvage) can make up for.
    pub fn new(mut source: R) -> Result<Self, TraceError> {
        let seek = |source: &mut R, to| {
            let offset = if let SeekFrom::Start(offset) = to { offset } else { 0 };
            source.seek(to).map_err(|source| TraceError::Read { offset, source })
        };
        let length = seek(&mut source, SeekFrom::End(0))?;
        seek(&mut source, SeekFrom::Start(0))?;
        let (header, chunks_at) = read_trace_header(&mut source)?;
        let footer_at = length
            .checked_sub(FOOTER_BYTES as u64)
            .filter(|&at| at >= chunks_at)
            .ok_or(TraceError::Unfinished { offset: length })?;
        seek(&mut source, SeekFrom::Start(footer_at))?;
        let mut footer = [0; FOOTER_BYTES];
        read_at(&mut source, &mut footer, footer_at)?;
        let index_at = format::parse_footer(&footer, length)?;
        if index_at < chunks_at || index_at > footer_at {
            let what = "the footer points to no index";
            return Err(TraceError::Damaged { offset: footer_at, what });
        }
        let count = format::index_entries(footer_at - index_at, index_at)?;
        seek(&mut source, SeekFrom::Start(index_at))?;
        let mut index = vec![0; usize::try_from(count).unwrap_or(0) * INDEX_ENTRY_BYTES + 12];
        read_at(&mut source, &mut index, index_at)?;
        let entries = format::parse_index(&index, index_at, chunks_at)?;
        if entries.first().map_or(index_at, |first| first.offset) != chunks_at {
            let what = "the first chunk of the index does not follow the header";
            return Err(TraceError::Damaged { offset: index_at, what });
        }
        let (chunk, position) = (Chunk::default(), None);
        Ok(Self { source, header, entries, index_at, position, chunk, next: 0 })
    }

    /// Number of ticks.
    pub fn ticks(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.ticks)).sum()
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.entries.len()
    }

    fn load(&mut self, number: usize) -> Result<(), TraceError> {
        let entry = self.entries[number];
        let offset = entry.offset;
        if self.position != Some(offset) {
            self.position = None;
            let to = SeekFrom::Start(offset);
            self.source.seek(to).map_err(|source| TraceError::Read { offset, source })?;
        }
        self.position = None;
        let header = read_header(&mut self.source, offset)?;
        let end = self.entries.get(number + 1).map_or(self.index_at, |next| next.offset);
        let follows = offset + CHUNK_HEADER_BYTES as u64 + u64::from(header.stored_bytes);
        if IndexEntry::of(offset, &header) != entry || follows != end {
            let what = "the chunk's header is not what the index says of it";
            return Err(TraceError::Damaged { offset, what });
        }
        self.chunk.load(&mut self.source, header, offset)?;
        self.position = Some(end);
        self.next = number + 1;
        Ok(())
    }
}

/// Reads the header from the beginning of a source; also says where the first chunk begins.
pub(super) fn read_trace_header(source: &mut impl Read) -> Result<(TraceHeader, u64), TraceError> {
    let mut bytes = [0; PREFIX_BYTES];
    // A short file that begins in another way is something else rather than cut off.
    let mut begins = Vec::new();
    source
        .by_ref()
        .take(format::MAGIC.len() as u64)
        .read_to_end(&mut begins)
        .map_err(|source| TraceError::Read { offset: 0, source })?;
    if !format::MAGIC.starts_with(&begins) {
        return Err(TraceError::NotATrace);
    }
    if begins.len() < format::MAGIC.len() {
        return Err(TraceError::Unfinished { offset: begins.len() as u64 });
    }
    bytes[..format::MAGIC.len()].copy_from_slice(&begins);
    read_at(source, &mut bytes[format::MAGIC.len()..], 8)?;
    let prefix = Prefix::parse(&bytes)?;
    let mut body = vec![0; prefix.body_bytes as usize];
    read_at(source, &mut body, PREFIX_BYTES as u64)?;
    prefix.check(&bytes, &body)?;
    let header = header::parse(Cursor::new(&body, PREFIX_BYTES as u64))?;
    Ok((header, (PREFIX_BYTES + body.len()) as u64))
}

impl<R: Read + Seek + Send + Debug> TickSource for TraceReader<R> {
    type Error = TraceError;

    fn header(&self) -> &TraceHeader {
        &self.header
    }

    fn next_tick(&mut self, into: &mut TraceTick) -> Result<bool, TraceError> {
        while !self.chunk.next_tick(&self.header, into)? {
            if self.next == self.entries.len() {
                into.clear();
                return Ok(false);
            }
            self.load(self.next)?;
        }
        Ok(true)
    }

    fn seek(&mut self, at: Tick) -> Result<(), TraceError> {
        self.chunk.clear();
        self.next = self.entries.partition_point(|entry| entry.last <= at);
        let Some(entry) = self.entries.get(self.next) else { return Ok(()) };
        if entry.first > at {
            return Ok(());
        }
        self.load(self.next)?;
        self.chunk.skip_to(&self.header, at)
    }

    fn end(&self) -> Option<Tick> {
        Some(self.entries.last().map_or(Tick::ZERO, |entry| entry.last))
    }
}
