// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The modelled coding of a chunk: what is written often in one order is told in few bits.
//!
//! Guests write many pages again and again, in address order within a tick, so that after a run
//! the next one is mostly one that followed it before. The model keeps, for the start of a run,
//! the two starts that followed it last, and the last length of the run at a start; a tick is a
//! walk from run to run, in decisions for the [range coder](super::range_coder):
//!
//! 1. Time code (as in the plain coding): a number. Flags: one decision for each of the four.
//! 2. Until the end of the tick, which is coded like a start: is it the start that followed last
//!    time (if one did)? If not, is it the one before (if there is)? If not, a number: 0 for the
//!    end, else the start less the first page where it could be, plus 1.
//! 3. Its length: is it the last one of this start (if there is one)? If not, a number: pages
//!    less one.
//! 4. What the flags announce, as in the plain coding, each kind of number with a model of its
//!    own.
//!
//! A number is the count of its bits (7 decisions, a binary tree), then its bits below the
//! highest one: the first five by a tree for each count, the others as they are. Decisions of
//! step 2 are modelled by how many starts are known and the last three outcomes, those of step 3
//! by the last outcome and the known length up to 7. The tables have 2^16 places, which starts
//! share by the upper bits of their product with [`MIX`]. A chunk begins with an empty model.

use std::time::Duration;

use crate::limits;
use crate::units::{PageRun, Tick};

use super::bytes::Cursor;
use super::coding::{self, CONTENT, GUEST_TIME, IN_FLIGHT, REQUESTS};
use super::range_coder::{Chance, Coder, Decoder, Decoding, EVEN, Encoder};
use super::{PageContent, TraceError, TraceHeader, TraceTick};

/// Spreads page numbers over the tables: 2^64 over the golden ratio, made odd.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
const PLACES: usize = 1 << 16;
/// Stands for the end of a tick where a start is expected.
const END: u64 = u64::MAX;
/// No start is known.
const UNKNOWN: u64 = u64::MAX - 1;

fn place(page: u64) -> usize {
    usize::from(u16::try_from(page.wrapping_mul(MIX) >> 48).unwrap_or(0))
}

/// A number of any size.
#[derive(Debug)]
struct Number {
    length: [Chance; 128],
    bits: [[Chance; 32]; 65],
}

impl Number {
    fn new() -> Self {
        Self { length: [EVEN; 128], bits: [[EVEN; 32]; 65] }
    }

    fn code<C: Coder>(&mut self, coder: &mut C, value: u64) -> u64 {
        let given = u64::BITS - value.leading_zeros();
        let mut node = 1;
        for bit in (0..7).rev() {
            let yes = coder.bit(&mut self.length[node], given >> bit & 1 == 1);
            node = node * 2 + usize::from(yes);
        }
        // Only bytes that nobody wrote say more than 64.
        let length = (node - 128).min(64);
        if length < 2 {
            return length as u64;
        }
        let mut left = length - 1;
        let (mut result, mut node) = (1, 1);
        while left > 0 && node < 32 {
            left -= 1;
            let yes = coder.bit(&mut self.bits[length][node], value >> left & 1 == 1);
            node = node * 2 + usize::from(yes);
            result = result << 1 | u64::from(yes);
        }
        while left > 0 {
            let bits = left.min(8);
            left -= bits;
            let piece = value >> left & ((1 << bits) - 1);
            let bits = u32::try_from(bits).unwrap_or(0);
            let piece = coder.raw(bits, u32::try_from(piece).unwrap_or(0));
            result = result << bits | u64::from(piece);
        }
        result
    }
}

/// What is known of a chunk so far.
#[derive(Debug)]
struct Model {
    /// The two starts that followed a start, the last one first.
    next: Box<[[u64; 2]]>,
    /// The last length of the run at a start; 0 if unknown.
    pages: Box<[u32]>,
    /// By number of known starts and the last three outcomes.
    first: [[Chance; 8]; 3],
    second: [Chance; 8],
    /// By known length and the last outcome.
    same: [[Chance; 2]; 8],
    outcomes: usize,
    gap: Number,
    length: Number,
    time: Number,
    flags: [Chance; 4],
    side: [Number; 7],
}

impl Model {
    fn new() -> Self {
        Self {
            next: vec![[UNKNOWN; 2]; PLACES].into(),
            pages: vec![0; PLACES].into(),
            first: [[EVEN; 8]; 3],
            second: [EVEN; 8],
            same: [[EVEN; 2]; 8],
            outcomes: 0,
            gap: Number::new(),
            length: Number::new(),
            time: Number::new(),
            flags: [EVEN; 4],
            side: std::array::from_fn(|_| Number::new()),
        }
    }

