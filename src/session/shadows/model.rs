// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a shadow's own page order would owe, fed with the acting strategy's harvests.
//!
//! The modelled sender sends whole pages over a link as fast as the one measured (as many pages
//! as the acting strategy does, until one was). An order in rounds takes its own harvest at the
//! first one of the acting strategy that finds its round over, and everything harvested since its
//! last counts into it; a continuous order takes each.

use std::time::Duration;

use super::Carried;
use crate::bitmap::DenseBitmap;
use crate::policy::order::PageOrder;
use crate::policy::{Moment, Observation};
use crate::session::shadow::ShadowSender;
use crate::units::Tick;

#[derive(Clone, Debug)]
pub(super) struct Model {
    continuous: bool,
    sender: Option<ShadowSender>,
    /// In rounds: what was harvested since the round's own harvest.
    pending: DenseBitmap,
    pending_pages: u64,
    /// Pages that the acting strategy had sent when the sender was last brought up to date.
    acting_pages: u64,
    /// Pages that were owed when the round or pass began, and were sent by then; and when.
    began: (u64, u64, Tick),
    /// The last complete round: pages and time.
    last_round: (u64, Duration),
    rounds_sent: u32,
    /// Never sent, at most.
    unsent_pages: u64,
    harvests: u32,
    harvest_at: Tick,
    /// Pages of its last harvest, and distinct pages a second in it.
    harvested: Option<(u64, Option<f64>)>,
    /// A round is under way: its end was not told yet.
    in_round: bool,
}

impl Model {
    pub(super) fn new(continuous: bool) -> Self {
        Self {
            continuous,
            sender: None,
            pending: DenseBitmap::new(0),
            pending_pages: 0,
            acting_pages: 0,
            began: (0, 0, Tick::ZERO),
            last_round: (0, Duration::ZERO),
            rounds_sent: 0,
            unsent_pages: 0,
            harvests: 0,
            harvest_at: Tick::ZERO,
            harvested: None,
            in_round: false,
        }
    }

    /// Everything populated is owed.
    pub(super) fn begin(&mut self, now: Tick, owed: &DenseBitmap, page_bytes: u64) {
        self.sender = Some(ShadowSender::new(now, owed.len(), page_bytes, None));
        self.pending = DenseBitmap::new(owed.len());
        self.harvest_at = now;
        self.unsent_pages = owed.count();
        self.add(owed);
        self.began = (self.unsent_pages, 0, now);
    }

    /// Owes more: at once, or from the next round on.
    pub(super) fn add(&mut self, set: &DenseBitmap) {
        match &mut self.sender {
            Some(sender) if self.continuous => sender.owe(set),
            _ => self.pending_pages += self.pending.or_counting(set).unwrap_or(0),
        }
    }

    /// All pages that the destination would lack.
    pub(super) fn known_pages(&self) -> u64 {
        let Some(sender) = &self.sender else { return self.pending_pages };
        // This is asked while the guest is paused: no copy of the sets.
        let owed = sender.owed();
        let both: u64 = self.pending.runs().map(|run| owed.count_run(run)).sum();
        sender.owed_pages() + self.pending_pages - both
    }

    /// Sends up to `now`.
    pub(super) fn advance(&mut self, now: Tick, link: Carried, order: &mut dyn PageOrder) {
        let Some(sender) = &mut self.sender else { return };
        let before = sender.sent_pages();
        match link.bandwidth_bytes_per_s {
            Some(bandwidth) => sender.carry(now, bandwidth, order),
            None => sender.follow(now, link.sent_pages - self.acting_pages, order),
        }
        self.acting_pages = link.sent_pages;
        self.unsent_pages = self.unsent_pages.saturating_sub(sender.sent_pages() - before);
        if self.continuous && sender.owed_pages() == 0 {
            self.unsent_pages = 0;
        }
    }

    /// The acting strategy harvested.
    pub(super) fn harvested(&mut self, began: Tick, set: &DenseBitmap) {
        self.add(set);
        self.harvests += 1;
        if self.continuous {
            self.note_harvest(began, set.count());
        }
    }

    fn note_harvest(&mut self, began: Tick, pages: u64) {
        let seconds = began.since(self.harvest_at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = (seconds > 0.0).then(|| pages as f64 / seconds);
        self.harvested = Some((pages, rate));
        self.harvest_at = began;
    }

    /// What the policy is shown where the acting one is shown `seen`: nothing to one more.
    pub(super) fn views(&mut self, seen: &Observation, link: Carried) -> ([Observation; 2], usize) {
        let mut views = [seen.clone(), seen.clone()];
        let Some(sender) = &self.sender else { return (views, 0) };
        let (over, now) = (sender.idle(), seen.now);
        let mut count = 0;
        if self.continuous {
            if seen.moment == Moment::Sent && self.sent_in_pass() >= self.began.0 {
                self.end_round(now);
                self.begin_round(now);
            }
            views[count] = self.view(seen, seen.moment, link);
            return (views, 1);
        }
        if over && self.in_round {
            self.in_round = false;
            self.unsent_pages = 0;
            self.end_round(now);
            views[count] = self.view(seen, Moment::Sent, link);
            count += 1;
        }
        match seen.moment {
            Moment::Harvested if over => {
                self.take_pending(now);
                views[count] = self.view(seen, Moment::Harvested, link);
                count += 1;
            }
            _ if !over => {
                views[count] = self.view(seen, Moment::Cadence, link);
                count += 1;
            }
            _ => {}
        }
        (views, count)
    }

    /// The harvest of a shadow in rounds.
    fn take_pending(&mut self, now: Tick) {
        let Some(sender) = &mut self.sender else { return };
        let first = self.harvests == 0;
        sender.owe(&self.pending);
        let pages = self.pending_pages;
        self.pending.clear_all();
        self.pending_pages = 0;
        if !first {
            self.note_harvest(now, pages);
        }
        self.begin_round(now);
        self.in_round = true;
    }

    fn sent_pages(&self) -> u64 {
        self.sender.as_ref().map_or(0, ShadowSender::sent_pages)
    }

    fn sent_in_pass(&self) -> u64 {
        self.sent_pages() - self.began.1
    }

    fn begin_round(&mut self, now: Tick) {
        let owed = self.sender.as_ref().map_or(0, ShadowSender::owed_pages);
        self.began = (owed, self.sent_pages(), now);
    }

    fn end_round(&mut self, now: Tick) {
        self.rounds_sent += 1;
        self.last_round = (self.sent_in_pass(), now.since(self.began.2));
    }

    fn view(&self, seen: &Observation, moment: Moment, link: Carried) -> Observation {
        let owed = self.sender.as_ref().map_or(0, ShadowSender::owed_pages);
        let sent = self.sent_pages();
        Observation {
            moment,
            rounds_sent: self.rounds_sent,
            harvests: if self.continuous { seen.harvests } else { self.rounds_sent },
            residual_pages: owed,
            unsent_pages: self.unsent_pages.min(owed),
            residual_wire_bytes: owed * link.page_wire_bytes,
            harvested_pages: self.harvested.map(|(pages, _)| pages),
            dirty_pages_per_s: self.harvested.and_then(|(_, rate)| rate),
            round_sent_pages: self.last_round.0,
            round_skipped_pages: 0,
            round_duration: self.last_round.1,
            sent_pages: sent,
            sent_wire_bytes: sent * link.page_wire_bytes,
            ..seen.clone()
        }
    }
}
