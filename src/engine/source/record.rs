// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collects the report of an attempt.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits;
use crate::report::{Decision, Downtime, RoundReport};
use crate::session::SessionEvent;
use crate::units::Tick;
use crate::wire::Message;

/// Rounds, decisions and the parts of the downtime.
#[derive(Debug, Default)]
pub(super) struct Record {
    rounds: VecDeque<RoundReport>,
    decisions: VecDeque<Decision>,
    downtime: Downtime,
    /// When the guest was told to pause.
    pub(super) pause_called: Option<Tick>,
    final_harvest_done: Option<Tick>,
    /// When Prepare was handed over: residual and state were out.
    prepared: Option<Tick>,
    ready: Option<Tick>,
    committed: Option<Tick>,
    /// Time that channels' threads spent on encoding, all together.
    pub(super) encoding: Duration,
    /// What went wrong after the outcome was decided.
    pub(super) cleanup: Vec<String>,
}

impl Record {
    pub(super) fn event(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Judged(decision) => {
                self.decisions.push_back((**decision).clone());
                if self.decisions.len() > limits::DECISIONS_MAX {
                    self.decisions.pop_front();
                }
            }
            SessionEvent::RoundDone(round) => self.round(round.clone()),
            SessionEvent::CleanupFailed { reason } => self.cleanup.push(reason.clone()),
            _ => {}
        }
    }

    fn round(&mut self, round: RoundReport) {
        self.rounds.push_back(round);
        if self.rounds.len() > limits::ROUND_REPORTS_MAX
            && let (Some(oldest), Some(next)) = (self.rounds.pop_front(), self.rounds.front_mut())
        {
            fold(&oldest, next);
        }
    }

    /// A round that did not end: an attempt that failed was in it.
    pub(super) fn unfinished(&mut self, round: &RoundReport) {
        if self.rounds.back().is_none_or(|last| last.round < round.round) && round.sent_pages > 0 {
            self.round(round.clone());
        }
    }

    pub(super) fn paused(&mut self, began: Tick, now: Tick) {
        self.downtime.pause = now.since(began);
    }

    pub(super) fn final_harvest(&mut self, began: Tick, now: Tick) {
        self.downtime.final_harvest = now.since(began);
        self.final_harvest_done = Some(now);
    }

    pub(super) fn state_exported(&mut self, began: Tick, now: Tick) {
        self.downtime.state = now.since(began);
    }

    /// A message is handed over to a channel.
    pub(super) fn sending(&mut self, now: Tick, message: &Message) {
        if let (Message::Prepare { .. }, Some(harvested)) = (message, self.final_harvest_done) {
            // The state was exported beside the residual: time is counted once.
            self.downtime.residual = now.since(harvested).saturating_sub(self.downtime.state);
            self.prepared = Some(now);
        }
    }

    /// A message came.
    pub(super) fn received(&mut self, now: Tick, message: &Message) {
        match message {
            Message::Ready { import_nanos, digest_nanos, .. } => {
                self.downtime.destination_import = Duration::from_nanos(*import_nanos);
                self.downtime.destination_digest = Duration::from_nanos(*digest_nanos);
                self.ready.get_or_insert(now);
            }
            Message::Committed { resume_nanos, paused_nanos } => {
                self.downtime.destination_resume = Duration::from_nanos(*resume_nanos);
                self.downtime.destination_total = Duration::from_nanos(*paused_nanos);
                self.committed.get_or_insert(now);
            }
            _ => {}
        }
    }

    /// When Commit was taken, the wait for Ready and for this side's digest was over.
    pub(super) fn committing(&mut self, now: Tick) {
        self.downtime.prepare = self.prepared.map_or(Duration::ZERO, |at| now.since(at));
        self.ready = Some(now);
    }

    /// The parts, once the guest was told to pause. `end`: it ran again here, or the outcome was
    /// decided.
    pub(super) fn finish(self, end: Tick) -> (Vec<RoundReport>, Vec<Decision>, Option<Downtime>) {
        let mut downtime = self.downtime;
        if let Some(committed) = self.committed {
            downtime.commit = self.ready.map_or(Duration::ZERO, |at| committed.since(at));
        }
        let downtime = self.pause_called.map(|began| {
            downtime.source_total = self.committed.unwrap_or(end).since(began);
            downtime
        });
        (self.rounds.into(), self.decisions.into(), downtime)
    }
}

/// Adds an older round to the one after it, when there are too many to keep.
fn fold(older: &RoundReport, into: &mut RoundReport) {
    into.started = older.started;
    into.harvested_pages += older.harvested_pages;
    into.harvest_duration += older.harvest_duration;
    into.sent_pages += older.sent_pages;
    into.zero_pages += older.zero_pages;
    into.delta.add(older.delta);
    into.skipped_pages += older.skipped_pages;
    into.wire_bytes += older.wire_bytes;
    into.duration += older.duration;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_past_the_limit_are_folded_and_none_is_lost() {
        let mut record = Record::default();
        let rounds = u32::try_from(limits::ROUND_REPORTS_MAX).unwrap() + 50;
        for round in 0..rounds {
            record.event(&SessionEvent::RoundDone(RoundReport {
                round,
                sent_pages: 2,
                ..RoundReport::default()
            }));
        }
        let (kept, _, downtime) = record.finish(Tick::ZERO);
        assert_eq!(kept.len(), limits::ROUND_REPORTS_MAX);
        assert_eq!(kept.iter().map(|r| r.sent_pages).sum::<u64>(), 2 * u64::from(rounds));
        assert_eq!(kept.last().unwrap().round, rounds - 1);
        assert_eq!(downtime, None);
    }
}
