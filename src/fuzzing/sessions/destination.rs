// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination's half.

use std::time::Duration;

use bytes::Bytes;

use super::{ACTIONS_MAX, Dice, PAGES};
use crate::limits;
use crate::session::destination::DestinationPhase;
use crate::session::{DestinationAction, DestinationConfig, DestinationInput, DestinationSession};
use crate::units::{ChannelId, Tick};
use crate::wire::{Capabilities, Digest, Fate, Hello, Message, RoundCounts};

/// A destination session under arbitrary inputs.
///
/// # Panics
/// If it resumes a guest without Commit and a journal entry, or after it has refused or told
/// anybody that it never committed; or if it grows without bound.
pub fn fuzz_destination_session(data: &[u8]) {
    fuzz_destination(data);
}

pub(super) fn fuzz_destination(data: &[u8]) -> DestinationWatch {
    let mut dice = Dice(data);
    let mut now = Tick::ZERO;
    let mut session = DestinationSession::new(now, DestinationConfig::default());
    let mut watch = DestinationWatch::default();
    while !dice.0.is_empty() {
        now += Duration::from_millis(u64::from(dice.byte() % 32));
        let kind = dice.byte();
        if kind >= 128 {
            help_destination(&mut session, now, &mut dice, &mut watch);
            watch.drain(&mut session, now, &mut dice);
            continue;
        }
        let input = match kind % 12 {
            0..=4 => {
                let message = dice.message();
                watch.commit_came |= matches!(message, Message::Commit { .. });
                DestinationInput::Message(message)
            }
            5 | 6 => DestinationInput::RoundEnded {
                channel: ChannelId::new(dice.byte() % 5),
                round: u32::from(dice.byte() % 4),
                last: dice.flag(),
                counts: dice.counts(),
                first_frame: dice.flag().then_some(now),
            },
            7 => DestinationInput::ChannelAttached(ChannelId::new(dice.byte() % 5)),
            8 => DestinationInput::Query,
            9 => DestinationInput::Digested(Digest(u128::from(dice.byte() % 2))),
            10 => match dice.byte() % 4 {
                0 => DestinationInput::Cancel,
                1 => DestinationInput::Failed { reason: String::new() },
                2 => DestinationInput::ChannelLost {
                    channel: ChannelId::new(dice.byte() % 5),
                    reason: String::new(),
                },
                _ => {
                    DestinationInput::BadFrame { channel: ChannelId::new(0), reason: String::new() }
                }
            },
            _ => {
                if let Some(at) = session.poll_timeout() {
                    now = now.max(at);
                    session.handle_timeout(now);
                }
                DestinationInput::Alive
            }
        };
        session.handle(now, input);
        watch.drain(&mut session, now, &mut dice);
    }
    watch
}

/// Says what a good driver and a good source would say next, so that runs get far.
fn help_destination(
    session: &mut DestinationSession,
    now: Tick,
    dice: &mut Dice<'_>,
    watch: &mut DestinationWatch,
) {
    let message = match session.phase() {
        DestinationPhase::Listening => {
            let channels = 1 + dice.byte() % 3;
            Message::Hello(Hello {
                channels,
                capabilities: Capabilities::from_bits(7),
                ..dice.hello()
            })
        }
        DestinationPhase::Attaching => {
            let channel = ChannelId::new(1 + dice.byte() % 3);
            return session.handle(now, DestinationInput::ChannelAttached(channel));
        }
        DestinationPhase::Receiving => {
            let (round, last) = (session.open_round().unwrap_or(0), dice.flag());
            for channel in ChannelId::all(session.channels()) {
                let counts = RoundCounts::default();
                let first_frame = Some(now);
                let end =
                    DestinationInput::RoundEnded { channel, round, last, counts, first_frame };
                session.handle(now, end);
            }
            return;
        }
        DestinationPhase::Paused => {
            let chunk = Bytes::from_static(&[7; 8]);
            let state = Message::State { total_bytes: 8, offset: 0, chunk };
            session.handle(now, DestinationInput::Message(state));
            Message::Prepare { state_crc: crc32fast::hash(&[7; 8]), verify: dice.flag() }
        }
        DestinationPhase::Ready => {
            watch.commit_came = true;
            let digest = dice.flag().then_some(Digest(0));
            Message::Commit { digest, run: true }
        }
        _ => Message::Ping { token: 1 },
    };
    session.handle(now, DestinationInput::Message(message));
}

#[derive(Default)]
pub(super) struct DestinationWatch {
    commit_came: bool,
    pub(super) recorded: bool,
    renounced: bool,
    state_bytes: u64,
}

impl DestinationWatch {
    fn drain(&mut self, session: &mut DestinationSession, now: Tick, dice: &mut Dice<'_>) {
        for count in 0.. {
            assert!(count < ACTIONS_MAX, "more actions than one input can set off");
            let Some(action) = session.poll_action() else { break };
            let fails = dice.byte() > 250;
            let reply = match action {
                DestinationAction::Send(Message::Refuse { .. })
                | DestinationAction::Answer(Fate::NeverCommitted)
                | DestinationAction::Record(Fate::NeverCommitted) => {
                    self.renounced = true;
                    None
                }
                DestinationAction::Answer(Fate::Committed) => {
                    assert!(!self.renounced, "R4: two answers to one question");
                    None
                }
                DestinationAction::Record(_) => {
                    assert!(self.commit_came, "R4: recorded without Commit");
                    self.recorded = true;
                    Some(DestinationInput::Recorded)
                }
                DestinationAction::Resume { .. } => {
                    assert!(self.recorded && !self.renounced, "R4: resumed without the right to");
                    Some(DestinationInput::Resumed)
                }
                DestinationAction::CreateGuest(hello) => {
                    assert!(hello.regions.pages() == PAGES);
                    Some(DestinationInput::GuestCreated)
                }
                DestinationAction::ImportState(state) => {
                    self.state_bytes += state.len() as u64;
                    assert!(self.state_bytes <= limits::STATE_BYTES_MAX);
                    Some(DestinationInput::StateImported)
                }
                DestinationAction::ComputeDigest => Some(DestinationInput::Digested(Digest(0))),
                _ => None,
            };
            match reply {
                Some(_) if fails => {
                    session.handle(now, DestinationInput::Failed { reason: String::new() });
                }
                Some(input) => session.handle(now, input),
                None => {}
            }
        }
    }
}
