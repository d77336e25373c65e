// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's half.

use std::time::Duration;

use bytes::Bytes;

use super::{ACTIONS_MAX, Dice, PAGES, table};
use crate::policy::{Observation, StopPolicy, StrategySpec, Verdict};
use crate::session::{
    BatchCounts, Shadow, SourceAction, SourceConfig, SourceInput, SourcePhase, SourceSession,
};
use crate::units::{ChannelId, MigrationId, Throttle, Tick};
use crate::wire::{Capabilities, Digest, Fate, Message, RoundCounts};

/// Says whatever the input says.
#[derive(Clone, Debug)]
struct Whim(Vec<u8>);

impl StopPolicy for Whim {
    fn name(&self) -> &'static str {
        "whim"
    }

    fn judge(&mut self, _: &Observation) -> Verdict {
        match self.0.pop().unwrap_or(1) % 6 {
            0 => Verdict::give_up("whim"),
            1 => Verdict::stop("whim"),
            2 => Verdict::Harvest { reason: "whim".to_owned() },
            3 => Verdict::Continue { throttle: Throttle::percent(30), reason: String::new() },
            _ => Verdict::go_on("whim"),
        }
    }

    fn skips_redirtied(&self, round: u32) -> bool {
        self.0.len().is_multiple_of(2) && round > 0
    }

    fn fork(&self) -> Box<dyn StopPolicy> {
        Box::new(self.clone())
    }
}

/// A source session under arbitrary inputs.
///
/// # Panics
/// If it resumes the guest after Commit without an explicit refusal, finishes twice, acts after
/// its end, or grows without bound.
pub fn fuzz_source_session(data: &[u8]) {
    fuzz_source(data);
}

/// A strategy that is judged beside the acting one.
fn shadow(text: &str) -> Shadow {
    let strategy = StrategySpec::parse(text).expect("the name of a strategy").build();
    Shadow { text: text.to_owned(), strategy }
}

pub(super) fn fuzz_source(data: &[u8]) -> SourceWatch {
    let mut dice = Dice(data);
    let mut config = SourceConfig::new(MigrationId::new(1), table());
    config.channels = 1 + dice.byte() % 4;
    config.batch_pages = 1 + u32::from(dice.byte() % 32);
    let bits = dice.byte();
    config.verify = bits & 1 == 1;
    if bits & 2 == 2 {
        config.shadows = ["qemu", "renewal+cold-first"].map(shadow).into();
    }
    config.tracker_rearms = dice.flag();
    config.peek_window_pages = u64::from(dice.byte());
    let whims = (0..dice.byte() % 32).map(|_| dice.byte()).collect();
    let mut now = Tick::ZERO;
    let mut session = SourceSession::new(now, config, Box::new(Whim(whims)));
    let mut watch = SourceWatch::default();
    watch.drain(&mut session, now, &mut dice);
    while !dice.0.is_empty() {
        now += Duration::from_millis(u64::from(dice.byte() % 32));
        let kind = dice.byte();
        if kind >= 128 {
            help_source(&mut session, now, &mut dice, &mut watch);
        } else if kind % 16 == 15 {
            if let Some(at) = session.poll_timeout() {
                now = now.max(at);
                session.handle_timeout(now);
            }
        } else {
            arbitrary_source_input(&mut session, now, kind % 16, &mut dice, &mut watch);
        }
        watch.drain(&mut session, now, &mut dice);
        assert!(session.owed_pages() <= PAGES, "owes more pages than there are");
    }
    watch
}

#[derive(Default)]
pub(super) struct SourceWatch {
    pub(super) tried_commit: bool,
    may_resume: bool,
    finished: bool,
    /// Batches taken and not answered.
    batches: Vec<(ChannelId, u64)>,
    /// Round and counts of the batches answered.
    round: u32,
    counts: RoundCounts,
}

impl SourceWatch {
    fn drain(&mut self, session: &mut SourceSession, now: Tick, dice: &mut Dice<'_>) {
        for count in 0.. {
            assert!(count < ACTIONS_MAX, "more actions than one input can set off");
            let Some(action) = session.poll_action(now) else { break };
            assert!(!self.finished, "{action:?} after the end");
            match action {
                SourceAction::Send { message: Message::Commit { .. }, .. } => {
                    self.tried_commit = true;
                }
                SourceAction::Resume => {
                    assert!(!self.tried_commit || self.may_resume, "R4: resumed after Commit");
                }
                SourceAction::SendBatch(batch) => {
                    assert!(batch.pages() > 0 && batch.pages() <= PAGES);
                    if self.round != batch.round {
                        (self.round, self.counts) = (batch.round, RoundCounts::default());
                    }
                    self.batches.push((batch.channel, batch.pages()));
                }
                SourceAction::Finish(_) => self.finished = true,
                on_the_spot => answer(session, now, &on_the_spot, dice),
            }
        }
        while session.poll_event().is_some() {}
    }
}