    /// The start of the next run after the one at `before` (plus 1; 0 at the beginning of a tick)
    /// and at `from` or later, or [`END`].
    fn start<C: Coder>(&mut self, coder: &mut C, before: u64, from: u64, given: u64) -> u64 {
        let known = &mut self.next[place(before)];
        let count = known.iter().filter(|&&start| start != UNKNOWN).count();
        let context = self.outcomes;
        let first = count > 0 && coder.bit(&mut self.first[count][context], given == known[0]);
        self.outcomes = (context << 1 | usize::from(first)) & 7;
        if first {
            return known[0];
        }
        let start = if count == 2 && coder.bit(&mut self.second[context], given == known[1]) {
            known[1]
        } else {
            let code = if given == END { 0 } else { given.wrapping_sub(from).wrapping_add(1) };
            match self.gap.code(coder, code) {
                0 => END,
                gap => from.saturating_add(gap - 1).min(UNKNOWN - 1),
            }
        };
        *known = [start, known[0]];
        start
    }

    /// Pages of the run at `start`.
    fn run_pages<C: Coder>(&mut self, coder: &mut C, start: u64, given: u64) -> u64 {
        let known = &mut self.pages[place(start)];
        if *known > 0 {
            let chance = &mut self.same[(*known as usize).min(8) - 1][self.outcomes & 1];
            if coder.bit(chance, given == u64::from(*known)) {
                return u64::from(*known);
            }
        }
        let pages = self.length.code(coder, given.wrapping_sub(1)).saturating_add(1);
        *known = u32::try_from(pages).unwrap_or(u32::MAX);
        pages
    }

    fn flags<C: Coder>(&mut self, coder: &mut C, given: u8) -> u8 {
        let mut flags = 0;
        for (bit, chance) in self.flags.iter_mut().enumerate() {
            let yes = coder.bit(chance, given >> bit & 1 == 1);
            flags |= u8::from(yes) << bit;
        }
        flags
    }
}

/// Writes ticks whose plain payload is `payload` to `out`.
///
/// # Errors
/// If `payload` is none, which is a fault of whoever wrote it.
pub(super) fn pack(
    header: &TraceHeader,
    first: Tick,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), TraceError> {
    let mut model = Model::new();
    let mut coder = Encoder::new(out);
    let mut cursor = Cursor::new(payload, 0);
    let (mut tick, mut before) = (TraceTick::default(), None);
    while cursor.len() > 0 {
        coding::read(header, before, first, &mut cursor, &mut tick)?;
        model.time.code(&mut coder, coding::time_code(header, before, tick.end));
        model.flags(&mut coder, coding::flags(&tick));
        write_runs(&mut model, &mut coder, &tick.runs);
        write_side(&mut model, &mut coder, &tick);
        before = Some(tick.end);
    }
    coder.finish();
    Ok(())
}

fn write_runs(model: &mut Model, coder: &mut Encoder<'_>, runs: &[PageRun]) {
    let (mut before, mut from) = (0, 0);
    for run in runs {
        let start = run.start().get();
        model.start(coder, before, from, start);
        model.run_pages(coder, start, run.pages());
        (before, from) = (start + 1, run.end().get() + 1);
    }
    model.start(coder, before, from, END);
}

fn write_side(model: &mut Model, coder: &mut Encoder<'_>, tick: &TraceTick) {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let numbers = [tick.requests.map(u64::from), tick.in_flight.map(u64::from)];
    let numbers = numbers.into_iter().chain([tick.guest_time.map(nanos)]);
    for (number, side) in numbers.zip(&mut model.side) {
        if let Some(number) = number {
            side.code(coder, number);
        }
    }
    if tick.content.is_empty() {
        return;
    }
    let [.., count, gap, pages, kind] = &mut model.side;
    count.code(coder, tick.content.len() as u64);
    let mut end = 0;
    for (run, content) in &tick.content {
        gap.code(coder, run.start().get() - end);
        pages.code(coder, run.pages() - 1);
        kind.code(coder, coding::content_code(*content));
        end = run.end().get();
    }
}

/// Reads the ticks of one chunk.
#[derive(Debug)]
pub(super) struct Unpacker {
    model: Box<Model>,
    decoder: Decoder,
    /// Plain bytes that the ticks still to come may take at least: bounds the work that a few
    /// bytes can ask for.
    plain_left: u64,
}

