// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From Hello to the first page; pings; and the dispatch of messages.

use super::{Lane, SourceAction, SourcePhase, SourceSession};
use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::units::{PageRun, Tick};
use crate::wire::{AbortCode, Capabilities, Fate, Hello, Message, VersionRange};

impl SourceSession {
    pub(super) fn say_hello(&mut self, now: Tick) {
        let c = &self.config;
        let verify = if c.verify { Capabilities::VERIFY } else { Capabilities::NONE };
        let hello = Hello {
            versions: VersionRange::OURS,
            migration_id: c.migration_id,
            capabilities: c.capabilities.with(verify),
            channels: c.channels.clamp(1, limits::CHANNELS_MAX),
            regions: c.regions.clone(),
            guest: c.guest.clone(),
        };
        self.send(Message::Hello(hello));
        self.enter(now, SourcePhase::Negotiating);
    }

    pub(super) fn handle_message(&mut self, now: Tick, message: Message) {
        match message {
            Message::Accept { version, capabilities, channels } => {
                self.accepted(now, version, capabilities, channels);
            }
            Message::Refuse { code, reason } => self.refused(now, code, &reason),
            Message::ChannelsReady if self.phase == SourcePhase::Attaching => {
                self.channels_ready = true;
                self.maybe_arm(now);
            }
            Message::RoundAck { round, counts } => self.acknowledged(now, round, counts),
            Message::Ready { digest, .. } => self.destination_ready(now, digest),
            Message::Committed { .. } => self.committed(now),
            Message::Ping { token } => self.send(Message::Pong { token }),
            Message::Pong { token } => self.ponged(now, token),
            Message::Answer { migration_id, fate } if migration_id == self.config.migration_id => {
                self.answered(now, Some(fate));
            }
            other => self.breach(now, &format!("{} came in {:?}", other.name(), self.phase)),
        }
    }

    /// The destination broke the protocol.
    pub(super) fn breach(&mut self, now: Tick, what: &str) {
        let reason = format!("The destination broke the protocol: {what}");
        self.fail_or_doubt(now, AbortCode::Protocol, reason);
    }

    fn accepted(&mut self, now: Tick, version: u16, granted: Capabilities, channels: u8) {
        if self.phase != SourcePhase::Negotiating {
            return self.breach(now, "a second Accept");
        }
        let asked = self.config.capabilities.with(if self.config.verify {
            Capabilities::VERIFY
        } else {
            Capabilities::NONE
        });
        let ours = VersionRange::OURS;
        if version < ours.min || version > ours.max {
            return self.breach(now, &format!("it accepted version {version}, not offered"));
        }
        if !asked.has(granted) || channels == 0 || channels > self.config.channels {
            return self.breach(now, "it granted more than was asked for");
        }
        if self.config.verify && !granted.has(Capabilities::VERIFY) {
            let reason = "The destination cannot compare digests; go without --verify".to_owned();
            return self.fail(now, AbortCode::Source, reason);
        }
        self.meter.saw_round_trip(now.since(self.phase_began));
        self.capabilities = granted;
        self.lanes = vec![Lane::default(); usize::from(channels)];
        self.enter(now, SourcePhase::Attaching);
        if channels > 1 {
            self.actions.push_back(SourceAction::OpenChannels { channels });
        } else {
            self.channels_open = true;
        }
    }

    pub(super) fn channels_opened(&mut self, now: Tick) {
        if self.phase == SourcePhase::Attaching {
            self.channels_open = true;
            self.maybe_arm(now);
        }
    }

    fn maybe_arm(&mut self, now: Tick) {
        if self.channels_open && self.channels_ready {
            self.enter(now, SourcePhase::Arming);
            self.actions.push_back(SourceAction::Arm);
        }
    }

    pub(super) fn tracking(&mut self, now: Tick) {
        if self.phase == SourcePhase::Arming {
            self.armed = true;
            if !self.begin_preflight(now) {
                self.scan(now);
            }
        }
    }

    pub(super) fn scan(&mut self, now: Tick) {
        self.enter(now, SourcePhase::Scanning);
        // After arming (R1): a page populated later is a page written later.
        self.actions.push_back(SourceAction::ScanPopulated);
    }

    pub(super) fn populated(&mut self, now: Tick, set: &DenseBitmap) {
        if self.phase != SourcePhase::Scanning {
            return;
        }
        if let Err(error) = self.ledger.owe_populated(set) {
            return self.fail(now, AbortCode::Source, format!("Populated pages: {error}"));
        }
        self.meter.populated(now, self.ledger.owed_pages());
        self.strategy.order.begin(now, self.ledger.owed());
        let page_bytes = u64::from(self.config.regions.page_size().bytes_u32());
        self.shadows.begin(now, self.ledger.owed(), page_bytes);
        self.announce();
        self.judge_harvested(now);
    }

    /// Tells the destination which pages will come, so that it pre-faults them meanwhile.
    fn announce(&mut self) {
        if !self.capabilities.has(Capabilities::ANNOUNCE) {
            return;
        }
        let per_message = limits::ANNOUNCE_RUNS_MAX as usize;
        let most = per_message * limits::ANNOUNCES_MAX as usize;
        let runs: Vec<PageRun> = self.ledger.owed().runs().take(most).collect();
        for part in runs.chunks(per_message) {
            self.send(Message::Announce { runs: part.to_vec() });
        }
    }

    pub(super) fn ping(&mut self, now: Tick) {
        self.ping_at = Some(now + self.config.ping_interval);
        // One at a time: pongs queue behind pages, and a flood of pings would say nothing more.
        if self.ping_sent.is_none()
            && !matches!(self.phase, SourcePhase::Negotiating | SourcePhase::Asking)
        {
            self.pings += 1;
            self.ping_sent = Some((self.pings, now));
            self.send(Message::Ping { token: self.pings });
        }
    }

    fn ponged(&mut self, now: Tick, token: u64) {
        if let Some((expected, sent)) = self.ping_sent.take() {
            if expected == token {
                self.meter.saw_round_trip(now.since(sent));
            } else {
                self.breach(now, "a pong that answers no ping");
            }
        }
    }

    pub(super) fn answered(&mut self, now: Tick, fate: Option<Fate>) {
        self.asking = false;
        match (self.phase, fate) {
            (SourcePhase::Asking, Some(Fate::Committed)) => self.committed_for_sure(now),
            (SourcePhase::Asking, Some(Fate::NeverCommitted)) => self.never_committed(now),
            (SourcePhase::Asking, Some(Fate::Unknown) | None) => {
                self.ask_at = Some(now + self.config.query_interval);
            }
            _ => {}
        }
    }
}
