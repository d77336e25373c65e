// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The switch's end of the numbered frames, without clock or socket: what is kept for the guest,
//! what of it the current port has been given, and what has been seen of the guest's.

use std::collections::VecDeque;

use super::frame::Frame;
use super::port::Attach;

/// Numbers that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A frame of the guest's is missing.
    #[error("Frame {number} of the guest arrived where {expected} was next: one is lost")]
    Gap {
        /// The number that came.
        number: u64,
        /// The number that was next.
        expected: u64,
    },
    /// The guest acknowledged what was never sent.
    #[error("The guest acknowledged frame {received}, but only {sent} were sent")]
    NeverSent {
        /// The number that it claims.
        received: u64,
        /// The last one sent.
        sent: u64,
    },
    /// The guest's memory is behind what it once acknowledged.
    #[error(
        "The guest has frames up to {received}, but once acknowledged {acknowledged}: \
         this is an older copy of its memory"
    )]
    OldMemory {
        /// How far the memory has come.
        received: u64,
        /// What was acknowledged.
        acknowledged: u64,
    },
    /// The guest knows of acknowledgements that were never given.
    #[error("The guest believes that its frame {claimed} is acknowledged, but {seen} were seen")]
    NeverSeen {
        /// What it believes.
        claimed: u64,
        /// The last frame seen.
        seen: u64,
    },
}

/// What a frame counts beside its bytes, so that many empty ones are bounded too.
const FRAME_COST: usize = 64;

/// What a frame counts against the bounds.
pub(super) fn cost(frame: &Frame) -> usize {
    FRAME_COST + frame.bytes.len()
}

/// The switch's end.
#[derive(Debug, Default)]
pub(super) struct GuestLink {
    /// Frames for the guest that it has not acknowledged.
    kept: VecDeque<Frame>,
    kept_bytes: usize,
    /// Number of the last frame that the guest acknowledged.
    acknowledged: u64,
    /// Number of the last frame that the current port was given.
    given: u64,
    /// Bytes that it was given and has not acknowledged.
    given_bytes: usize,
    /// Number of the last frame that any port was given.
    given_ever: u64,
    /// Number of the last frame of the guest's that was taken.
    seen: u64,
    generation: u64,
}

impl GuestLink {
    /// Keeps a frame for the guest.
    pub(super) fn push(&mut self, frame: Frame) {
        self.kept_bytes += cost(&frame);
        self.kept.push_back(frame);
    }

    /// The next frame that the current port has not been given, unless more than `window` bytes
    /// would then be on their way to its guest. One frame always may.
    pub(super) fn give(&mut self, window: usize) -> Option<(u64, Frame)> {
        let frame = self.next_to_give(window)?.clone();
        self.given += 1;
        self.given_bytes += cost(&frame);
        self.given_ever = self.given_ever.max(self.given);
        Some((self.given, frame))
    }

    /// Whether [`give`](Self::give) would.
    pub(super) fn can_give(&self, window: usize) -> bool {
        self.next_to_give(window).is_some()
    }

    fn next_to_give(&self, window: usize) -> Option<&Frame> {
        let frame = self.kept.get(usize::try_from(self.given - self.acknowledged).ok()?)?;
        let first = self.given == self.acknowledged;
        (first || self.given_bytes + cost(frame) <= window).then_some(frame)
    }

    /// What the current port's guest has: all up to `received`; each frame that need not be kept
    /// any
    /// more goes to `done`.
    pub(super) fn acknowledge(
        &mut self,
        received: u64,
        done: impl FnMut(Frame),
    ) -> Result<(), LinkError> {
        if received > self.given {
            return Err(LinkError::NeverSent { received, sent: self.given });
        }
        self.forget(received, done);
        Ok(())
    }

    fn forget(&mut self, received: u64, mut done: impl FnMut(Frame)) {
        while self.acknowledged < received {
            let Some(frame) = self.kept.pop_front() else { break };
            self.acknowledged += 1;
            self.kept_bytes -= cost(&frame);
            self.given_bytes = self.given_bytes.saturating_sub(cost(&frame));
            done(frame);
        }
    }

    /// A frame of the guest's with this number: whether it is new.
    pub(super) fn admit(&mut self, number: u64) -> Result<bool, LinkError> {
        if number > self.seen + 1 {
            return Err(LinkError::Gap { number, expected: self.seen + 1 });
        }
        let new = number == self.seen + 1;
        self.seen = self.seen.max(number);
        Ok(new)
    }

    /// A new port takes over: what its guest has not received is given to it again. Returns the
    /// new generation; after an error the old port stays.
    pub(super) fn attach(
        &mut self,
        attach: Attach,
        done: impl FnMut(Frame),
    ) -> Result<u64, LinkError> {
        let Attach { received, sent_acknowledged } = attach;
        if received < self.acknowledged {
            return Err(LinkError::OldMemory { received, acknowledged: self.acknowledged });
        }
        if received > self.given_ever {
            return Err(LinkError::NeverSent { received, sent: self.given_ever });
        }
        if sent_acknowledged > self.seen {
            return Err(LinkError::NeverSeen { claimed: sent_acknowledged, seen: self.seen });
        }
        self.forget(received, done);
        (self.given, self.given_bytes) = (received, 0);
        self.generation += 1;
        Ok(self.generation)
    }

