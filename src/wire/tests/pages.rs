// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page frames against a plain model of pages.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};

use proptest::prelude::*;

use crate::encode::{EncoderKind, PageKind, decoder, decoder_capabilities};
use crate::limits;
use crate::region::RegionTable;
use crate::units::{ChannelId, PageIndex, PageRun, PageSize};
use crate::wire::*;

const PAGE: usize = 4096;

fn table() -> RegionTable {
    RegionTable::single(PageSize::BASE, 2000).unwrap()
}

fn bytes_of(frame: &PageFrame<'_>) -> Vec<u8> {
    [&frame.header[..], frame.table, frame.bodies].concat()
}

fn parts(frame: &[u8]) -> (FrameHeader, &[u8]) {
    let (header, body) = frame.split_first_chunk().unwrap();
    let header = FrameHeader::parse(header).unwrap();
    header.check_crc(crc32fast::hash(body)).unwrap();
    assert_eq!(header.body_bytes(), body.len());
    (header, body)
}

/// What a page holds: 0 is all zeros, 1 to 3 compress, the rest is noise.
fn page(seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) << 8 | 1;
    (0..PAGE)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if seed < 4 { seed } else { (state >> 24) as u8 }
        })
        .collect()
}

/// Applies a frame to a model of the destination's memory.
fn apply(frame: &[u8], memory: &mut BTreeMap<u64, Vec<u8>>) -> u64 {
    let (header, body) = parts(frame);
    let has = decoder_capabilities();
    let view = PageFrameView::parse(&header, body, &table(), has).unwrap();
    for entry in view.entries() {
        for (index, page) in entry.run.iter().enumerate() {
            let bytes = match entry.kind {
                PageKind::Zero => vec![0; PAGE],
                PageKind::Raw => entry.body[index * PAGE..][..PAGE].to_vec(),
                kind => {
                    let mut bytes = memory.remove(&page.get()).unwrap_or_else(|| vec![0xee; PAGE]);
                    decoder(has).decode(kind, entry.body, &mut bytes).unwrap();
                    bytes
                }
            };
            memory.insert(page.get(), bytes);
        }
    }
    view.pages()
}

proptest! {
    /// Any runs with any contents, as many frames as it takes, each encoder.
    #[test]
    fn what_is_built_arrives(
        runs in prop::collection::vec((0u64..1700, 1u64..300, prop::bool::weighted(0.3)), 1..8),
        seeds in prop::collection::vec(0u8..8, 2000),
        kind in 0..EncoderKind::ALL.len(),
    ) {
        let kind = EncoderKind::ALL[kind];
        let kind = if kind.is_built() { kind } else { EncoderKind::Raw };
        let set = kind.set(2000, PageSize::BASE, 1 << 20).unwrap();
        let mut encoder = set.encoder();
        let mut builder = PageFrameBuilder::new(PageSize::BASE).unwrap();
        let (mut sent, mut received) = (BTreeMap::new(), BTreeMap::new());
        let (mut sequence, mut pages_sent, mut pages_built) = (0, 0, 0);
        for (start, pages, is_zero) in runs {
            let mut rest = PageRun::from_range(start..start + pages);
            while !rest.is_empty() {
                let now = builder.room(rest);
                if now.is_empty() {
                    let frame = builder.finish(ChannelId::new(1), sequence, 4).unwrap();
                    sequence += 1;
                    pages_built += frame.pages;
                    apply(&bytes_of(&frame), &mut received);
                    continue;
                }
                if is_zero {
                    builder.push_zero(now).unwrap();
                    encoder.iter_mut().for_each(|encoder| encoder.zeros(now));
                    sent.extend(now.iter().map(|at| (at.get(), vec![0; PAGE])));
                } else {
                    let place = builder.reserve_raw(now).unwrap();
                    for (at, into) in now.iter().zip(place.chunks_mut(PAGE)) {
                        into.copy_from_slice(&page(seeds[at.as_usize()]));
                        // Each time that a page comes it is another one.
                        into[5] ^= sent.len() as u8 & 0x7f;
                        sent.insert(at.get(), into.to_vec());
                    }
                    builder.classify(encoder.as_deref_mut());
                }
                pages_sent += now.pages();
                rest = rest.split_at(now.pages()).1;
            }
        }
        if let Some(frame) = builder.finish(ChannelId::new(1), sequence, 4) {
            pages_built += frame.pages;
            apply(&bytes_of(&frame), &mut received);
        }
        prop_assert_eq!(pages_built, pages_sent);
        prop_assert!(sent == received);
        prop_assert!(builder.finish(ChannelId::new(1), 0, 4).is_none(), "nothing is left");
    }
}

