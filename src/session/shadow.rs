// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A sender that sends nothing: what a page order would owe by now over a link as expected.

use crate::bitmap::DenseBitmap;
use crate::limits;
use crate::policy::order::PageOrder;
use crate::units::{PageIndex, PageRun, Tick};

/// Wire overhead of one page: one frame entry.
const ENTRY_BYTES: u64 = 24;

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
            page_bytes: page_bytes + ENTRY_BYTES,
            credit_bytes: 0.0,
            at: now,
        }
    }

    pub(crate) fn owed_pages(&self) -> u64 {
        self.owed_pages
    }

    /// Owes what a harvest reported, of as many pages as the guest has.
    pub(crate) fn owe(&mut self, set: &DenseBitmap) {
        self.owed_pages += self.owed.or_counting(set).unwrap_or(0);
    }

    /// Sends as much as the link carries up to `now`, in the given order. `false` if the link is
    /// not known.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a model of a link"
    )]
    pub(crate) fn send(&mut self, now: Tick, order: &mut dyn PageOrder) -> bool {
        let Some(bandwidth) = self.bandwidth_bytes_per_s else { return false };
        self.credit_bytes += bandwidth as f64 * now.since(self.at).as_secs_f64();
        self.at = now;
        let mut room = (self.credit_bytes / self.page_bytes as f64) as u64;
        let mut picked = Vec::new();
        while room > 0 && self.owed_pages > 0 {
            picked.clear();
            let most = room.min(u64::from(limits::FRAME_PAGES_MAX));
            if order.picks() {
                let runs_max = limits::FRAME_ENTRIES_MAX as usize;
                order.pick(&self.owed, most, runs_max, &mut picked);
            } else {
                picked.extend(self.owed.next_run(PageIndex::new(0), most));
            }
            let sent = self.take(&picked);
            if sent == 0 {
                break;
            }
            room = room.saturating_sub(sent);
            self.credit_bytes -= (sent * self.page_bytes) as f64;
        }
        // A link that had nothing to send carries nothing over.
        if self.owed_pages == 0 {
            self.credit_bytes = 0.0;
        }
        true
    }

    fn take(&mut self, picked: &[PageRun]) -> u64 {
        let (mut sent, pages) = (0, self.owed.len());
        for run in picked.iter().filter(|run| run.end().get() <= pages) {
            sent += self.owed.count_run(*run);
            self.owed.clear_run(*run);
        }
        self.owed_pages -= sent;
        sent
    }
}
