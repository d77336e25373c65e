// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both sessions under arbitrary inputs: any order, any numbers, answers to questions that were
//! never asked. They may refuse as they like; what they may never do is break R4 or grow.

use std::time::Duration;

use bytes::Bytes;

use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::policy::{Observation, StopPolicy, Verdict};
use crate::region::RegionTable;
use crate::session::destination::DestinationPhase;
use crate::session::{
    DestinationAction, DestinationConfig, DestinationInput, DestinationSession, SourceAction,
    SourceConfig, SourceInput, SourcePhase, SourceSession,
};
use crate::units::{ChannelId, MigrationId, PageIndex, PageRun, PageSize, Throttle, Tick};
use crate::wire::{
    AbortCode, Capabilities, Digest, Fate, Hello, Message, RefuseCode, RoundCounts, VersionRange,
};

const PAGES: u64 = 70;
/// More than any single input can set off: a round of 70 pages, one by one, and its ends.
const ACTIONS_MAX: usize = 400;

/// Takes numbers from the input; zeros when it has run out.
struct Dice<'a>(&'a [u8]);

impl Dice<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn pages(&mut self, length: u64) -> DenseBitmap {
        let mut set = DenseBitmap::new(length);
        for _ in 0..self.byte() % 8 {
            let start = u64::from(self.byte()) % length;
            let end = (start + u64::from(self.byte() % 16)).min(length);
            set.set_run(PageRun::from_range(start..end));
        }
        set
    }

    fn counts(&mut self) -> RoundCounts {
        RoundCounts {
            frames: u64::from(self.byte() % 4),
            pages: u64::from(self.byte()),
            wire_bytes: u64::from(self.byte()) * 64,
        }
    }

    fn digest(&mut self) -> Option<Digest> {
        self.flag().then(|| Digest(u128::from(self.byte() % 2)))
    }

    fn message(&mut self) -> Message {
        match self.byte() % 19 {
            0 => Message::Hello(self.hello()),
            1 => Message::Accept {
                version: u16::from(self.byte() % 3),
                capabilities: Capabilities::from_bits(u64::from(self.byte() % 8)),
                channels: self.byte() % 5,
            },
            2 => Message::Refuse { code: RefuseCode::Protocol, reason: String::new() },
            3 => Message::Attach {
                migration_id: MigrationId::new(1),
                channel: ChannelId::new(self.byte() % 5),
            },
            4 => Message::ChannelsReady,
            5 => {
                let start = u64::from(self.byte());
                let run = PageRun::new(PageIndex::new(start), u64::from(self.byte()));
                Message::Announce { runs: vec![run] }
            }
            6 => Message::RoundAck { round: u32::from(self.byte() % 6), counts: self.counts() },
            7 => {
                let chunk = vec![self.byte(); usize::from(self.byte() % 9)];
                Message::State {
                    total_bytes: u64::from(self.byte() % 16),
                    offset: u64::from(self.byte() % 16),
                    chunk: Bytes::from(chunk),
                }
            }
            8 => {
                let state_crc = if self.flag() { 0 } else { crc32fast::hash(&[7; 8]) };
                Message::Prepare { state_crc, verify: self.flag() }
            }
            9 => Message::Ready { digest: self.digest(), import_nanos: 1, digest_nanos: 1 },
            10 => Message::Commit { digest: self.digest(), run: self.flag() },
            11 => Message::Committed { resume_nanos: 1, paused_nanos: 1 },
            12 => Message::Abort { code: AbortCode::Policy, reason: String::new() },
            13 => Message::Ping { token: u64::from(self.byte()) },
            14 => Message::Pong { token: u64::from(self.byte() % 4) },
            15 => Message::Query { migration_id: MigrationId::new(1) },
            16 => {
                let fate = [Fate::Committed, Fate::NeverCommitted, Fate::Unknown];
                let fate = fate[usize::from(self.byte() % 3)];
                Message::Answer { migration_id: MigrationId::new(1), fate }
            }
            17 => {
                let last = self.flag();
                Message::RoundEnd { round: u32::from(self.byte()), last, counts: self.counts() }
            }
            _ => Message::State { total_bytes: 8, offset: 0, chunk: Bytes::from_static(&[7; 8]) },
        }
    }

    fn hello(&mut self) -> Hello {
        Hello {
            versions: VersionRange { min: 1, max: 1 + u16::from(self.byte() % 3) },
            migration_id: MigrationId::new(1),
            capabilities: Capabilities::from_bits(u64::from(self.byte())),
            channels: self.byte() % 6,
            regions: table(),
            guest: String::new(),
        }
    }
}

fn table() -> RegionTable {
    RegionTable::single(PageSize::BASE, PAGES).expect("a table of 70 pages")
}

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

fn fuzz_source(data: &[u8]) -> SourceWatch {
    let mut dice = Dice(data);
    let mut config = SourceConfig::new(MigrationId::new(1), table());
    config.channels = 1 + dice.byte() % 4;
    config.batch_pages = 1 + u32::from(dice.byte() % 32);
    config.verify = dice.flag();
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
struct SourceWatch {
    tried_commit: bool,
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
        session.handle(now, SourceInput::BatchSent { channel, counts, zero_pages: 0 });
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

/// A destination session under arbitrary inputs.
///
/// # Panics
/// If it resumes a guest without Commit and a journal entry, or after it has refused or told
/// anybody that it never committed; or if it grows without bound.
pub fn fuzz_destination_session(data: &[u8]) {
    fuzz_destination(data);
}

fn fuzz_destination(data: &[u8]) -> DestinationWatch {
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
struct DestinationWatch {
    commit_came: bool,
    recorded: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A harness that never gets to the end proves nothing about it.
    #[test]
    fn runs_get_to_the_end() {
        let mut word = 1u32;
        let (mut sources, mut destinations) = (0, 0);
        for _ in 0..2000 {
            let mut bytes = || {
                word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (word >> 24) as u8 | 128
            };
            let data: Vec<u8> = (0..200).map(|_| bytes()).collect();
            sources += u32::from(fuzz_source(&data).tried_commit);
            destinations += u32::from(fuzz_destination(&data).recorded);
        }
        assert!(sources > 20 && destinations > 20, "{sources} {destinations}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn sources_hold(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_source_session(&data);
        }

        #[test]
        fn destinations_hold(data in prop::collection::vec(any::<u8>(), 0..400)) {
            fuzz_destination_session(&data);
        }
    }
}
