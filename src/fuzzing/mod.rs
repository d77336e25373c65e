// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Entry points for fuzzers, which tests also run over the stored corpora. Each takes any bytes
//! and panics if something that must always hold does not.

mod samples;
mod sessions;
mod trace;

pub use samples::{
    channel_of, sample_frames, sample_messages, sample_page_frame, sample_stream, sample_table,
};
pub use sessions::{fuzz_destination_session, fuzz_source_session};
pub use trace::{fuzz_trace, fuzz_trace_text, sample_trace};

use crate::encode::{EncoderKind, PageKind, conformance};
use crate::limits;
use crate::units::ChannelId;
use crate::wire::{
    Capabilities, Deframer, FrameHeader, FrameKind, HEADER_BYTES, MAGIC, PageFrameBuilder,
    PageFrameView, WireError, decode_message, encode_message, read_frame,
};

/// A stream of frames. The first byte says how the rest is cut into pieces, and, if it is odd,
/// that magic and CRCs are put right first, which no fuzzer finds by itself. Whatever the cut, the
/// same frames come out, a blocking reader sees the same, and memory stays bounded by what came in.
///
/// # Panics
/// If one of these does not hold.
pub fn fuzz_deframe(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    let mut stream = stream.to_vec();
    if !cut.is_multiple_of(2) {
        repair(&mut stream);
    }
    let stream = &stream[..];
    let whole = deframe(stream, stream.len().max(1));
    let pieces = deframe(stream, usize::from(*cut).max(1));
    assert!(whole == pieces, "frames depend on how the stream was cut");
    let (frames, error) = whole;
    error.iter().for_each(|error| check_error(error));
    let mut reader = stream;
    let mut body = Vec::new();
    for (header, expected) in &frames {
        let read = read_frame(&mut reader, &mut body).expect("the deframer took this frame");
        assert!(read == *header && body == *expected, "both readers see the same frame");
        check_frame(header, expected);
    }
    assert!(read_frame(&mut reader, &mut body).is_err(), "no frame beyond the deframer's");
    assert!(body.capacity() <= 2 * limits::FRAME_BODY_MAX as usize, "bounded");
}

/// Puts magic and CRCs of every whole frame right.
fn repair(mut stream: &mut [u8]) {
    while let Some((header, rest)) = stream.split_first_chunk_mut::<HEADER_BYTES>() {
        let length = u32::from_le_bytes([header[16], header[17], header[18], header[19]]);
        let Some((body, rest)) = rest.split_at_mut_checked(length as usize) else { return };
        header[..4].copy_from_slice(&MAGIC);
        header[20..24].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        stream = rest;
    }
}

type Frames = (Vec<(FrameHeader, Vec<u8>)>, Option<WireError>);

fn deframe(stream: &[u8], piece: usize) -> Frames {
    let mut deframer = Deframer::new();
    let mut frames = Vec::new();
    for mut input in stream.chunks(piece) {
        while !input.is_empty() {
            let came = stream.len();
            match deframer.next_frame(&mut input) {
                Ok(Some((header, body))) => frames.push((header, body.to_vec())),
                Ok(None) => assert!(input.is_empty(), "asks for more while there is some"),
                Err(error) => return (frames, Some(error)),
            }
            assert!(
                deframer.capacity_bytes() <= 2 * came.max(HEADER_BYTES),
                "holds more than what came in"
            );
        }
    }
    (frames, None)
}

/// What holds for every frame that was taken: a message that decodes is written in the one
/// possible way, and a page frame obeys its rules.
fn check_frame(header: &FrameHeader, body: &[u8]) {
    if header.kind == FrameKind::Pages {
        check_pages(header, body);
        return;
    }
    match decode_message(header, body) {
        Ok(message) => {
            let again = encode_message(&message, header.channel, header.sequence)
                .expect("what was decoded keeps the limits");
            assert!(again[..HEADER_BYTES] == header.to_bytes(), "the same header again");
            assert!(&again[HEADER_BYTES..] == body, "the same body again");
        }
        Err(error) => check_error(&error),
    }
}

/// It is told, in not too many words whatever a peer or a file says.
fn check_error(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 10_000, "{} bytes of error", text.len());
}

/// One message. The first byte picks the kind, the next two channel and round; the rest is a body
/// with a CRC that holds.
///
/// # Panics
/// If the body decodes to a message that is not written to the same body again.
pub fn fuzz_message(data: &[u8]) {
    let Some((&[kind, channel, round], body)) = data.split_first_chunk() else { return };
    let all = FrameKind::ALL;
    let kind = all[usize::from(kind) % all.len()];
    if let Some(header) = header_for(kind, channel, round, body) {
        check_frame(&header, body);
    }
}

/// One page frame of [`sample_table`]: a byte that says nothing, then the body.
///
/// # Panics
/// If a frame that was taken breaks a rule of page frames.
pub fn fuzz_pages(data: &[u8]) {
    let Some((_, body)) = data.split_first() else { return };
    if let Some(header) = header_for(FrameKind::Pages, 0, 1, body) {
        check_pages(&header, body);
    }
}

