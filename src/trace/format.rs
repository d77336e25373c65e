// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The binary format of traces, version 1: where each byte of a file stands.
//!
//! All integers are little-endian. `number` is LEB128 in as few bytes as possible, `signed` a
//! number after zigzag; every CRC is CRC-32 (IEEE). Times are in nanoseconds. A file is
//!
//! ```text
//! prefix | header body | chunk, chunk, ... | index | footer
//! ```
//!
//! | part | bytes | content |
//! |---|---|---|
//! | prefix | 8 | `8a 50 43 54 52 41 43 0a` (`PCTRAC` in between) |
//! | | 2 | version, 1 |
//! | | 2 | zero |
//! | | 4 | length of the header body |
//! | | 4 | CRC of the 16 bytes before and the header body |
//! | header body | 1 | log2 of the page size |
//! | | 1 | clock: 0 host, 1 guest, 2 virtual |
//! | | .. | pages of the guest, intended tick in ns: two numbers |
//! | | .. | origin, notes: each a number of bytes and so many bytes of UTF-8 |
//! | | .. | 0: unknown which pages were populated; else 1 + the number of runs, and the runs |
//! | chunk | 4 | `CHNK` |
//! | | 1 | coding: 0 plain, 1 LZ4 block, 2 modelled |
//! | | 3 | zero |
//! | | 4 | number of ticks, at least 1 |
//! | | 4 | stored bytes of the payload |
//! | | 4 | bytes of the payload when plain |
//! | | 8 | end of the first tick |
//! | | 8 | end of the last tick |
//! | | 4 | CRC of the stored payload |
//! | | 4 | CRC of the 40 bytes before |
//! | | .. | payload |
//! | index | 4 | `INDX` |
//! | | 4 | number of chunks |
//! | | 28 each | offset of the chunk (8), ends of its first and last tick (8, 8), its ticks (4) |
//! | | 4 | CRC of the index up to here |
//! | footer | 8 | offset of the index |
//! | | 4 | CRC of the 8 bytes before |
//! | | 4 | `TEND` |
//!
//! A list of runs is, for each run, the number of pages between the end of the run before (at
//! first page 0) and its start, less one for all but the first, because runs do not touch; and its
//! pages less one. A **plain** payload is one tick after the other:
//!
//! 1. `signed`: time since the end of the tick before, less the intended tick. The first tick of a
//!    chunk: 0, for the chunk says when it ended.
//! 2. One byte of flags: 1 requests, 2 in flight, 4 guest time, 8 contents. The others are zero.
//! 3. Number of runs, and the runs.
//! 4. What the flags announce, in their order: requests, in flight, guest time in ns: numbers.
//!    Contents: number of runs, and for each the pages between the end of the run before and its
//!    start, its pages less one, and 0 zero, 1 unchanged, 2 full, or 3 + bytes of the delta.
//!
//! A **modelled** payload is the same ticks in an arithmetic code; [`super::model`] defines it.
//! Chunks follow one another without gaps from the end of the header body to the index, and no
//! chunk depends on another, so that a reader can start at any, and what precedes damage can be
//! salvaged. A writer never goes back in its file.

use crate::limits;
use crate::units::Tick;

use super::TraceError;
use super::bytes::Cursor;

pub(super) const MAGIC: [u8; 8] = *b"\x8aPCTRAC\n";
pub(super) const VERSION: u16 = 1;
pub(super) const PREFIX_BYTES: usize = 20;
pub(super) const CHUNK_HEADER_BYTES: usize = 44;
pub(super) const INDEX_ENTRY_BYTES: usize = 28;
pub(super) const FOOTER_BYTES: usize = 16;
pub(super) const INDEX_MAGIC: [u8; 4] = *b"INDX";
const CHUNK_MAGIC: [u8; 4] = *b"CHNK";
const FOOTER_MAGIC: [u8; 4] = *b"TEND";

/// The first bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    /// Length of the header body.
    pub(super) body_bytes: u32,
    crc: u32,
}

