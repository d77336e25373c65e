// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page frames: a table of entries, then their bodies.
//!
//! ```text
//!  table head 8 bytes   entries u32 | pages u32
//!  entry 24 bytes each  start u64 | pages u32 | body_len u32 | kind u8 | zero, 7 bytes
//!  bodies               one after the other, in the order of their entries
//! ```
//!
//! Entries ascend and do not overlap within a frame. A raw entry has all its pages' bytes, a zero
//! entry has no body, an LZ4 or delta entry is one page.

mod check;

use std::io::{self, IoSlice, Write};

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::WireError;
use super::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use super::message::Capabilities;
use crate::encode::{PageEncoder, PageKind};
use crate::limits;
use crate::region::RegionTable;
use crate::units::{ChannelId, PageIndex, PageRun, PageSize};
use check::{check_count, check_entries};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
struct RawHead {
    entries: U32,
    pages: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug)]
#[repr(C)]
struct RawEntry {
    start: U64,
    pages: U32,
    body_len: U32,
    kind: u8,
    zero: [u8; 7],
}

const HEAD_BYTES: usize = size_of::<RawHead>();
/// Bytes that a run of pages takes in its frame beside its contents.
pub(crate) const ENTRY_BYTES: usize = size_of::<RawEntry>();
const _: () = assert!(HEAD_BYTES == 8 && ENTRY_BYTES == 24);
const _: () = assert!(
    HEAD_BYTES
        + ENTRY_BYTES * limits::FRAME_ENTRIES_MAX as usize
        + limits::FRAME_PAGE_PAYLOAD_MAX as usize
        <= limits::FRAME_BODY_MAX as usize
);

/// Puts page frames together in buffers that are reused from frame to frame: no allocation once
/// it is warm. Raw pages are copied exactly once, from guest memory to where they are sent from.
///
/// For each run of a batch: [`room`](Self::room) says how much of it fits the present frame (none
/// of it: [`finish`](Self::finish) and send first), then either [`push_zero`](Self::push_zero),
/// or [`reserve_raw`](Self::reserve_raw), copy, [`classify`](Self::classify).
#[derive(Debug)]
pub struct PageFrameBuilder {
    page_size: PageSize,
    /// Pages that fit a frame, whatever their kind.
    pages_max: u32,
    /// Bodies; allocated once, and used up to `used`.
    bodies: Vec<u8>,
    used: usize,
    /// The run that was reserved and awaits its classification.
    reserved: Option<PageRun>,
    head: RawHead,
    table: Vec<u8>,
    /// The last entry, which may still grow, and is not in `table` yet.
    open: Option<OpenEntry>,
    /// One past the last page in the frame.
    floor: PageIndex,
    raw_pages: u64,
    zero_pages: u64,
    delta_pages: u64,
    delta_bytes: u64,
    encoded: Vec<u8>,
    finished: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenEntry {
    run: PageRun,
    kind: PageKind,
    body_len: usize,
}

impl PageFrameBuilder {
    /// For pages of one size.
    ///
    /// # Errors
    /// [`WireError::Value`] if a page of that size does not fit a frame.
    pub fn new(page_size: PageSize) -> Result<Self, WireError> {
        let page_bytes = page_size.bytes_u32();
        if page_bytes > limits::FRAME_PAGE_BYTES_MAX {
            let value = page_bytes.into();
            return Err(WireError::Value { field: "The page size of a migration", value });
        }
        let pages_max = limits::FRAME_PAGES_MAX.min(limits::FRAME_PAGE_PAYLOAD_MAX / page_bytes);
        Ok(Self {
            page_size,
            pages_max,
            bodies: vec![0; (pages_max as usize) << page_size.log2()],
            used: 0,
            reserved: None,
            head: RawHead { entries: U32::ZERO, pages: U32::ZERO },
            table: Vec::with_capacity(HEAD_BYTES + ENTRY_BYTES * limits::FRAME_PAGES_MAX as usize),
            open: None,
            floor: PageIndex::default(),
            raw_pages: 0,
            zero_pages: 0,
            delta_pages: 0,
            delta_bytes: 0,
            encoded: Vec::new(),
            finished: true,
        })
    }

