// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes the binary format, tick by tick, from the front of the file to its end.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::limits;
use crate::units::Tick;

use super::format::{self, ChunkHeader, Coding, IndexEntry, Prefix};
use super::{TraceError, TraceHeader, TraceTick, coding, header, model};

/// A chunk of this many plain bytes is closed before its time is over.
const CHUNK_BYTES: usize = 1 << 20;

/// How a trace is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "plain settings, all with defaults")]
pub struct WriterOptions {
    /// Time after which a chunk is closed. A damaged byte loses a chunk, and a reader that seeks
    /// reads one; longer chunks are smaller.
    pub chunk: Duration,
    /// How ticks are stored.
    pub coding: Coding,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { chunk: Duration::from_secs(4), coding: Coding::default() }
    }
}

/// What a writer has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Written {
    /// Ticks.
    pub ticks: u64,
    /// Pages over all ticks: a page counts once for each tick in which it was written.
    pub page_events: u64,
    /// Runs over all ticks.
    pub runs: u64,
    /// Chunks.
    pub chunks: u32,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// End of the last tick.
    pub end: Tick,
}

/// Writes a trace. Holds one chunk; whoever drops it without [`finish`](Self::finish) leaves a
/// file that can only be salvaged.
#[derive(Debug)]
pub struct TraceWriter<W> {
    sink: W,
    header: TraceHeader,
    options: WriterOptions,
    /// The open chunk: its payload, ticks, and the end of its first one.
    payload: Vec<u8>,
    ticks: u32,
    first: Tick,
    packed: Vec<u8>,
    entries: Vec<IndexEntry>,
    written: Written,
}

impl<W: Write> TraceWriter<W> {
    /// Writes the header to a new file. `sink` should be buffered if small writes are dear.
    ///
    /// # Errors
    /// [`TraceError::Header`] if a field cannot be written, [`TraceError::Write`].
    pub fn new(sink: W, header: &TraceHeader, options: WriterOptions) -> Result<Self, TraceError> {
        let body = header::write(header)?;
        let mut prefix = Vec::new();
        Prefix::write(&body, &mut prefix)?;
        let mut writer = Self {
            sink,
            header: header.clone(),
            options,
            payload: Vec::new(),
            ticks: 0,
            first: Tick::ZERO,
            packed: Vec::new(),
            entries: Vec::new(),
            written: Written::default(),
        };
        writer.put(&prefix)?;
        writer.put(&body)?;
        Ok(writer)
    }

    /// Writes the next tick; the file gets it when its chunk is closed.
    ///
    /// # Errors
    /// [`TraceError::Order`] and [`TraceError::Tick`] if the tick cannot be written; the trace may
    /// go on without it. [`TraceError::Write`]: it cannot.
    pub fn push(&mut self, tick: &TraceTick) -> Result<(), TraceError> {
        let number = self.written.ticks;
        if tick.end <= self.written.end {
            let (end, before) = (tick.end, self.written.end);
            return Err(TraceError::Order { tick: number, end, before });
        }
        coding::check(tick, self.header.pages)
            .map_err(|what| TraceError::Tick { tick: number, what })?;
        if self.ticks > 0
            && (tick.end.since(self.first) >= self.options.chunk
                || self.payload.len() >= CHUNK_BYTES
                || self.ticks == limits::TRACE_CHUNK_TICKS_MAX)
        {
            self.close_chunk()?;
        }
        if !self.encode(tick) {
            if self.ticks > 0 {
                self.close_chunk()?;
            }
            if !self.encode(tick) {
                let what = "it takes more bytes than a chunk holds (32 MiB): record shorter ticks";
                return Err(TraceError::Tick { tick: number, what });
            }
        }
        self.written.ticks += 1;
        self.written.runs += tick.runs.len() as u64;
        self.written.page_events += tick.pages();
        self.written.end = tick.end;
        Ok(())
    }

    /// Adds a tick to the open chunk, unless it does not fit.
    fn encode(&mut self, tick: &TraceTick) -> bool {
        let length = self.payload.len();
        let before = (self.ticks > 0).then_some(self.written.end);
        coding::write(&self.header, before, tick, &mut self.payload);
        if self.payload.len() > limits::TRACE_CHUNK_BYTES_MAX as usize {
            self.payload.truncate(length);
            return false;
        }
        if self.ticks == 0 {
            self.first = tick.end;
        }
        self.ticks += 1;
        true
    }

    fn close_chunk(&mut self) -> Result<(), TraceError> {
        if self.entries.len() >= limits::TRACE_CHUNKS_MAX as usize {
            let what = "the trace has more chunks than a file holds (1048576): make them longer";
            return Err(TraceError::Tick { tick: self.written.ticks, what });
        }
        let payload = std::mem::take(&mut self.payload);
        let mut packed = std::mem::take(&mut self.packed);
        let code = self.pack(&payload, &mut packed);
        let stored = if code == format::PLAIN { &payload } else { &packed };
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let header = ChunkHeader {
            coding: code,
            ticks: self.ticks,
            stored_bytes: length(stored),
            plain_bytes: length(&payload),
            first: self.first,
            last: self.written.end,
            crc: crc32fast::hash(stored),
        };
        self.entries.push(IndexEntry::of(self.written.bytes, &header));
        self.put(&header.to_bytes())?;
        self.put(stored)?;
        self.written.chunks += 1;
        self.ticks = 0;
        (self.payload, self.packed) = (payload, packed);
        self.payload.clear();
        Ok(())
    }

    /// Packs a payload, if that makes it shorter. Says which coding it has now.
    fn pack(&self, payload: &[u8], packed: &mut Vec<u8>) -> u8 {
        packed.clear();
        let (code, done) = match self.options.coding {
            Coding::Plain => return format::PLAIN,
            #[cfg(feature = "lz4")]
            Coding::Lz4 => (format::LZ4, pack_lz4(payload, packed)),
            Coding::Modelled => {
                let done = model::pack(&self.header, self.first, payload, packed);
                (format::MODELLED, done.is_ok())
            }
        };
        if done && packed.len() < payload.len() { code } else { format::PLAIN }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TraceError> {
        let offset = self.written.bytes;
        self.sink.write_all(bytes).map_err(|source| TraceError::Write { offset, source })?;
        self.written.bytes += bytes.len() as u64;
        Ok(())
    }

    /// What has been written so far; the open chunk counts, but not in bytes.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Closes the last chunk, writes the index and flushes. Gives the sink back.
    ///
    /// # Errors
    /// [`TraceError::Write`].
    pub fn finish(mut self) -> Result<(W, Written), TraceError> {
        if self.ticks > 0 {
            self.close_chunk()?;
        }
        let mut end = Vec::new();
        format::write_end(&self.entries, self.written.bytes, &mut end);
        self.put(&end)?;
        let offset = self.written.bytes;
        self.sink.flush().map_err(|source| TraceError::Write { offset, source })?;
        Ok((self.sink, self.written))
    }
}

#[cfg(feature = "lz4")]
fn pack_lz4(payload: &[u8], packed: &mut Vec<u8>) -> bool {
    packed.resize(lz4_flex::block::get_maximum_output_size(payload.len()), 0);
    let length = lz4_flex::block::compress_into(payload, packed);
    packed.truncate(length.as_ref().map_or(0, |length| *length));
    length.is_ok()
}