/// A header as a hostile peer makes it: everything about it is right.
fn header_for(kind: FrameKind, channel: u8, round: u8, body: &[u8]) -> Option<FrameHeader> {
    let channel = ChannelId::new(channel % limits::CHANNELS_MAX);
    let round = if kind.has_round() { round.into() } else { 0 };
    let body_len = u32::try_from(body.len()).ok()?;
    let crc = crc32fast::hash(body);
    let header = FrameHeader::new(kind, channel, 0, round, body_len, crc);
    FrameHeader::parse(&header.to_bytes()).ok()
}

fn check_pages(header: &FrameHeader, body: &[u8]) {
    let table = sample_table();
    let capabilities = [Capabilities::NONE, Capabilities::LZ4.with(Capabilities::DELTA)];
    let [without, with] = capabilities.map(|has| PageFrameView::parse(header, body, &table, has));
    let view = match with {
        Ok(view) => view,
        Err(error) => {
            check_error(&error);
            assert!(without.is_err(), "fewer capabilities cannot allow more");
            return;
        }
    };
    let mut builder = PageFrameBuilder::new(table.page_size()).expect("4 KiB fits a frame");
    let (mut pages, mut bytes, mut floor) = (0, 0, 0);
    let mut encoded = false;
    for entry in view.entries() {
        let run = table.check_run(entry.run.start().get(), entry.run.pages());
        assert_eq!(run, Ok(entry.run), "inside the guest");
        assert!(entry.run.start().get() >= floor, "entries ascend");
        floor = entry.run.end().get();
        pages += entry.run.pages();
        bytes += entry.body.len();
        match entry.kind {
            PageKind::Zero => {
                assert!(entry.body.is_empty());
                builder.push_zero(entry.run).expect("a frame that was taken can be built");
            }
            PageKind::Raw => {
                let place = builder.reserve_raw(entry.run).expect("a frame can be built again");
                place.copy_from_slice(entry.body);
                builder.classify(None);
            }
            kind @ (PageKind::Lz4 | PageKind::Delta) => {
                encoded = true;
                assert!(entry.run.pages() == 1 && entry.body.len() < table.page_size().bytes());
                decode(kind, entry.body, table.page_size().bytes());
            }
        }
    }
    assert_eq!(without.is_ok(), !encoded, "encoded pages only where they were negotiated");
    assert_eq!(pages, view.pages(), "all entries come out");
    assert!(bytes <= body.len());
    if !encoded {
        let built = builder.finish(header.channel, header.sequence, header.round);
        assert_eq!(built.map(|frame| frame.pages), Some(pages), "built again with as many pages");
    }
}

/// One LZ4 block that should decode to one page.
///
/// # Panics
/// If decoding writes outside the page, or if a page does not survive encoding.
pub fn fuzz_lz4(data: &[u8]) {
    decode(PageKind::Lz4, data, 4096);
    #[cfg(feature = "lz4")]
    {
        use crate::encode::{Lz4Decoder, Lz4Encoder};
        let mut page = [0; 4096];
        let length = data.len().min(page.len());
        page[..length].copy_from_slice(&data[..length]);
        let first = crate::units::PageIndex::new(0);
        conformance::check_page(&mut Lz4Encoder::new(), &mut Lz4Decoder, first, &page);
    }
}

/// The history of one page: its first version is the bytes before the first 0xff, again and
/// again; from then on three bytes each say where and for how many bytes the next version differs,
/// and a zero byte in the third's place makes all of it zero. The same bytes are a delta, too.
///
/// # Panics
/// If decoding writes outside the page, or if a version does not survive.
pub fn fuzz_delta(data: &[u8]) {
    decode(PageKind::Delta, data, 4096);
    let split = data.iter().position(|byte| *byte == 0xff).unwrap_or(data.len());
    let (first, edits) = data.split_at(split);
    if first.is_empty() {
        return;
    }
    let mut page: Vec<u8> = first.iter().copied().cycle().take(4096).collect();
    let mut versions = vec![page.clone(), page.clone()];
    for edit in edits.chunks_exact(3).take(50) {
        match edit[2] {
            0 => page.fill(0),
            byte => {
                let start = usize::from(edit[0]) << 4 | usize::from(edit[1]) & 15;
                let end = (start + 1 + usize::from(edit[1]) * 4).min(page.len());
                page[start..end].iter_mut().for_each(|at| *at = at.wrapping_add(byte));
            }
        }
        versions.push(page.clone());
    }
    let one = crate::units::PageIndex::new(7);
    let sends: Vec<_> = versions.into_iter().map(|version| (one, version)).collect();
    let size = crate::units::PageSize::BASE;
    // With a copy alone, and with fingerprints.
    for bytes in [4096, 64 << 10] {
        let set = EncoderKind::Delta.set(64, size, bytes).expect("every build has it");
        let mut encoder = set.encoder().expect("not raw");
        let mut decoder = crate::encode::decoder(Capabilities::DELTA);
        conformance::check_history(&mut *encoder, &mut *decoder, &sends);
    }
}

fn decode(kind: PageKind, body: &[u8], page_bytes: usize) {
    let mut page = vec![0xa5; page_bytes + 64];
    let mut decoder = crate::encode::decoder(Capabilities::LZ4.with(Capabilities::DELTA));
    let _ = decoder.decode(kind, body, &mut page[..page_bytes]);
    assert!(page[page_bytes..].iter().all(|byte| *byte == 0xa5), "written past the page");
}