impl Prefix {
    /// The prefix of a header body.
    pub(super) fn write(body: &[u8], out: &mut Vec<u8>) -> Result<(), TraceError> {
        let max = limits::TRACE_HEADER_BYTES_MAX;
        let length = u32::try_from(body.len()).ok().filter(|&length| length <= max);
        let Some(length) = length else {
            return Err(TraceError::Header {
                field: "populated",
                value: format!("{} bytes long", body.len()),
                valid: format!("at most {max} bytes of runs: leave it out, or make them coarser"),
            });
        };
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 2]);
        out.extend(length.to_le_bytes());
        let crc = crc_of(out, body);
        out.extend(crc.to_le_bytes());
        Ok(())
    }

    pub(super) fn parse(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, TraceError> {
        let mut cursor = Cursor::new(bytes, 0);
        if cursor.array()? != MAGIC {
            return Err(TraceError::NotATrace);
        }
        let version = cursor.u16()?;
        if version != VERSION {
            return Err(TraceError::Version { version, known: VERSION });
        }
        if cursor.u16()? != 0 {
            return Err(TraceError::HeaderDamaged { offset: 10, what: "bytes that must be zero" });
        }
        let max = limits::TRACE_HEADER_BYTES_MAX.into();
        let length = u64::from(cursor.u32()?);
        cursor.at_most("the length of the header", length, max)?;
        let body_bytes = u32::try_from(length).unwrap_or(u32::MAX);
        Ok(Self { body_bytes, crc: cursor.u32()? })
    }

    /// Compares the CRC, which covers `prefix` too.
    pub(super) fn check(&self, prefix: &[u8], body: &[u8]) -> Result<(), TraceError> {
        if crc_of(&prefix[..PREFIX_BYTES - 4], body) == self.crc {
            return Ok(());
        }
        Err(TraceError::HeaderDamaged { offset: 0, what: "its CRC does not match" })
    }
}

fn crc_of(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// How the ticks of a chunk are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Coding {
    /// Differences in as few bytes as each needs. Quickest to read.
    Plain,
    /// The same as an LZ4 block, if that is shorter. Needs the feature `lz4`.
    #[cfg(feature = "lz4")]
    Lz4,
    /// In an arithmetic code with a model of what follows what. Smallest.
    #[default]
    Modelled,
}

pub(super) const PLAIN: u8 = 0;
pub(super) const LZ4: u8 = 1;
pub(super) const MODELLED: u8 = 2;

/// What stands before the ticks of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChunkHeader {
    pub(super) coding: u8,
    pub(super) ticks: u32,
    pub(super) stored_bytes: u32,
    pub(super) plain_bytes: u32,
    pub(super) first: Tick,
    pub(super) last: Tick,
    pub(super) crc: u32,
}

impl ChunkHeader {
    pub(super) fn to_bytes(self) -> [u8; CHUNK_HEADER_BYTES] {
        let mut out = Vec::with_capacity(CHUNK_HEADER_BYTES);
        out.extend(CHUNK_MAGIC);
        out.extend([self.coding, 0, 0, 0]);
        for number in [self.ticks, self.stored_bytes, self.plain_bytes] {
            out.extend(number.to_le_bytes());
        }
        for time in [self.first, self.last] {
            out.extend(time.as_nanos().to_le_bytes());
        }
        out.extend(self.crc.to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out.try_into().expect("the fields above are 44 bytes long")
    }

    /// Parses what stands at `offset`, and checks it against the limits.
    pub(super) fn parse(bytes: &[u8; CHUNK_HEADER_BYTES], offset: u64) -> Result<Self, TraceError> {
        let mut cursor = Cursor::new(bytes, offset);
        if cursor.array()? != CHUNK_MAGIC {
            return Err(TraceError::Damaged { offset, what: "no chunk begins here" });
        }
        let (head, crc) = bytes.split_at(CHUNK_HEADER_BYTES - 4);
        if crc32fast::hash(head).to_le_bytes() != *crc {
            let what = "the CRC of the chunk's header does not match";
            return Err(TraceError::Damaged { offset, what });
        }
        let [coding, zeros @ ..] = cursor.array::<4>()?;
        let bytes_max = limits::TRACE_CHUNK_BYTES_MAX;
        let mut bounded = |what, max: u32| {
            let value = cursor.u32()?;
            cursor.at_most(what, value.into(), max.into()).map(|_| value)
        };
        let header = Self {
            coding,
            ticks: bounded("the number of ticks", limits::TRACE_CHUNK_TICKS_MAX)?,
            stored_bytes: bounded("the length of the chunk", bytes_max)?,
            plain_bytes: bounded("the length of the chunk when plain", bytes_max)?,
            first: Tick::from_nanos(cursor.u64()?),
            last: Tick::from_nanos(cursor.u64()?),
            crc: cursor.u32()?,
        };
        let apart = u64::from(header.ticks).saturating_sub(1);
        let ordered =
            header.last.as_nanos().checked_sub(header.first.as_nanos()).is_some_and(|d| d >= apart);
        if zeros != [0; 3] || header.ticks == 0 || !ordered {
            let what = "the chunk's header contradicts itself";
            return Err(TraceError::Damaged { offset, what });
        }
        Ok(header)
    }
}

/// What the index says of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) first: Tick,
    pub(super) last: Tick,
    pub(super) ticks: u32,
}