impl SourceWatch {
    fn answer_batch(&mut self, session: &mut SourceSession, now: Tick) -> bool {
        let Some((channel, pages)) = self.batches.pop() else { return false };
        let mut counts = RoundCounts::default();
        counts.add_frame(pages, pages * 4096);
        self.counts.add(counts);
        let counts = BatchCounts { wire: counts, ..BatchCounts::default() };
        session.handle(now, SourceInput::BatchSent { channel, counts });
        true
    }
}

/// Says what a good driver and a good destination would say next, so that runs get far.
fn help_source(
    session: &mut SourceSession,
    now: Tick,
    dice: &mut Dice<'_>,
    watch: &mut SourceWatch,
) {
    let message = match session.phase() {
        SourcePhase::Negotiating => Message::Accept {
            version: 1,
            capabilities: Capabilities::from_bits(6),
            channels: 1 + dice.byte() % 2,
        },
        SourcePhase::Attaching => {
            session.handle(now, SourceInput::ChannelsOpen);
            Message::ChannelsReady
        }
        SourcePhase::AwaitingAck => {
            let round = session.current_round().round;
            let sent = session.current_round().sent_pages > 0;
            let counts = if sent { watch.counts } else { RoundCounts::default() };
            Message::RoundAck { round, counts }
        }
        SourcePhase::Preparing => {
            session.handle(now, SourceInput::Digested(Digest(0)));
            let digest = dice.flag().then_some(Digest(0));
            Message::Ready { digest, import_nanos: 1, digest_nanos: 1 }
        }
        SourcePhase::Committing if dice.flag() => {
            Message::Committed { resume_nanos: 1, paused_nanos: 1 }
        }
        _ => {
            watch.answer_batch(session, now);
            return;
        }
    };
    session.handle(now, SourceInput::Message(message));
}

/// Answers what a driver carries out on the spot, mostly as it should.
fn answer(session: &mut SourceSession, now: Tick, action: &SourceAction, dice: &mut Dice<'_>) {
    if dice.byte() > 250 {
        return session.handle(now, SourceInput::Failed { reason: "dice".to_owned() });
    }
    match action {
        SourceAction::Arm => session.handle(now, SourceInput::Armed),
        SourceAction::ScanPopulated => {
            let set = dice.pages(PAGES);
            session.handle(now, SourceInput::Populated(&set));
        }
        SourceAction::Harvest { .. } => {
            let set = dice.pages(PAGES);
            session.handle(now, SourceInput::Harvested { set: &set, began: now });
        }
        SourceAction::Peek { .. } => {
            let set = dice.pages(PAGES);
            session.handle(now, SourceInput::Peeked(Some(&set)));
        }
        SourceAction::Pause => {
            session.handle(now, SourceInput::Paused { was_running: dice.flag() });
        }
        SourceAction::ExportState => {
            session.handle(now, SourceInput::StateExported(Bytes::from_static(&[7; 8])));
        }
        _ => {}
    }
}

fn arbitrary_source_input(
    session: &mut SourceSession,
    now: Tick,
    kind: u8,
    dice: &mut Dice<'_>,
    watch: &mut SourceWatch,
) {
    match kind {
        0..=5 => {
            let message = dice.message();
            watch.may_resume |= matches!(
                message,
                Message::Refuse { .. } | Message::Answer { fate: Fate::NeverCommitted, .. }
            );
            session.handle(now, SourceInput::Message(message));
        }
        6 => session.handle(now, SourceInput::ChannelsOpen),
        7 => {
            let channel = ChannelId::new(dice.byte() % 5);
            session.handle(now, SourceInput::ChannelLost { channel, reason: String::new() });
        }
        8 => {
            let length = if dice.flag() { PAGES } else { PAGES - 1 };
            let set = dice.pages(length);
            session.handle(now, SourceInput::Harvested { set: &set, began: now });
        }
        9 | 10 => {
            watch.answer_batch(session, now);
        }
        11 => {
            let digest = Digest(u128::from(dice.byte() % 2));
            session.handle(now, SourceInput::Digested(digest));
        }
        12 => {
            let fates = [None, Some(Fate::Committed), Some(Fate::NeverCommitted)];
            let fate = fates[usize::from(dice.byte() % 3)];
            watch.may_resume |= fate == Some(Fate::NeverCommitted);
            session.handle(now, SourceInput::Answered(fate));
        }
        13 => session.handle(now, SourceInput::Cancel),
        _ => session.handle(now, SourceInput::Failed { reason: String::new() }),
    }
}
