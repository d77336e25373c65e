// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a fault does to the bytes of one direction: no I/O, no waiting.

use std::time::Duration;

use super::fault::{FaultAction, FaultPoint};
use crate::wire::{FrameHeader, FrameKind, HEADER_BYTES, MAGIC};

/// How a stream ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Cut,
    Reset,
    Hang,
}

#[derive(Debug)]
enum State {
    /// The fault has not come yet, or is over, or there is none.
    Pass,
    Flip {
        offset: u64,
        bit: u8,
    },
    Truncate {
        left: u64,
    },
    Duplicate {
        copy: Vec<u8>,
    },
    Drop,
    Stall,
    Slow {
        bytes_per_s: u64,
    },
    Ended(End),
}

/// The bytes of one direction of one connection pass through here. Headers are held back until
/// they are whole, as a fault may be for frames of one kind.
#[derive(Debug)]
pub(super) struct Tap {
    fault: Option<(FaultPoint, FaultAction)>,
    has_fault: bool,
    state: State,
    /// Bytes of the stream before the next one.
    position: u64,
    /// The present frame's header as far as it came.
    header: Vec<u8>,
    body_left: u64,
    frames: u64,
    /// Frames of the kind that the fault is for.
    frames_of_kind: u64,
    /// What passes is no stream of frames (any more).
    is_lost: bool,
}

impl Tap {
    pub(super) fn new(fault: Option<(FaultPoint, FaultAction)>) -> Self {
        Self {
            has_fault: fault.is_some(),
            fault,
            state: State::Pass,
            position: 0,
            header: Vec::with_capacity(HEADER_BYTES),
            body_left: 0,
            frames: 0,
            frames_of_kind: 0,
            is_lost: false,
        }
    }

    /// Whether the fault came.
    pub(super) fn has_fired(&self) -> bool {
        self.has_fault && self.fault.is_none()
    }

    /// Whether bytes vanish from here on.
    pub(super) fn is_stalled(&self) -> bool {
        matches!(self.state, State::Stall)
    }

    /// How long so many bytes take.
    pub(super) fn pause(&self, bytes: usize) -> Duration {
        match self.state {
            State::Slow { bytes_per_s } => {
                let nanos = (bytes as u64).saturating_mul(1_000_000_000) / bytes_per_s.max(1);
                Duration::from_nanos(nanos)
            }
            _ => Duration::ZERO,
        }
    }

