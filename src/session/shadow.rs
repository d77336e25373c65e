// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sender that sends nothing: what a page order would owe by now over a link as expected.

use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::policy::order::PageOrder;
use crate::units::{PageIndex, PageRun, Tick};
use crate::wire::ENTRY_BYTES;

/// A modelled sender. Everything counts as sent once when it begins.
#[derive(Clone, Debug)]
pub(crate) struct ShadowSender {
    owed: DenseBitmap,
    owed_pages: u64,
    bandwidth_bytes_per_s: Option<u64>,
    page_bytes: u64,
    /// What the link has carried by now, and was not used yet, in bytes.
    credit_bytes: f64,
    at: Tick,
    /// Pages that follow by address in an order that does not pick.
    cursor: PageIndex,
    sent_pages: u64,
    /// The order had nothing more to hand out, although pages were owed.
    dry: bool,
}

impl ShadowSender {
    pub(crate) fn new(
        now: Tick,
        pages: u64,
        page_bytes: u64,
        bandwidth_bytes_per_s: Option<u64>,
    ) -> Self {
        Self {
            owed: DenseBitmap::new(pages),
            owed_pages: 0,
            bandwidth_bytes_per_s,
            page_bytes: page_bytes + ENTRY_BYTES as u64,
            credit_bytes: 0.0,
            at: now,
            cursor: PageIndex::new(0),
            sent_pages: 0,
            dry: false,
        }
    }

    pub(crate) fn owed_pages(&self) -> u64 {
        self.owed_pages
    }

    pub(crate) fn owed(&self) -> &DenseBitmap {
        &self.owed
    }

    /// Pages sent since the beginning.
    pub(crate) fn sent_pages(&self) -> u64 {
        self.sent_pages
    }

    /// Whether nothing more is sent before something is owed again.
    pub(crate) fn idle(&self) -> bool {
        self.dry || self.owed_pages == 0
    }

    /// Owes what a harvest reported, of as many pages as the guest has.
    pub(crate) fn owe(&mut self, set: &DenseBitmap) {
        self.owed_pages += self.owed.or_counting(set).unwrap_or(0);
        self.cursor = PageIndex::new(0);
        self.dry = false;
    }

    /// Sends as much as the link carries up to `now`, in the given order. `false` if the link is
    /// not known.
    pub(crate) fn send(&mut self, now: Tick, order: &mut dyn PageOrder) -> bool {
        let Some(bandwidth) = self.bandwidth_bytes_per_s else { return false };
        #[expect(clippy::cast_precision_loss, reason = "a model of a link")]
        self.carry(now, bandwidth as f64, order);
        true
    }

    /// Sends what a link of `bandwidth_bytes_per_s` carries up to `now`.
    pub(crate) fn carry(
        &mut self,
        now: Tick,
        bandwidth_bytes_per_s: f64,
        order: &mut dyn PageOrder,
    ) {
        self.credit_bytes += bandwidth_bytes_per_s * now.since(self.at).as_secs_f64();
        self.at = now;
        self.spend(order);
    }

    /// Sends as many pages as another sender did up to `now`.
    pub(crate) fn follow(&mut self, now: Tick, pages: u64, order: &mut dyn PageOrder) {
        #[expect(clippy::cast_precision_loss, reason = "a model of a link")]
        let bytes = (pages * self.page_bytes) as f64;
        self.credit_bytes += bytes;
        self.at = now;
        self.spend(order);
    }

    /// Uses up the credit.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a model of a link"
    )]
    fn spend(&mut self, order: &mut dyn PageOrder) {
        let mut room = (self.credit_bytes / self.page_bytes as f64) as u64;
        let mut picked = Vec::new();
        while room > 0 && self.owed_pages > 0 {
            picked.clear();
            let most = room.min(u64::from(limits::FRAME_PAGES_MAX));
            if order.picks() {
                let runs_max = limits::FRAME_ENTRIES_MAX as usize;
                order.pick(&self.owed, most, runs_max, &mut picked);
            } else {
                picked.extend(self.owed.next_run(self.cursor, most));
                self.cursor = picked.first().map_or(self.cursor, |run| run.end());
            }
            let sent = self.take(&picked);
            if sent == 0 {
                self.dry = picked.is_empty();
                break;
            }
            room = room.saturating_sub(sent);
            self.credit_bytes -= (sent * self.page_bytes) as f64;
        }
        // A link that had nothing to send carries nothing over.
        if self.idle() {
            self.credit_bytes = 0.0;
        }
    }

    fn take(&mut self, picked: &[PageRun]) -> u64 {
        let (mut sent, pages) = (0, self.owed.len());
        for run in picked.iter().filter(|run| run.end().get() <= pages) {
            sent += self.owed.count_run(*run);
            self.owed.clear_run(*run);
        }
        self.owed_pages -= sent;
        self.sent_pages += sent;
        sent
    }
}