impl Unpacker {
    /// Starts to read a payload that is `plain_bytes` long when plain.
    pub(super) fn new(payload: &[u8], plain_bytes: u32) -> Self {
        let (model, decoder) = (Box::new(Model::new()), Decoder::new(payload));
        Self { model, decoder, plain_left: plain_bytes.into() }
    }

    /// Bytes of the payload that were read.
    pub(super) fn at(&self) -> usize {
        self.decoder.at
    }

    /// Takes the least that `count` parts of `bytes` bytes take when plain.
    fn spend(&mut self, count: u64, bytes: u64, offset: u64) -> Result<(), TraceError> {
        self.plain_left =
            self.plain_left.checked_sub(count * bytes).ok_or(TraceError::Damaged {
                offset,
                what: "the chunk holds more than it announces",
            })?;
        Ok(())
    }

    /// Reads a tick into `tick`, as [`coding::read`] does.
    pub(super) fn read(
        &mut self,
        header: &TraceHeader,
        (before, first): (Option<Tick>, Tick),
        (payload, offset): (&[u8], u64),
        tick: &mut TraceTick,
    ) -> Result<(), TraceError> {
        tick.clear();
        let damaged = |what| TraceError::Damaged { offset, what };
        self.spend(1, 3, offset)?;
        let mut coder = Decoding { state: self.decoder, bytes: payload };
        let code = self.model.time.code(&mut coder, 0);
        tick.end = coding::end_of(header, before, first, code)
            .ok_or_else(|| damaged("a tick that is not later than the one before"))?;
        let flags = self.model.flags(&mut coder, 0);
        let (mut at, mut from) = (0, 0);
        let pages_max = header.pages;
        loop {
            let start = self.model.start(&mut coder, at, from, 0);
            if start == END {
                break;
            }
            let pages = self.model.run_pages(&mut coder, start, 0);
            let end = start.saturating_add(pages);
            if start < from || end > pages_max {
                return Err(damaged("a run of pages out of order or beyond the guest"));
            }
            self.plain_left = self
                .plain_left
                .checked_sub(2)
                .ok_or_else(|| damaged("the chunk holds more than it announces"))?;
            if tick.runs.len() as u64 == limits::TRACE_TICK_RUNS_MAX {
                return Err(damaged("a tick of more runs than a trace may have"));
            }
            tick.runs.push(PageRun::from_range(start..end));
            (at, from) = (start + 1, end + 1);
        }
        self.read_side(flags, &mut coder, offset, tick)?;
        self.decoder = coder.state;
        if self.decoder.at > payload.len() {
            return Err(damaged("the chunk's code ends too early"));
        }
        Ok(())
    }

    fn read_side(
        &mut self,
        flags: u8,
        coder: &mut Decoding<'_>,
        offset: u64,
        tick: &mut TraceTick,
    ) -> Result<(), TraceError> {
        let damaged = |what| TraceError::Damaged { offset, what };
        let [requests, in_flight, guest_time, count, ..] = &mut self.model.side;
        let mut small = |flag, number: &mut Number| {
            let value = (flags & flag != 0).then(|| number.code(coder, 0));
            value.map(u32::try_from).transpose().map_err(|_| damaged("too many requests"))
        };
        tick.requests = small(REQUESTS, requests)?;
        tick.in_flight = small(IN_FLIGHT, in_flight)?;
        if flags & GUEST_TIME != 0 {
            tick.guest_time = Some(Duration::from_nanos(guest_time.code(coder, 0)));
        }
        if flags & CONTENT == 0 {
            return Ok(());
        }
        let count = count.code(coder, 0);
        if count == 0 || count > limits::TRACE_TICK_RUNS_MAX {
            return Err(damaged("no such number of contents"));
        }
        self.spend(count, 3, offset)?;
        let [.., gap, pages, kind] = &mut self.model.side;
        let mut end = 0_u64;
        for _ in 0..count {
            let start = end.saturating_add(gap.code(coder, 0));
            end = start.saturating_add(pages.code(coder, 0)).saturating_add(1);
            if end > limits::PAGES_MAX {
                return Err(damaged("contents beyond the guest"));
            }
            let content: Option<PageContent> = coding::content_of(kind.code(coder, 0));
            let content = content.ok_or_else(|| damaged("no length of a delta"))?;
            tick.content.push((PageRun::from_range(start..end), content));
        }
        if !coding::lies_within(&tick.content, &tick.runs) {
            return Err(damaged("contents of pages that were not written"));
        }
        Ok(())
    }
}
