// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From Prepare to the guest's resume, and every way not to get there.

use super::{DestinationAction, DestinationPhase, DestinationSession};
use crate::units::Tick;
use crate::wire::{Digest, Fate, Message, RefuseCode};

impl DestinationSession {
    pub(super) fn prepare(&mut self, now: Tick, state_crc: u32, verify: bool) {
        // It came on channel 0; the ends of the last round may still be on other channels.
        if self.phase == DestinationPhase::Receiving {
            if self.prepare_waits.replace((state_crc, verify)).is_some() {
                self.breach(now, "a second Prepare");
            }
            return;
        }
        let have = self.state.len() as u64;
        if have != self.state_total.unwrap_or(0) || crc32fast::hash(&self.state) != state_crc {
            return self.breach(now, "the state is incomplete or damaged");
        }
        if verify && !self.verify {
            return self.breach(now, "it wants a digest, which was not negotiated");
        }
        self.verify = verify;
        self.prepare_at = now;
        self.enter(now, DestinationPhase::Preparing);
        let state = std::mem::take(&mut self.state).freeze();
        self.actions.push_back(DestinationAction::ImportState(state));
    }

    pub(super) fn imported(&mut self, now: Tick) {
        if self.phase != DestinationPhase::Preparing || self.state_imported {
            return;
        }
        self.state_imported = true;
        self.import_took = now.since(self.prepare_at);
        self.digest_began = now;
        if self.verify {
            self.actions.push_back(DestinationAction::ComputeDigest);
        } else {
            self.ready(now);
        }
    }

    pub(super) fn digested(&mut self, now: Tick, digest: Digest) {
        if self.phase == DestinationPhase::Preparing && self.state_imported {
            self.digest = Some(digest);
            self.digest_took = now.since(self.digest_began);
            self.ready(now);
        }
    }

    fn ready(&mut self, now: Tick) {
        self.enter(now, DestinationPhase::Ready);
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.send(Message::Ready {
            digest: self.digest,
            import_nanos: nanos(self.import_took),
            digest_nanos: nanos(self.digest_took),
        });
    }

    pub(super) fn commit(&mut self, now: Tick, digest: Option<Digest>, run: bool) {
        self.commit_at = now;
        if digest != self.digest {
            let reason = "The memory digests differ; the guest was not taken over".to_owned();
            return self.refuse(now, RefuseCode::Digest, reason);
        }
        self.run = run;
        self.enter(now, DestinationPhase::Committing);
        // Written before the guest runs: a destination that dies in between answers "committed",
        // and nobody runs the guest. The other order could let both run it.
        self.actions.push_back(DestinationAction::Record(Fate::Committed));
    }

    pub(super) fn recorded(&mut self, now: Tick) {
        let _ = now;
        if self.phase == DestinationPhase::Committing {
            self.actions.push_back(DestinationAction::Resume { run: self.run });
        }
    }

    pub(super) fn resumed(&mut self, now: Tick) {
        if self.phase != DestinationPhase::Committing {
            return;
        }
        self.resume_took = now.since(self.commit_at);
        self.paused_took = self.paused_since.map_or(self.resume_took, |t| now.since(t));
        self.enter(now, DestinationPhase::Running);
        let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        self.send(Message::Committed {
            resume_nanos: nanos(self.resume_took),
            paused_nanos: nanos(self.paused_took),
        });
        self.answer_waiting(Fate::Committed);
        self.actions.push_back(DestinationAction::Finish);
    }

    /// Refuses, for good: the source may run the guest.
    pub(super) fn refuse(&mut self, now: Tick, code: RefuseCode, reason: String) {
        // Between Commit and the resume only a failed resume can still refuse.
        let committing = self.phase == DestinationPhase::Committing;
        if self.over() || (committing && code != RefuseCode::Resume) {
            return;
        }
        self.actions.clear();
        // Written down first, so that a destination that dies right after it has told the source
        // says the same when it comes back.
        if self.hello.is_some() {
            self.actions.push_back(DestinationAction::Record(Fate::NeverCommitted));
        }
        self.send(Message::Refuse { code, reason: reason.clone() });
        self.settle_refused(now, reason);
    }

    pub(super) fn source_aborted(&mut self, now: Tick, reason: &str) {
        if self.phase == DestinationPhase::Committing {
            return;
        }
        self.actions.clear();
        if self.hello.is_some() {
            self.actions.push_back(DestinationAction::Record(Fate::NeverCommitted));
        }
        self.settle_refused(now, reason.to_owned());
    }

    fn settle_refused(&mut self, now: Tick, reason: String) {
        self.failure = Some(reason);
        self.enter(now, DestinationPhase::Refused);
        self.answer_waiting(Fate::NeverCommitted);
        self.actions.push_back(DestinationAction::Finish);
    }

    fn answer_waiting(&mut self, fate: Fate) {
        if std::mem::take(&mut self.query_waits) {
            self.actions.push_back(DestinationAction::Answer(fate));
        }
    }

    /// Asking settles it: what has not committed by now never will.
    pub(super) fn queried(&mut self, now: Tick) {
        match self.phase {
            DestinationPhase::Running => {
                self.actions.push_back(DestinationAction::Answer(Fate::Committed));
            }
            DestinationPhase::Refused => {
                self.actions.push_back(DestinationAction::Answer(Fate::NeverCommitted));
            }
            DestinationPhase::Committing => self.query_waits = true,
            _ => {
                self.query_waits = true;
                let reason = "The source asked what became of its Commit, and none had come";
                self.refuse(now, RefuseCode::Settled, reason.to_owned());
            }
        }
    }

    pub(super) fn action_failed(&mut self, now: Tick, reason: String) {
        let code = match self.phase {
            DestinationPhase::Attaching => RefuseCode::Guest,
            DestinationPhase::Preparing => RefuseCode::State,
            DestinationPhase::Committing => RefuseCode::Resume,
            _ => RefuseCode::System,
        };
        self.refuse(now, code, reason);
    }

    pub(super) fn cancel(&mut self, now: Tick) {
        self.refuse(now, RefuseCode::Cancelled, "Cancelled at the destination".to_owned());
    }
}