    /// Most pages in one frame of this page size.
    #[must_use]
    pub fn pages_max(&self) -> u32 {
        self.pages_max
    }

    /// Pages in the present frame; 0 right after [`finish`](Self::finish).
    #[must_use]
    pub fn pages(&self) -> u64 {
        if self.finished { 0 } else { self.head.pages.get().into() }
    }

    /// The front part of `run` that fits the present frame. Empty if the frame is full, or if the
    /// run does not lie after the pages in it: then finish the frame first.
    #[must_use]
    pub fn room(&self, run: PageRun) -> PageRun {
        let (pages, floor) =
            if self.finished { (0, PageIndex::default()) } else { (self.pages(), self.floor) };
        let left = if run.start() < floor { 0 } else { u64::from(self.pages_max) - pages };
        run.split_at(left).0
    }

    /// Adds pages that hold only zeros; they need not be read. An encoder must be told of them
    /// ([`PageEncoder::zeros`]).
    ///
    /// # Errors
    /// [`WireError::Full`] if the run is not within its [`room`](Self::room).
    pub fn push_zero(&mut self, run: PageRun) -> Result<(), WireError> {
        self.begin(run)?;
        self.push(run, PageKind::Zero, 0);
        Ok(())
    }

    /// A place for the bytes of `run`, for the caller to copy the live pages to. What it holds
    /// before that is of no meaning. Without [`classify`](Self::classify) after it, the pages do
    /// not get into the frame.
    ///
    /// # Errors
    /// [`WireError::Full`] if the run is not within its [`room`](Self::room).
    pub fn reserve_raw(&mut self, run: PageRun) -> Result<&mut [u8], WireError> {
        self.begin(run)?;
        self.reserved = Some(run);
        Ok(&mut self.bodies[self.used..][..run.bytes(self.page_size)])
    }

    /// Only the first `pages` of the reserved pages were copied; the rest is given up.
    pub fn keep(&mut self, pages: u64) {
        self.reserved = self.reserved.map(|run| run.split_at(pages).0);
    }

    /// Takes the pages that were copied to the reserved place into the frame: zero pages lose
    /// their bytes, others go as `encoder` makes them, or stay where they are.
    pub fn classify(&mut self, mut encoder: Option<&mut (dyn PageEncoder + '_)>) {
        let Some(run) = self.reserved.take() else { return };
        let page_bytes = self.page_size.bytes();
        let mut from = self.used;
        for page in run.iter() {
            let bytes = &self.bodies[from..from + page_bytes];
            let one = PageRun::new(page, 1);
            if is_zero(bytes) {
                if let Some(encoder) = &mut encoder {
                    encoder.zeros(one);
                }
                self.push(one, PageKind::Zero, 0);
            } else if let Some(kind) = encode(&mut encoder, page, bytes, &mut self.encoded) {
                let length = self.encoded.len();
                self.bodies[self.used..self.used + length].copy_from_slice(&self.encoded);
                self.push(one, kind, length);
            } else {
                if from != self.used {
                    self.bodies.copy_within(from..from + page_bytes, self.used);
                }
                self.push(one, PageKind::Raw, page_bytes);
            }
            from += page_bytes;
        }
    }

    /// Closes the frame: `None` if it holds no page. The next call that adds a page starts
    /// another one.
    pub fn finish(
        &mut self,
        channel: ChannelId,
        sequence: u32,
        round: u32,
    ) -> Option<PageFrame<'_>> {
        self.reserved = None;
        if std::mem::replace(&mut self.finished, true) {
            return None;
        }
        self.close_entry();
        let pages = self.head.pages.get().into();
        self.table[..HEAD_BYTES].copy_from_slice(self.head.as_bytes());
        let bodies = &self.bodies[..self.used];
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.table);
        crc.update(bodies);
        let body_len = u32::try_from(self.table.len() + bodies.len())
            .expect("a full frame is below limits::FRAME_BODY_MAX, checked when compiled");
        let crc = crc.finalize();
        let header = FrameHeader::new(FrameKind::Pages, channel, sequence, round, body_len, crc);
        Some(PageFrame {
            header: header.to_bytes(),
            table: &self.table,
            bodies,
            pages,
            raw_pages: self.raw_pages,
            zero_pages: self.zero_pages,
            delta_pages: self.delta_pages,
            delta_bytes: self.delta_bytes,
        })
    }

