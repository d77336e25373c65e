// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From Hello to the last round.

use super::{DestinationAction, DestinationPhase, DestinationSession};
use crate::limits;
use crate::units::{ChannelId, Tick};
use crate::wire::{Capabilities, Hello, Message, RefuseCode, RoundCounts, VersionRange};

impl DestinationSession {
    pub(super) fn handle_message(&mut self, now: Tick, message: Message) {
        if self.over() {
            return self.after_the_end(&message);
        }
        match (self.phase, message) {
            (DestinationPhase::Listening, Message::Hello(hello)) => self.greeted(now, hello),
            (_, Message::Ping { token }) => self.send(Message::Pong { token }),
            // Commit is here: nothing that comes behind it can take it back.
            (_, Message::Pong { .. }) | (DestinationPhase::Committing, _) => {}
            (_, Message::Abort { code, reason }) => {
                self.source_aborted(now, &format!("The source gave up ({code:?}): {reason}"));
            }
            (DestinationPhase::Receiving, Message::Announce { runs }) => {
                self.announces += 1;
                let fits = runs.iter().all(|r| {
                    self.hello
                        .as_ref()
                        .is_some_and(|h| h.regions.check_run(r.start().get(), r.pages()).is_ok())
                });
                if !fits || self.announces > limits::ANNOUNCES_MAX {
                    return self.breach(now, "an announcement that does not fit the guest");
                }
                self.actions.push_back(DestinationAction::Prefault(runs));
            }
            (
                DestinationPhase::Receiving | DestinationPhase::Paused,
                Message::State { total_bytes, offset, chunk },
            ) => self.state_piece(now, total_bytes, offset, &chunk),
            (
                DestinationPhase::Receiving | DestinationPhase::Paused,
                Message::Prepare { state_crc, verify },
            ) => self.prepare(now, state_crc, verify),
            (DestinationPhase::Ready, Message::Commit { digest, run }) => {
                self.commit(now, digest, run);
            }
            (phase, other) => {
                self.breach(now, &format!("{} came in {phase:?}", other.name()));
            }
        }
    }

    /// A Commit that comes after a refusal (or twice) gets the same answer again.
    fn after_the_end(&mut self, message: &Message) {
        if matches!(message, Message::Commit { .. }) && self.phase == DestinationPhase::Refused {
            let reason = self.failure.clone().unwrap_or_default();
            self.send(Message::Refuse { code: RefuseCode::Settled, reason });
        }
    }

    pub(super) fn breach(&mut self, now: Tick, what: &str) {
        let reason = format!("The source broke the protocol: {what}");
        self.refuse(now, RefuseCode::Protocol, reason);
    }

    fn greeted(&mut self, now: Tick, hello: Hello) {
        let Some(version) = hello.versions.newest_common(VersionRange::OURS) else {
            let (theirs, ours) = (hello.versions, VersionRange::OURS);
            self.hello = Some(Box::new(hello));
            let reason = format!(
                "The source speaks protocol versions {} to {}, this destination {} to {}",
                theirs.min, theirs.max, ours.min, ours.max
            );
            return self.refuse(now, RefuseCode::Version, reason);
        };
        let bytes = hello.regions.bytes();
        if bytes > self.config.memory_bytes_max
            || hello.regions.page_size().bytes_u32() > limits::FRAME_PAGE_BYTES_MAX
        {
            let reason = format!(
                "A guest of {bytes} bytes in pages of {} bytes is more than this destination \
                 takes ({} bytes, pages up to {} bytes)",
                hello.regions.page_size().bytes(),
                self.config.memory_bytes_max,
                limits::FRAME_PAGE_BYTES_MAX
            );
            self.hello = Some(Box::new(hello));
            return self.refuse(now, RefuseCode::Regions, reason);
        }
        let channels = hello.channels.clamp(1, self.config.channels_max.max(1));
        self.capabilities = hello.capabilities.both(self.config.capabilities);
        self.verify = self.capabilities.has(Capabilities::VERIFY);
        self.attached = vec![false; usize::from(channels)];
        self.attached[0] = true;
        self.ended = vec![None; usize::from(channels)];
        self.enter(now, DestinationPhase::Attaching);
        let capabilities = self.capabilities;
        self.send(Message::Accept { version, capabilities, channels });
        let hello = Box::new(hello);
        self.hello = Some(hello.clone());
        self.actions.push_back(DestinationAction::CreateGuest(hello));
    }