    /// Number of the last frame of the guest's that was taken.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Frames that are kept.
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// What is kept counts, as [`cost`] has it.
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Number of the current attachment; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What may happen between a switch and a guest that is moved about.
    #[derive(Clone, Debug)]
    enum Step {
        /// A client's bytes for the guest.
        Push(usize),
        /// The switch gives a frame to the current port.
        Give,
        /// The guest takes a frame from its port.
        Take,
        /// Its acknowledgement reaches the switch.
        Acknowledge,
        /// The guest has something to send.
        Send,
        /// The switch takes a frame from the port.
        Hear,
        /// What the switch has seen reaches the guest.
        Tell,
        /// The guest gets a new port; what was on its way is gone.
        Move,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..300_usize).prop_map(Step::Push),
            4 => Just(Step::Give),
            4 => Just(Step::Take),
            2 => Just(Step::Acknowledge),
            3 => Just(Step::Send),
            4 => Just(Step::Hear),
            2 => Just(Step::Tell),
            1 => Just(Step::Move),
        ];
        proptest::collection::vec(step, 0..400)
    }

    const WINDOW: usize = 1000;

    #[derive(Debug, Default)]
    struct Model {
        link: GuestLink,
        pushed: u32,
        to_guest: VecDeque<(u64, Frame)>,
        taken: Vec<u32>,
        sent: u64,
        given: u64,
        guest_acknowledged: u64,
        from_guest: VecDeque<u64>,
        heard: Vec<u64>,
        freed: u64,
    }

    impl Model {
        fn step(&mut self, step: &Step) {
            match step {
                Step::Push(bytes) => {
                    self.pushed += 1;
                    self.link.push(Frame::data(self.pushed, vec![0; *bytes].into()));
                }
                Step::Give => {
                    let could = self.link.can_give(WINDOW);
                    let gave = self.link.give(WINDOW);
                    assert_eq!(gave.is_some(), could);
                    self.to_guest.extend(gave);
                }
                Step::Take => {
                    if let Some((number, frame)) = self.to_guest.pop_front() {
                        assert_eq!(number, self.taken.len() as u64 + 1);
                        self.taken.push(frame.conn);
                    }
                }
                Step::Acknowledge => {
                    let freed = &mut self.freed;
                    let received = self.taken.len() as u64;
                    self.link.acknowledge(received, |_| *freed += 1).unwrap();
                }
                Step::Send => {
                    self.sent += 1;
                    self.offer();
                }
                Step::Hear => {
                    if let Some(number) = self.from_guest.pop_front()
                        && self.link.admit(number).unwrap()
                    {
                        self.heard.push(number);
                    }
                }
                Step::Tell => self.guest_acknowledged = self.link.seen(),
                Step::Move => {
                    let attach = Attach {
                        received: self.taken.len() as u64,
                        sent_acknowledged: self.guest_acknowledged,
                    };
                    let freed = &mut self.freed;
                    self.link.attach(attach, |_| *freed += 1).unwrap();
                    self.to_guest.clear();
                    self.from_guest.clear();
                    self.given = self.guest_acknowledged;
                    self.offer();
                }
            }
            assert_eq!(self.link.kept() as u64 + self.freed, u64::from(self.pushed));
        }

        /// The guest hands all that it keeps to its port.
        fn offer(&mut self) {
            while self.given < self.sent {
                self.given += 1;
                self.from_guest.push_back(self.given);
            }
        }
    }

    proptest! {
        /// Both directions are complete, in order and without repeats, however often the guest
        /// is moved and wherever frames and acknowledgements were at the time.
        #[test]
        fn every_frame_arrives_once_and_in_order(steps in steps()) {
            let mut model = Model::default();
            for step in &steps {
                model.step(step);
            }
            // Nothing more happens but that everything arrives.
            for _ in 0..steps.len() + 1 {
                for step in [Step::Give, Step::Take, Step::Acknowledge, Step::Hear] {
                    model.step(&step);
                }
            }
            prop_assert_eq!(model.taken, (1..=model.pushed).collect::<Vec<_>>());
            prop_assert_eq!(model.heard, (1..=model.sent).collect::<Vec<_>>());
            prop_assert_eq!((model.link.kept(), model.link.kept_bytes()), (0, 0));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut link = GuestLink::default();
        link.push(Frame::open(1));
        let never = LinkError::NeverSent { received: 1, sent: 0 };
        assert_eq!(link.acknowledge(1, drop), Err(never));
        assert_eq!(link.attach(Attach { received: 1, sent_acknowledged: 0 }, drop), Err(never));
        assert_eq!(link.admit(2), Err(LinkError::Gap { number: 2, expected: 1 }));
        let claimed = Attach { received: 0, sent_acknowledged: 1 };
        let unseen = LinkError::NeverSeen { claimed: 1, seen: 0 };
        assert_eq!(link.attach(claimed, drop), Err(unseen));
        assert!(link.give(0).is_some());
        link.acknowledge(1, drop).unwrap();
        let old = LinkError::OldMemory { received: 0, acknowledged: 1 };
        assert_eq!(link.attach(Attach::default(), drop), Err(old));
        assert_eq!((link.generation(), link.kept(), link.seen()), (0, 0, 0));
    }
}