    /// Checks that the run fits; starts a new frame if the last one was finished.
    fn begin(&mut self, run: PageRun) -> Result<(), WireError> {
        self.reserved = None;
        if run.is_empty() || self.room(run) != run {
            return Err(WireError::Full { start: run.start().get(), pages: run.pages() });
        }
        if std::mem::take(&mut self.finished) {
            self.head = RawHead { entries: U32::ZERO, pages: U32::ZERO };
            self.table.clear();
            self.table.extend_from_slice(self.head.as_bytes());
            (self.used, self.open, self.raw_pages, self.zero_pages) = (0, None, 0, 0);
            (self.delta_pages, self.delta_bytes) = (0, 0);
        }
        Ok(())
    }

    /// Adds pages whose body lies at `used` already, to the last entry if they continue it.
    fn push(&mut self, run: PageRun, kind: PageKind, body_len: usize) {
        let merged = self.open.filter(|open| {
            let many = matches!(kind, PageKind::Raw | PageKind::Zero);
            open.kind == kind && many && open.run.end() == run.start()
        });
        self.open = Some(if let Some(open) = merged {
            let run = PageRun::new(open.run.start(), open.run.pages() + run.pages());
            OpenEntry { run, kind, body_len: open.body_len + body_len }
        } else {
            self.close_entry();
            OpenEntry { run, kind, body_len }
        });
        self.used += body_len;
        self.floor = run.end();
        self.head.pages += U32::new(small(run.pages()));
        match kind {
            PageKind::Raw => self.raw_pages += run.pages(),
            PageKind::Zero => self.zero_pages += run.pages(),
            PageKind::Lz4 => {}
            PageKind::Delta => {
                self.delta_pages += run.pages();
                self.delta_bytes += body_len as u64;
            }
        }
    }

    fn close_entry(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.head.entries += U32::new(1);
        let entry = RawEntry {
            start: open.run.start().get().into(),
            pages: small(open.run.pages()).into(),
            body_len: small(open.body_len as u64).into(),
            kind: open.kind as u8,
            zero: [0; 7],
        };
        self.table.extend_from_slice(entry.as_bytes());
    }
}

