// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the pause to Commit.
//!
//! Nothing here waits that need not: the residual goes out on all channels while the state is
//! exported; Prepare follows the last marker at once; both digests are computed at the same time.
//! Of the downtime, the network costs one and a half round trips.

use bytes::Bytes;

use super::{SourceAction, SourcePhase, SourceSession};
use crate::limits;
use crate::units::Tick;
use crate::wire::{AbortCode, Digest, Message};

impl SourceSession {
    pub(super) fn pause_guest(&mut self, now: Tick) {
        self.stop_at_ack = false;
        self.enter(now, SourcePhase::Pausing);
        // The residual goes as fast as the user allows.
        self.set_rate(None);
        self.actions.push_back(SourceAction::Pause);
    }

    pub(super) fn guest_paused(&mut self, now: Tick, was_running: bool) {
        if self.phase != SourcePhase::Pausing {
            return;
        }
        self.paused = true;
        self.was_running = was_running;
        // A stop after a harvest sends that harvest's round paused; a stop after a round was sent
        // begins the next one.
        if self.meter.totals().rounds > self.round {
            self.round += 1;
            self.meter.open_round(self.round, now);
        }
        self.enter(now, SourcePhase::FinalHarvest);
        self.actions.push_back(SourceAction::Harvest { last: true });
    }

    pub(super) fn final_harvest_done(&mut self, now: Tick) {
        self.begin_final_round(now);
        self.plan_batches(now);
        self.actions.push_back(SourceAction::ExportState);
    }

    pub(super) fn state_exported(&mut self, now: Tick, state: Bytes) {
        if self.phase != SourcePhase::FinalRound {
            return;
        }
        let total_bytes = state.len() as u64;
        if total_bytes > limits::STATE_BYTES_MAX {
            let reason = format!(
                "The guest's state has {total_bytes} bytes; at most {} can be sent",
                limits::STATE_BYTES_MAX
            );
            return self.fail(now, AbortCode::Source, reason);
        }
        self.meter.state_exported(total_bytes);
        for offset in (0..state.len()).step_by(limits::STATE_CHUNK_MAX as usize) {
            let end = state.len().min(offset + limits::STATE_CHUNK_MAX as usize);
            let chunk = state.slice(offset..end);
            self.send(Message::State { total_bytes, offset: offset as u64, chunk });
        }
        self.state = Some(state);
        self.maybe_prepare(now);
    }

    /// Sends Prepare once the last marker is out on every channel and the state is out.
    pub(super) fn maybe_prepare(&mut self, now: Tick) {
        if self.phase != SourcePhase::FinalRound || !self.all_lanes_ended() || self.prepared {
            return;
        }
        let Some(state) = &self.state else { return };
        let state_crc = crc32fast::hash(state);
        let verify = self.config.verify;
        self.prepared = true;
        self.send(Message::Prepare { state_crc, verify });
        self.enter(now, SourcePhase::Preparing);
        if verify {
            self.actions.push_back(SourceAction::ComputeDigest);
        }
    }

    pub(super) fn digested(&mut self, now: Tick, digest: Digest) {
        if self.phase == SourcePhase::Preparing {
            self.digest = Some(digest);
            self.maybe_commit(now);
        }
    }

    pub(super) fn destination_ready(&mut self, now: Tick, digest: Option<Digest>) {
        if self.phase != SourcePhase::Preparing || self.ready.is_some() {
            return self.breach(now, &format!("Ready in {:?}", self.phase));
        }
        if self.config.verify != digest.is_some() {
            return self.breach(now, "Ready without the digest that was asked for, or with one");
        }
        self.ready = Some(digest);
        self.meter.round_acknowledged(now, 0, 0);
        self.round_done();
        self.maybe_commit(now);
    }

    fn maybe_commit(&mut self, now: Tick) {
        let Some(theirs) = self.ready else { return };
        if self.config.verify && self.digest.is_none() {
            return;
        }
        if theirs != self.digest {
            let reason = "The memory digests differ: what the destination holds is not the \
                          guest. Nothing was handed over; please report this"
                .to_owned();
            return self.fail(now, AbortCode::Digest, reason);
        }
        // The point of no return. No action queued before it may be left undone after it.
        self.ledger.settle_round();
        self.send(Message::Commit { digest: self.digest, run: self.was_running });
        self.enter(now, SourcePhase::Committing);
    }
}