    pub(super) fn channel_attached(&mut self, now: Tick, channel: ChannelId) {
        let known = self.attached.get(channel.as_usize()).copied();
        if self.phase != DestinationPhase::Attaching || known != Some(false) {
            return self.breach(now, &format!("{channel} was attached twice, or uninvited"));
        }
        self.attached[channel.as_usize()] = true;
        self.heard_at = now;
        self.maybe_channels_ready(now);
    }

    pub(super) fn maybe_channels_ready(&mut self, now: Tick) {
        let complete = self.guest_created && self.attached.iter().all(|a| *a);
        if self.phase == DestinationPhase::Attaching && complete {
            self.enter(now, DestinationPhase::Receiving);
            self.send(Message::ChannelsReady);
        }
    }

    pub(super) fn round_ended(
        &mut self,
        now: Tick,
        channel: ChannelId,
        round: u32,
        last: bool,
        counts: RoundCounts,
        first_frame: Option<Tick>,
    ) {
        if self.phase != DestinationPhase::Receiving || round != self.round {
            return self.breach(now, &format!("the end of round {round} in {:?}", self.phase));
        }
        match self.ended.get_mut(channel.as_usize()) {
            Some(slot @ None) => *slot = Some(last),
            _ => return self.breach(now, &format!("{channel} ended round {round} twice")),
        }
        self.round_counts.add(counts);
        self.paused_since = match (self.paused_since, first_frame) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if self.ended.iter().any(Option::is_none) {
            return;
        }
        if self.ended.iter().any(|e| *e != Some(last)) {
            return self.breach(now, "channels disagree on whether the round was the last");
        }
        self.ended.fill(None);
        let counts = std::mem::take(&mut self.round_counts);
        if last {
            self.paused_since.get_or_insert(now);
            self.enter(now, DestinationPhase::Paused);
            if let Some((state_crc, verify)) = self.prepare_waits.take() {
                self.prepare(now, state_crc, verify);
            }
        } else {
            self.paused_since = None;
            // Opened before the acknowledgement leaves: pages of it can come from then on.
            self.round += 1;
            self.send(Message::RoundAck { round, counts });
        }
    }

    fn state_piece(&mut self, now: Tick, total_bytes: u64, offset: u64, chunk: &[u8]) {
        let total = *self.state_total.get_or_insert(total_bytes);
        if total_bytes > self.config.state_bytes_max || total_bytes > limits::STATE_BYTES_MAX {
            let most = self.config.state_bytes_max.min(limits::STATE_BYTES_MAX);
            let reason = format!("A state of {total_bytes} bytes is more than {most}");
            return self.refuse(now, RefuseCode::State, reason);
        }
        let here = self.state.len() as u64;
        if total != total_bytes || offset != here || here + chunk.len() as u64 > total {
            return self.breach(now, "a piece of state that does not fit the ones before it");
        }
        // Grows by what really came, never by what was promised.
        self.state.extend_from_slice(chunk);
    }

    pub(super) fn lost(&mut self, now: Tick, channel: ChannelId, reason: &str) {
        let needed = match self.phase {
            // Commit is here: whatever breaks now cannot take it back.
            DestinationPhase::Committing => return,
            // Everything has arrived; only Commit is missing, and it comes on channel 0.
            DestinationPhase::Preparing | DestinationPhase::Ready => channel == ChannelId::CONTROL,
            _ => true,
        };
        if needed {
            let reason = format!("Lost {channel} to the source: {reason}");
            self.refuse(now, RefuseCode::Lost, reason);
        }
    }
}
