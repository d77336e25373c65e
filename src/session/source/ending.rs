// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How an attempt ends: handed over, given up, or in doubt.

use super::{Failure, SessionEvent, SourceAction, SourcePhase, SourceSession};
use crate::report::Outcome;
use crate::units::{ChannelId, Throttle, Tick};
use crate::wire::{AbortCode, Message, RefuseCode};

impl SourceSession {
    /// Whether Commit was tried.
    fn tried_commit(&self) -> bool {
        matches!(self.phase, SourcePhase::Committing | SourcePhase::Asking)
    }

    /// Gives the attempt up, before Commit only: the guest goes on here.
    pub(super) fn fail(&mut self, now: Tick, code: AbortCode, reason: String) {
        debug_assert!(!self.tried_commit(), "after Commit only the destination decides");
        // If channel 0 is what broke, the driver cannot send this, and need not.
        let abort = Message::Abort { code, reason: reason.clone() };
        self.back_to_source(now, reason, Some(abort));
    }

    /// Something went wrong: before Commit the attempt is given up, after it the destination is
    /// asked.
    pub(super) fn fail_or_doubt(&mut self, now: Tick, code: AbortCode, reason: String) {
        match self.phase {
            SourcePhase::Committing => self.doubt(now, &reason),
            SourcePhase::Asking => {}
            _ => self.fail(now, code, reason),
        }
    }

    /// The guest keeps running at the source: resume first, tell and tidy up afterwards.
    fn back_to_source(&mut self, now: Tick, reason: String, farewell: Option<Message>) {
        self.actions.clear();
        if self.paused && self.was_running {
            self.actions.push_back(SourceAction::Resume);
        }
        if let Some(message) = farewell {
            self.send(message);
        }
        self.set_throttle(Throttle::NONE);
        self.failure = Some(Failure { reason });
        self.give_back_tracking();
        self.end(now, Outcome::SourceKeepsRunning);
    }

    fn give_back_tracking(&mut self) {
        self.ledger.take_back();
        if self.armed {
            self.actions.push_back(SourceAction::Restore);
            self.actions.push_back(SourceAction::Disarm);
        }
    }

    fn end(&mut self, now: Tick, outcome: Outcome) {
        self.outcome = Some(outcome);
        self.meter.finish(now.since(self.started));
        self.actions.push_back(SourceAction::Finish(outcome));
        self.enter(now, SourcePhase::Ended);
        let failure = self.failure.as_ref().map(|f| f.reason.clone());
        self.events.push_back(SessionEvent::Ended { at: now, outcome, failure });
    }

    /// The destination refused. That is its promise never to run this guest, at any time.
    pub(super) fn refused(&mut self, now: Tick, code: RefuseCode, reason: &str) {
        let reason = format!("The destination refused ({code:?}): {reason}");
        self.back_to_source(now, reason, None);
    }

    pub(super) fn committed(&mut self, now: Tick) {
        if self.phase == SourcePhase::Committing || self.phase == SourcePhase::Asking {
            self.committed_for_sure(now);
        } else {
            self.breach(now, &format!("Committed in {:?}", self.phase));
        }
    }

    pub(super) fn committed_for_sure(&mut self, now: Tick) {
        self.failure = None;
        self.actions.clear();
        self.actions.push_back(SourceAction::Disarm);
        self.end(now, Outcome::HandedOver);
    }

    pub(super) fn never_committed(&mut self, now: Tick) {
        let cause = self.failure.take().map_or_else(String::new, |f| f.reason);
        let reason = format!("{cause}; the destination says that it never took the guest over");
        self.back_to_source(now, reason, None);
    }

    /// No answer to Commit can come any more on this connection: ask on another.
    pub(super) fn doubt(&mut self, now: Tick, reason: &str) {
        if self.phase == SourcePhase::Committing {
            self.failure = Some(Failure { reason: reason.to_owned() });
            self.enter(now, SourcePhase::Asking);
            self.ask(now);
        }
    }

    pub(super) fn ask(&mut self, now: Tick) {
        let _ = now;
        self.ask_at = None;
        if self.phase == SourcePhase::Asking && !self.asking {
            self.asking = true;
            self.actions.push_back(SourceAction::Ask);
        }
    }

    pub(super) fn give_up_asking(&mut self, now: Tick) {
        let cause = self.failure.take().map_or_else(String::new, |f| f.reason);
        let reason = format!(
            "{cause}; Commit was tried, and the destination did not say what became of it. The \
             guest stays paused here. Ask the destination; run it here only if it never \
             committed migration {}",
            self.config.migration_id
        );
        self.failure = Some(Failure { reason });
        self.give_back_tracking();
        self.end(now, Outcome::InDoubt);
    }

    pub(super) fn lost(&mut self, now: Tick, channel: ChannelId, reason: &str) {
        // After Commit only channel 0 has anything left to say.
        if self.tried_commit() && channel != ChannelId::CONTROL {
            return;
        }
        let reason = format!("Lost {channel} to the destination: {reason}");
        self.fail_or_doubt(now, AbortCode::Lost, reason);
    }

    pub(super) fn action_failed(&mut self, now: Tick, reason: &str) {
        // A pause that failed may have stopped some vCPUs already.
        self.paused |= self.phase == SourcePhase::Pausing;
        // Some pages may have been cleared before it failed.
        if matches!(
            self.phase,
            SourcePhase::Preflight | SourcePhase::Harvesting | SourcePhase::FinalHarvest
        ) {
            self.ledger.distrust_record();
        }
        self.fail_or_doubt(now, AbortCode::Source, reason.to_owned());
    }

    pub(super) fn cancel(&mut self, now: Tick) {
        if self.tried_commit() {
            self.events.push_back(SessionEvent::CancelTooLate { at: now });
        } else {
            self.fail(now, AbortCode::Cancelled, "Cancelled".to_owned());
        }
    }
}