fn build(fill: impl FnOnce(&mut PageFrameBuilder)) -> Vec<u8> {
    let mut builder = PageFrameBuilder::new(PageSize::BASE).unwrap();
    fill(&mut builder);
    bytes_of(&builder.finish(ChannelId::new(1), 9, 2).unwrap())
}

fn raw(builder: &mut PageFrameBuilder, run: PageRun, byte: u8) {
    builder.reserve_raw(run).unwrap().fill(byte);
    builder.classify(None);
}

fn kinds(frame: &[u8]) -> Vec<(u64, u64, PageKind, usize)> {
    let (header, body) = parts(frame);
    let view = PageFrameView::parse(&header, body, &table(), Capabilities::LZ4).unwrap();
    let entries = view.entries();
    entries.map(|e| (e.run.start().get(), e.run.pages(), e.kind, e.body.len())).collect()
}

#[test]
fn neighbours_of_one_kind_are_one_entry() {
    let frame = build(|builder| {
        raw(builder, PageRun::from_range(0..3), 9);
        raw(builder, PageRun::from_range(3..5), 8);
        builder.push_zero(PageRun::from_range(5..9)).unwrap();
        raw(builder, PageRun::from_range(9..11), 0);
        raw(builder, PageRun::from_range(12..13), 1);
    });
    let seen = kinds(&frame);
    let expected =
        [(0, 5, PageKind::Raw, 5 * PAGE), (5, 6, PageKind::Zero, 0), (12, 1, PageKind::Raw, PAGE)];
    assert_eq!(seen, expected);
    assert_eq!(frame.len(), HEADER_BYTES + 8 + 3 * 24 + 6 * PAGE);
}

#[test]
fn zero_pages_among_raw_ones_cost_no_bytes() {
    let frame = build(|builder| {
        let place = builder.reserve_raw(PageRun::from_range(0..5)).unwrap();
        for (index, page) in place.chunks_mut(PAGE).enumerate() {
            page.fill(if index % 2 == 0 { 7 } else { 0 });
        }
        place[2 * PAGE - 1] = 1; // One byte at the very end makes page 1 raw.
        builder.classify(None);
    });
    let kinds: Vec<_> =
        kinds(&frame).into_iter().map(|(_, pages, kind, _)| (pages, kind)).collect();
    assert_eq!(kinds, [(3, PageKind::Raw), (1, PageKind::Zero), (1, PageKind::Raw)]);
}

#[test]
fn a_frame_takes_ascending_pages_up_to_its_limit() {
    let mut builder = PageFrameBuilder::new(PageSize::BASE).unwrap();
    let all = u64::from(limits::FRAME_PAGES_MAX);
    let long = PageRun::from_range(100..2000);
    assert_eq!(builder.room(long).pages(), all);
    builder.push_zero(PageRun::from_range(100..100 + all - 1)).unwrap();
    assert_eq!(builder.room(PageRun::from_range(500..900)).pages(), 1);
    assert!(builder.room(PageRun::from_range(99..100)).is_empty(), "before what is in it");
    assert!(builder.push_zero(PageRun::from_range(99..100)).is_err());
    assert!(builder.reserve_raw(PageRun::from_range(500..502)).is_err(), "more than fits");
    assert!(builder.push_zero(PageRun::from_range(500..500)).is_err(), "nothing");
    raw(&mut builder, PageRun::from_range(500..501), 1);
    assert!(builder.room(PageRun::from_range(900..901)).is_empty());
    assert_eq!(builder.finish(ChannelId::new(1), 0, 0).unwrap().pages, all);
    assert_eq!(builder.room(PageRun::from_range(0..1)).pages(), 1, "a new frame");
    let large = PageFrameBuilder::new(PageSize::new(2 << 20).unwrap()).unwrap();
    assert_eq!(large.pages_max(), 1);
    assert!(PageFrameBuilder::new(PageSize::new(4 << 20).unwrap()).is_err());
}

#[test]
fn a_reservation_that_is_not_classified_is_dropped() {
    let frame = build(|builder| {
        builder.reserve_raw(PageRun::from_range(0..3)).unwrap().fill(1);
        raw(builder, PageRun::from_range(1..2), 2);
        builder.reserve_raw(PageRun::from_range(7..8)).unwrap().fill(3);
    });
    assert_eq!(kinds(&frame), [(1, 1, PageKind::Raw, PAGE)]);
}