    /// Appends to `out` what becomes of `input`; how the stream ends, if it does.
    pub(super) fn pass(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Option<End> {
        while !input.is_empty() {
            let end = if self.is_lost {
                self.emit(std::mem::take(&mut input), out)
            } else if self.body_left > 0 {
                self.pass_body(&mut input, out)
            } else {
                self.pass_header(&mut input, out)
            };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// The stream ends: lets go of what was held back.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.header);
        self.emit(&held, out);
    }

    fn pass_header(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Option<End> {
        let (head, tail) = input.split_at(input.len().min(HEADER_BYTES - self.header.len()));
        self.header.extend_from_slice(head);
        *input = tail;
        let magic = self.header.len().min(MAGIC.len());
        if self.header[..magic] != MAGIC[..magic] {
            self.is_lost = true;
            let held = std::mem::take(&mut self.header);
            return self.emit(&held, out);
        }
        let bytes = *self.header.first_chunk::<HEADER_BYTES>()?;
        self.header.clear();
        match FrameHeader::parse(&bytes) {
            Ok(header) => {
                self.body_left = header.body_len.into();
                self.begin_frame(header.kind, out);
            }
            Err(_) => self.is_lost = true,
        }
        let end = self.emit(&bytes, out);
        if self.body_left == 0 {
            self.end_frame(out);
        }
        end
    }

    fn pass_body(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Option<End> {
        let most = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        let (head, tail) = input.split_at(input.len().min(most));
        *input = tail;
        self.body_left -= head.len() as u64;
        let end = self.emit(head, out);
        if self.body_left == 0 {
            self.end_frame(out);
        }
        end
    }

    /// A frame of this kind comes next.
    fn begin_frame(&mut self, kind: FrameKind, out: &mut Vec<u8>) {
        let is_here = match self.fault {
            Some((FaultPoint::Frame(nth), _)) => self.frames == nth,
            Some((FaultPoint::FrameOf(of, nth), _)) if of == kind => {
                self.frames_of_kind += 1;
                self.frames_of_kind - 1 == nth
            }
            _ => false,
        };
        self.frames += 1;
        if is_here {
            self.fire(out);
        }
    }

    /// The frame is over: what was for one frame is over too.
    fn end_frame(&mut self, out: &mut Vec<u8>) {
        if let State::Duplicate { copy } = &self.state {
            out.extend_from_slice(copy);
        }
        if matches!(self.state, State::Duplicate { .. } | State::Drop) {
            self.state = State::Pass;
        }
    }

    fn fire(&mut self, out: &mut Vec<u8>) {
        let Some((_, action)) = self.fault.take() else { return };
        self.state = match action {
            FaultAction::Cut => State::Ended(End::Cut),
            FaultAction::Reset => State::Ended(End::Reset),
            FaultAction::Hang => State::Ended(End::Hang),
            FaultAction::Stall => State::Stall,
            FaultAction::FlipBit { offset, bit } => State::Flip { offset, bit },
            FaultAction::Truncate { bytes: left } => State::Truncate { left },
            FaultAction::Duplicate => State::Duplicate { copy: Vec::new() },
            FaultAction::Drop => State::Drop,
            FaultAction::SlowTo { bytes_per_s } => State::Slow { bytes_per_s },
            FaultAction::Insert(bytes) => {
                out.extend_from_slice(&bytes);
                State::Pass
            }
        };
    }

    /// The next bytes of the stream, through whatever is going on.
    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<End> {
        if let Some((FaultPoint::Byte(at), _)) = self.fault {
            let before = at.saturating_sub(self.position);
            if before < bytes.len() as u64 {
                let (head, tail) = bytes.split_at(usize::try_from(before).unwrap_or(0));
                out.extend_from_slice(head);
                self.position += before;
                self.fire(out);
                return self.emit(tail, out);
            }
        }
        self.position += bytes.len() as u64;
        let length = bytes.len() as u64;
        match &mut self.state {
            State::Pass | State::Slow { .. } => out.extend_from_slice(bytes),
            State::Stall | State::Drop => {}
            State::Ended(end) => return Some(*end),
            State::Duplicate { copy } => {
                copy.extend_from_slice(bytes);
                out.extend_from_slice(bytes);
            }
            State::Flip { offset, bit } => {
                let from = out.len();
                out.extend_from_slice(bytes);
                if *offset < length {
                    out[from + usize::try_from(*offset).unwrap_or(0)] ^= 1 << (*bit % 8);
                    self.state = State::Pass;
                } else {
                    *offset -= length;
                }
            }
            State::Truncate { left } => {
                let passes = length.min(*left);
                out.extend_from_slice(&bytes[..usize::try_from(passes).unwrap_or(0)]);
                *left -= passes;
                if *left == 0 {
                    self.state = State::Ended(End::Cut);
                    return Some(End::Cut);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::sample_stream;
    use crate::wire::Deframer;
    use proptest::prelude::*;

    type Cut = (Vec<(FrameKind, Vec<u8>)>, Vec<u8>);

    /// The whole frames of a stream, and its last, incomplete one.
    fn frames(stream: &[u8]) -> Cut {
        let (mut rest, mut frames) = (stream, Vec::new());
        while let Some(bytes) = rest.first_chunk::<HEADER_BYTES>() {
            let header = FrameHeader::parse(bytes).unwrap();
            let length = HEADER_BYTES + header.body_bytes();
            if rest.len() < length {
                break;
            }
            let (frame, tail) = rest.split_at(length);
            frames.push((header.kind, frame.to_vec()));
            rest = tail;
        }
        (frames, rest.to_vec())
    }

    fn run(fault: Option<&(FaultPoint, FaultAction)>, piece: usize) -> (Vec<u8>, Option<End>) {
        let (mut tap, mut out) = (Tap::new(fault.cloned()), Vec::new());
        let stream = sample_stream();
        let end = stream.chunks(piece).find_map(|piece| tap.pass(piece, &mut out));
        if end.is_none() {
            tap.finish(&mut out);
        }
        assert_eq!(tap.has_fired(), fault.is_some());
        (out, end)
    }

    proptest! {
        /// Faults do the same however the stream is cut into writes.
        #[test]
        fn pieces_make_no_difference(piece in 1usize..400, at in 0u64..15, which in 0usize..8) {
            let action = [
                FaultAction::Cut,
                FaultAction::Stall,
                FaultAction::FlipBit { offset: 33, bit: 2 },
                FaultAction::Truncate { bytes: 17 },
                FaultAction::Duplicate,
                FaultAction::Drop,
                FaultAction::Insert(b"noise".to_vec()),
                FaultAction::SlowTo { bytes_per_s: 1 },
            ][which].clone();
            for point in [FaultPoint::Frame(at), FaultPoint::Byte(37 * at)] {
                if matches!((point, which), (FaultPoint::Byte(_), 4 | 5)) {
                    continue;
                }
                let fault = Some((point, action.clone()));
                prop_assert_eq!(run(fault.as_ref(), piece), run(fault.as_ref(), usize::MAX));
            }
        }
    }

    #[test]
    fn without_a_fault_everything_passes() {
        assert_eq!(run(None, 11), (sample_stream(), None));
    }

    #[test]
    fn faults_come_at_the_named_frame() {
        let (good, _) = frames(&sample_stream());
        let second_ready = FaultPoint::FrameOf(FrameKind::Ready, 1);
        let ready: Vec<_> = (0..good.len()).filter(|at| good[*at].0 == FrameKind::Ready).collect();
        let at = ready[1];

        let (out, end) = run(Some(&(second_ready, FaultAction::Drop)), 50);
        let mut expected = good.clone();
        expected.remove(at);
        assert_eq!((frames(&out), end), ((expected, vec![]), None));

        let (out, end) = run(Some(&(second_ready, FaultAction::Duplicate)), 50);
        let mut expected = good.clone();
        expected.insert(at, good[at].clone());
        assert_eq!((frames(&out), end), ((expected, vec![]), None));

        for (action, end) in [
            (FaultAction::Cut, Some(End::Cut)),
            (FaultAction::Reset, Some(End::Reset)),
            (FaultAction::Hang, Some(End::Hang)),
            (FaultAction::Stall, None),
        ] {
            let (out, seen) = run(Some(&(second_ready, action)), 50);
            assert_eq!((frames(&out), seen), ((good[..at].to_vec(), vec![]), end));
        }

        let (out, end) = run(Some(&(second_ready, FaultAction::Truncate { bytes: 40 })), 50);
        assert_eq!(frames(&out), (good[..at].to_vec(), good[at].1[..40].to_vec()));
        assert_eq!(end, Some(End::Cut));

        let flip = FaultAction::FlipBit { offset: 35, bit: 7 };
        let (out, _) = run(Some(&(second_ready, flip)), 50);
        let (seen, _) = frames(&out);
        let (mut frame, expected) = (seen[at].1.clone(), &good[at].1);
        frame[35] ^= 0x80;
        assert_eq!(&frame, expected);
        assert_eq!(seen[at + 1..], good[at + 1..]);
    }

    #[test]
    fn garbage_is_inserted_where_asked() {
        let fault = (FaultPoint::Byte(40), FaultAction::Insert(b"noise".to_vec()));
        let (out, _) = run(Some(&fault), 7);
        let stream = sample_stream();
        assert_eq!(out, [&stream[..40], b"noise", &stream[40..]].concat());
        let mut deframer = Deframer::new();
        let mut input = &out[..];
        assert!(std::iter::from_fn(|| deframer.next_frame(&mut input).err()).next().is_some());
    }

    #[test]
    fn streams_that_are_no_frames_pass() {
        let mut tap = Tap::new(Some((FaultPoint::Frame(3), FaultAction::Cut)));
        let mut out = Vec::new();
        assert_eq!(tap.pass(&[b'x'; 500], &mut out), None);
        assert_eq!(out, [b'x'; 500]);
        assert!(!tap.has_fired());
    }
}
