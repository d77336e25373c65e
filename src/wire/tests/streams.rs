// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams of frames: any cut gives the same frames, any damage is seen.

use std::io::{self, Read};

use proptest::prelude::*;

use crate::encode::decoder_capabilities;
use crate::fuzzing::{sample_frames, sample_stream, sample_table};
use crate::limits;
use crate::units::ChannelId;
use crate::wire::*;

type Frame = (FrameHeader, Vec<u8>);

/// Frames of a stream that comes in pieces of the given lengths, repeated.
fn deframe(stream: &[u8], pieces: &[usize]) -> Result<(Vec<Frame>, bool), WireError> {
    let mut deframer = Deframer::new();
    let (mut frames, mut rest, mut turn) = (Vec::new(), stream, 0);
    while !rest.is_empty() {
        let (mut piece, tail) = rest.split_at(pieces[turn % pieces.len()].clamp(1, rest.len()));
        while !piece.is_empty() {
            if let Some((header, body)) = deframer.next_frame(&mut piece)? {
                frames.push((header, body.to_vec()));
            }
        }
        (rest, turn) = (tail, turn + 1);
    }
    Ok((frames, deframer.is_between_frames()))
}

/// Frames of a stream as a blocking reader sees them, and how it ended.
fn read_all(mut stream: &[u8]) -> (Vec<Frame>, ReadFrameError) {
    let (mut frames, mut body) = (Vec::new(), Vec::new());
    loop {
        match read_frame(&mut stream, &mut body) {
            Ok(header) => frames.push((header, body.clone())),
            Err(error) => return (frames, error),
        }
    }
}

/// Whether a frame, and what is in it, is taken.
fn is_taken(frame: &[u8]) -> bool {
    let Ok((frames, true)) = deframe(frame, &[usize::MAX]) else { return false };
    let [(header, body)] = &frames[..] else { return false };
    if header.kind == FrameKind::Pages {
        PageFrameView::parse(header, body, &sample_table(), decoder_capabilities()).is_ok()
    } else {
        decode_message(header, body).is_ok()
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(pieces in prop::collection::vec(1usize..300, 1..20)) {
        let stream = sample_stream();
        let (frames, complete) = deframe(&stream, &pieces).unwrap();
        prop_assert!(complete);
        let (read, end) = read_all(&stream);
        prop_assert!(matches!(end, ReadFrameError::Closed));
        prop_assert_eq!(&frames, &read);
        let mut order = FrameOrder::default();
        for (header, _) in &frames {
            prop_assert_eq!(order.check(header), Ok(()));
        }
        prop_assert!(frames.len() > 15);
    }
}

#[test]
fn truncation_at_every_byte_is_seen() {
    for frame in sample_frames() {
        assert!(is_taken(&frame));
        for length in 1..frame.len() {
            let (frames, between) = deframe(&frame[..length], &[1000]).unwrap();
            assert!(frames.is_empty() && !between, "cut to {length}");
            let (frames, end) = read_all(&frame[..length]);
            assert!(frames.is_empty());
            let ReadFrameError::Truncated { part, got, want } = end else { panic!("{end:?}") };
            assert!(got < want);
            assert_eq!(part, if length < HEADER_BYTES { "header" } else { "body" });
        }
    }
}

#[test]
fn a_flipped_bit_in_every_byte_is_seen() {
    for frame in sample_frames() {
        for at in 0..frame.len() {
            let mut bad = frame.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(!is_taken(&bad), "byte {at} of {}", frame.len());
            let (frames, end) = read_all(&bad);
            assert!(frames.is_empty() && matches!(end, ReadFrameError::Wire(_)), "byte {at}");
        }
    }
}

/// A peer that announces as much as it can and sends nothing of it.
#[test]
fn hostile_lengths_do_not_allocate() {
    for kind in FrameKind::ALL {
        let header = |length| FrameHeader::new(kind, ChannelId::CONTROL, 0, 0, length, 0);
        let mut deframer = Deframer::new();
        let mut input = &header(kind.body_max()).to_bytes()[..];
        assert!(deframer.next_frame(&mut input).unwrap().is_none());
        assert!(deframer.capacity_bytes() <= 2 * HEADER_BYTES, "{kind:?}");
        for length in [kind.body_max() + 1, u32::MAX] {
            let bytes = header(length).to_bytes();
            let mut body = Vec::new();
            let seen = read_frame(&mut &bytes[..], &mut body);
            assert!(matches!(seen, Err(ReadFrameError::Wire(WireError::TooLong { .. }))));
            assert_eq!(body.capacity(), 0, "{kind:?}");
        }
    }
    let list = |count: u32| {
        let body = count.to_le_bytes();
        let crc = crc32fast::hash(&body);
        let header = FrameHeader::new(FrameKind::Announce, ChannelId::CONTROL, 0, 0, 4, crc);
        decode_message(&header, &body)
    };
    assert!(matches!(list(limits::ANNOUNCE_RUNS_MAX), Err(WireError::Short { .. })));
    assert!(matches!(list(u32::MAX), Err(WireError::TooLong { .. })));
}

#[test]
fn a_failed_stream_stays_failed() {
    let mut deframer = Deframer::new();
    let garbage = *b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let first = deframer.next_frame(&mut &garbage[..]).unwrap_err();
    assert!(matches!(first, WireError::Magic { .. }));
    let frame = &sample_frames()[0];
    assert_eq!(deframer.next_frame(&mut &frame[..]).unwrap_err(), first);
    assert!(!deframer.is_between_frames());
}

/// Gives its bytes in pieces with interruptions, then fails with `end`.
struct Rough<'a> {
    bytes: &'a [u8],
    turn: u32,
    end: io::ErrorKind,
}

impl Read for Rough<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() {
            return Err(self.end.into());
        }
        let count = into.len().min(7);
        (&mut self.bytes).take(count as u64).read(into)
    }
}

#[test]
fn time_limits_between_and_inside_frames_differ() {
    let frame = &sample_frames()[0];
    let end_of = |bytes, end| {
        let (mut rough, mut body) = (Rough { bytes, turn: 0, end }, Vec::new());
        loop {
            if let Err(error) = read_frame(&mut rough, &mut body) {
                return error;
            }
        }
    };
    for limit in [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut] {
        assert!(matches!(end_of(&frame[..], limit), ReadFrameError::Idle));
        for cut in [1, 31, 32, frame.len() - 1] {
            let seen = end_of(&frame[..cut], limit);
            assert!(matches!(seen, ReadFrameError::Stalled { .. }), "{cut} {seen:?}");
        }
    }
    let reset = end_of(&frame[..], io::ErrorKind::ConnectionReset);
    assert!(matches!(reset, ReadFrameError::Io(_)));
}

#[test]
fn fuzz_entry_points_hold_for_their_seeds() {
    use crate::fuzzing::{fuzz_deframe, fuzz_lz4, fuzz_message, fuzz_pages};
    for cut in [0, 1, 7, 255] {
        let stream = [&[cut][..], &sample_stream()].concat();
        fuzz_deframe(&stream);
        fuzz_deframe(&stream[..stream.len() - 3]);
    }
    for frame in sample_frames() {
        let body = &frame[HEADER_BYTES..];
        fuzz_message(&[&[frame[4] - 1, 3, 1], body].concat());
        fuzz_pages(&[&[0], body].concat());
        fuzz_lz4(body);
    }
}