/// A good frame with `change` made to its body, and a CRC that holds.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> Result<u64, WireError> {
    let frame = build(|builder| {
        raw(builder, PageRun::from_range(10..12), 5);
        builder.push_zero(PageRun::from_range(20..25)).unwrap();
        raw(builder, PageRun::from_range(1999..2000), 5);
    });
    let mut body = frame[HEADER_BYTES..].to_vec();
    change(&mut body);
    let (length, crc) = (u32::try_from(body.len()).unwrap(), crc32fast::hash(&body));
    let header = FrameHeader::new(FrameKind::Pages, ChannelId::new(1), 0, 0, length, crc);
    let view = PageFrameView::parse(&header, &body, &table(), Capabilities::NONE)?;
    assert_eq!(view.entries().map(|entry| entry.run.pages()).sum::<u64>(), view.pages());
    Ok(view.pages())
}

#[test]
fn forged_tables_are_errors() {
    const FIRST: usize = 8;
    const SECOND: usize = FIRST + 24;
    const THIRD: usize = SECOND + 24;
    let put = |at: usize, bytes: &'static [u8]| {
        forged(move |body| body[at..at + bytes.len()].copy_from_slice(bytes))
    };
    assert_eq!(forged(|_| ()), Ok(8));
    assert!(matches!(put(0, &[0]), Err(WireError::Value { .. })), "no entries");
    assert!(matches!(put(0, &[2]), Err(WireError::Trailing { .. } | WireError::Value { .. })));
    assert!(put(0, &[4]).is_err(), "page bytes are no entry");
    assert!(matches!(put(0, &[0xff; 4]), Err(WireError::TooLong { .. })));
    assert!(matches!(put(4, &[9]), Err(WireError::Value { .. })), "page count");
    assert!(matches!(put(4, &[0xff; 4]), Err(WireError::TooLong { .. })));
    assert!(matches!(put(FIRST, &[0xff; 8]), Err(WireError::Region(_))), "start");
    assert!(matches!(put(FIRST + 8, &[0]), Err(WireError::Region(_))), "no pages");
    assert!(matches!(put(FIRST + 8, &[3]), Err(WireError::EntryLength { .. })));
    assert!(matches!(put(FIRST + 12, &[1]), Err(WireError::EntryLength { .. })));
    assert!(matches!(put(FIRST + 16, &[9]), Err(WireError::PageKind { kind: 9 })));
    assert!(matches!(put(FIRST + 16, &[1]), Err(WireError::EntryLength { .. })), "zero with body");
    assert!(matches!(put(FIRST + 16, &[2]), Err(WireError::NotNegotiated { .. })));
    assert!(matches!(put(FIRST + 16, &[3]), Err(WireError::NotNegotiated { .. })));
    assert!(matches!(put(FIRST + 23, &[1]), Err(WireError::Reserved { .. })));
    assert!(matches!(put(SECOND, &[11]), Err(WireError::Order { entry: 1, .. })), "overlap");
    assert!(matches!(put(SECOND, &[2]), Err(WireError::Order { entry: 1, .. })), "descending");
    assert!(matches!(put(SECOND + 12, &[1]), Err(WireError::EntryLength { .. })));
    assert!(matches!(put(THIRD, &[0xd0, 7]), Err(WireError::Region(_))), "past the end");
    assert!(forged(|body| body.push(0)).is_err());
    assert!(forged(|body| body.truncate(body.len() - 1)).is_err());
    for length in 0..THIRD + 24 {
        assert!(forged(|body| body.truncate(length)).is_err(), "{length}");
    }
}

#[test]
fn page_frames_and_messages_are_not_confused() {
    let frame = build(|builder| builder.push_zero(PageRun::from_range(0..1)).unwrap());
    let (header, body) = parts(&frame);
    assert!(matches!(decode_message(&header, body), Err(WireError::Unexpected { .. })));
    let header = FrameHeader { kind: FrameKind::Ping, ..header };
    let seen = PageFrameView::parse(&header, body, &table(), Capabilities::NONE);
    assert!(matches!(seen, Err(WireError::Unexpected { .. })));
}

/// Takes a few bytes at a time.
struct Slow(Vec<u8>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let count = bytes.len().min(29);
        self.0.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn partial_writes_lose_nothing() {
    let mut builder = PageFrameBuilder::new(PageSize::BASE).unwrap();
    for zeros_only in [true, false] {
        builder.push_zero(PageRun::from_range(0..2)).unwrap();
        if !zeros_only {
            raw(&mut builder, PageRun::from_range(5..6), 3);
        }
        let frame = builder.finish(ChannelId::new(1), 0, 0).unwrap();
        let mut slow = Slow(Vec::new());
        frame.write_to(&mut slow).unwrap();
        assert_eq!(slow.0, bytes_of(&frame));
        assert_eq!(frame.wire_bytes(), slow.0.len() as u64);
        assert_eq!(
            frame.write_to(&mut &mut [0u8; 9][..]).unwrap_err().kind(),
            io::ErrorKind::WriteZero
        );
    }
    let one = PageIndex::new(1);
    assert_eq!(builder.room(PageRun::new(one, 1)).start(), one);
}
