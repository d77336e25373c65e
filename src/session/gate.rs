// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Admission of page frames at the destination, one gate a channel (rule R3).
//!
//! The destination session opens one round at a time. A channel's gate admits page frames of the
//! open round only, until that channel ended it. A frame of a round that is not open yet would
//! overtake older copies of its pages that may still be on another channel; a frame of a closed
//! round would undo newer ones.

use crate::wire::RoundCounts;

/// Keeps one channel's rounds in order and counts what it brought.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ChannelGate {
    /// Rounds that this channel has ended; also the only round that it may bring pages of.
    ended: u32,
    counts: RoundCounts,
}

/// A frame that does not belong here now. The migration must be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Pages of a round that is not open on this channel.
    #[error("Pages of round {round} came while round {expected} was expected on this channel")]
    WrongRound {
        /// The frame's round.
        round: u32,
        /// The round that the channel is in.
        expected: u32,
    },
    /// Pages of the next round before every channel ended the last one.
    #[error("Pages of round {round} came before round {open} was complete on all channels")]
    NotOpen {
        /// The frame's round.
        round: u32,
        /// The round that is open.
        open: u32,
    },
    /// The sender counted otherwise: frames were lost or invented.
    #[error("The source says it sent {claimed:?} in round {round}, but {counted:?} arrived")]
    Counts {
        /// The round.
        round: u32,
        /// The sender's count.
        claimed: RoundCounts,
        /// This side's count.
        counted: RoundCounts,
    },
}

impl ChannelGate {
    /// A gate that expects round 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits a frame of `pages` pages and `wire_bytes` bytes of `round`, `open` being the round
    /// that the session has open.
    ///
    /// # Errors
    /// [`GateError`] if it would overtake, or be overtaken by, another copy.
    pub fn admit(
        &mut self,
        round: u32,
        open: u32,
        pages: u64,
        wire_bytes: u64,
    ) -> Result<(), GateError> {
        if round != self.ended {
            return Err(GateError::WrongRound { round, expected: self.ended });
        }
        if round != open {
            return Err(GateError::NotOpen { round, open });
        }
        self.counts.add_frame(pages, wire_bytes);
        Ok(())
    }

    /// Ends `round` on this channel and returns what it brought.
    ///
    /// # Errors
    /// [`GateError`] if it is another round's turn or the counts differ.
    pub fn end(&mut self, round: u32, claimed: RoundCounts) -> Result<RoundCounts, GateError> {
        if round != self.ended {
            return Err(GateError::WrongRound { round, expected: self.ended });
        }
        if claimed != self.counts {
            return Err(GateError::Counts { round, claimed, counted: self.counts });
        }
        self.ended += 1;
        Ok(std::mem::take(&mut self.counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_round_comes_in() {
        let mut gate = ChannelGate::new();
        gate.admit(0, 0, 4, 100).unwrap();
        assert_eq!(gate.admit(1, 0, 1, 1), Err(GateError::WrongRound { round: 1, expected: 0 }));
        let counts = RoundCounts { frames: 1, pages: 4, wire_bytes: 100 };
        assert!(matches!(gate.end(0, RoundCounts::default()), Err(GateError::Counts { .. })));
        assert_eq!(gate.end(0, counts), Ok(counts));
        // This channel is done with round 0, the others are not: round 1 must wait.
        assert_eq!(gate.admit(1, 0, 1, 1), Err(GateError::NotOpen { round: 1, open: 0 }));
        gate.admit(1, 1, 1, 1).unwrap();
        assert_eq!(gate.admit(0, 1, 1, 1), Err(GateError::WrongRound { round: 0, expected: 1 }));
    }
}