/// Numbers of one frame are far below 2^32.
fn small(number: u64) -> u32 {
    debug_assert!(number <= limits::FRAME_BODY_MAX.into());
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Encodes a page into `out`; `None` if it goes raw, which is also what a body that is not
/// shorter than the page leads to.
fn encode(
    encoder: &mut Option<&mut (dyn PageEncoder + '_)>,
    page: PageIndex,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Option<PageKind> {
    out.clear();
    let kind = encoder.as_mut()?.encode(page, bytes, out);
    (kind != PageKind::Raw && !out.is_empty() && out.len() < bytes.len()).then_some(kind)
}

/// Whether all bytes are zero. Looks at a cache line at a time: pages that are not all zeros are
/// mostly told by their first.
fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<64>();
    lines.iter().all(|line| line.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// A finished page frame, in three pieces for one vectored write.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PageFrame<'a> {
    /// The frame header.
    pub header: [u8; HEADER_BYTES],
    /// The table of entries.
    pub table: &'a [u8],
    /// The bodies.
    pub bodies: &'a [u8],
    /// Pages in the frame.
    pub pages: u64,
    /// Of these, pages that travel as they are.
    pub raw_pages: u64,
    /// Of these, zero pages.
    pub zero_pages: u64,
    /// Of these, pages that travel as what has changed.
    pub delta_pages: u64,
    /// Bytes of the bodies of those.
    pub delta_bytes: u64,
}

impl PageFrame<'_> {
    /// Bytes of the frame, header included.
    #[must_use]
    pub const fn wire_bytes(&self) -> u64 {
        (HEADER_BYTES + self.table.len() + self.bodies.len()) as u64
    }

    /// Writes all of it, by vectored writes.
    ///
    /// # Errors
    /// Those of the writer; [`io::ErrorKind::WriteZero`] if it takes nothing. The stream is of no
    /// more use then.
    pub fn write_to(&self, stream: &mut dyn Write) -> io::Result<()> {
        let mut slices =
            [IoSlice::new(&self.header), IoSlice::new(self.table), IoSlice::new(self.bodies)];
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match stream.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A page frame of which everything but the contents of encoded bodies was checked.
#[derive(Clone, Copy, Debug)]
pub struct PageFrameView<'a> {
    entries: &'a [RawEntry],
    bodies: &'a [u8],
    page_size: PageSize,
    pages: u64,
}

/// One entry of a page frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PageEntry<'a> {
    /// Its pages; inside the region table.
    pub run: PageRun,
    /// How they travel.
    pub kind: PageKind,
    /// Raw: exactly the run's bytes. Zero: empty. Encoded: shorter than one page.
    pub body: &'a [u8],
}

impl<'a> PageFrameView<'a> {
    /// Checks the body of a frame of kind [`FrameKind::Pages`] whose CRC was checked. When it
    /// returns, every run lies inside `table`, entries ascend without overlap, counts are within
    /// limits, bodies add up exactly, and no kind but the negotiated ones is in it.
    ///
    /// # Errors
    /// [`WireError`] for the first entry that breaks a rule; then no entry should be applied.
    pub fn parse(
        header: &FrameHeader,
        body: &'a [u8],
        table: &RegionTable,
        capabilities: Capabilities,
    ) -> Result<Self, WireError> {
        if header.kind != FrameKind::Pages {
            return Err(WireError::Unexpected { found: header.kind });
        }
        let short = WireError::Short { kind: header.kind };
        let Ok((head, rest)) = RawHead::ref_from_prefix(body) else { return Err(short) };
        let count = head.entries.get();
        check_count("The table of a page frame", count, limits::FRAME_ENTRIES_MAX)?;
        check_count("A page frame", head.pages.get(), limits::FRAME_PAGES_MAX)?;
        let Ok((entries, bodies)) = <[RawEntry]>::ref_from_prefix_with_elems(rest, count as usize)
        else {
            return Err(short);
        };
        let pages = check_entries(entries, bodies, table, capabilities)?;
        if pages != u64::from(head.pages.get()) {
            let value = head.pages.get().into();
            return Err(WireError::Value { field: "The page count of a page frame", value });
        }
        Ok(Self { entries, bodies, page_size: table.page_size(), pages })
    }

    /// Pages in the frame.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The page size that bodies are cut by.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The entries, ascending.
    pub fn entries(&self) -> impl Iterator<Item = PageEntry<'a>> + use<'a> {
        let mut bodies = self.bodies;
        self.entries.iter().map_while(move |entry| {
            let (body, rest) = bodies.split_at_checked(entry.body_len.get() as usize)?;
            bodies = rest;
            let kind = PageKind::from_wire(entry.kind)?;
            let run = PageRun::new(PageIndex::new(entry.start.get()), entry.pages.get().into());
            Some(PageEntry { run, kind, body })
        })
    }
}