impl IndexEntry {
    pub(super) fn of(offset: u64, header: &ChunkHeader) -> Self {
        Self { offset, first: header.first, last: header.last, ticks: header.ticks }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.offset, self.first.as_nanos(), self.last.as_nanos()] {
            out.extend(number.to_le_bytes());
        }
        out.extend(self.ticks.to_le_bytes());
    }
}

/// Index and footer of a file whose index begins at `offset`.
pub(super) fn write_end(entries: &[IndexEntry], offset: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend(INDEX_MAGIC);
    let count = u32::try_from(entries.len()).expect("a writer keeps TRACE_CHUNKS_MAX");
    out.extend(count.to_le_bytes());
    for entry in entries {
        entry.write(out);
    }
    out.extend(crc32fast::hash(&out[start..]).to_le_bytes());
    out.extend(offset.to_le_bytes());
    out.extend(crc32fast::hash(&offset.to_le_bytes()).to_le_bytes());
    out.extend(FOOTER_MAGIC);
}

/// The index's offset, from the footer of a file of `file_bytes` bytes.
pub(super) fn parse_footer(bytes: &[u8; FOOTER_BYTES], file_bytes: u64) -> Result<u64, TraceError> {
    let offset = file_bytes - FOOTER_BYTES as u64;
    let mut cursor = Cursor::new(bytes, offset);
    let index = cursor.array::<8>()?;
    let crc = cursor.u32()?;
    if cursor.array()? != FOOTER_MAGIC {
        return Err(TraceError::Unfinished { offset: file_bytes });
    }
    if crc32fast::hash(&index) != crc {
        return Err(TraceError::Damaged { offset, what: "the CRC of the footer does not match" });
    }
    Ok(u64::from_le_bytes(index))
}

/// Number of chunks that an index of this many bytes at `offset` lists.
pub(super) fn index_entries(bytes: u64, offset: u64) -> Result<u64, TraceError> {
    let damaged = |what| TraceError::Damaged { offset, what };
    let entry = INDEX_ENTRY_BYTES as u64;
    let list = bytes.checked_sub(12).ok_or_else(|| damaged("the index is too short"))?;
    if !list.is_multiple_of(entry) {
        return Err(damaged("the index ends in the middle of an entry"));
    }
    let max = limits::TRACE_CHUNKS_MAX.into();
    Cursor::new(&[], offset).at_most("the number of chunks", list / entry, max)
}

/// The entries of an index that begins at `offset`, of a file whose chunks begin at `chunks_at`.
pub(super) fn parse_index(
    bytes: &[u8],
    offset: u64,
    chunks_at: u64,
) -> Result<Vec<IndexEntry>, TraceError> {
    let damaged = |offset, what| Err(TraceError::Damaged { offset, what });
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return damaged(offset, "the index is too short");
    };
    if crc32fast::hash(body).to_le_bytes() != *crc {
        return damaged(offset, "the CRC of the index does not match");
    }
    let mut cursor = Cursor::new(body, offset);
    let begins = cursor.array()? == INDEX_MAGIC;
    let count = cursor.u32()? as usize;
    if !begins || cursor.len() != count * INDEX_ENTRY_BYTES {
        return damaged(offset, "no index of this length begins here");
    }
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(count);
    // Where the next chunk may begin at the earliest, and the end of the last tick.
    let (mut at, mut end) = (chunks_at, Tick::ZERO);
    for _ in 0..count {
        let place = cursor.offset();
        let entry = IndexEntry {
            offset: cursor.u64()?,
            first: Tick::from_nanos(cursor.u64()?),
            last: Tick::from_nanos(cursor.u64()?),
            ticks: cursor.u32()?,
        };
        let later = entry.first > end && entry.last >= entry.first;
        if entry.offset < at || entry.offset >= offset || !later {
            return damaged(place, "the index contradicts itself");
        }
        at = entry.offset.saturating_add(CHUNK_HEADER_BYTES as u64);
        end = entry.last;
        entries.push(entry);
    }
    Ok(entries)
}
