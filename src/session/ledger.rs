// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages the destination does not hold.
//!
//! A page is in exactly one of three states as far as the source knows: *owed* (must be sent),
//! *in flight* (handed to a channel in this round, not acknowledged) or settled. A fourth set
//! holds what a round leaves out on purpose (dirty again already); it is owed again at the
//! round's end. Beside these the ledger remembers every page that was harvested in this attempt,
//! because a failed attempt must give all of them back (R5).

use crate::bitmap::{DenseBitmap, LengthMismatch};
use crate::units::{PageIndex, PageRun};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ledger {
    owed: DenseBitmap,
    owed_pages: u64,
    in_flight: DenseBitmap,
    in_flight_pages: u64,
    skipped: DenseBitmap,
    skipped_pages: u64,
    harvested: DenseBitmap,
    /// Pages owed from the start that were never handed to a channel; `None` while these are all
    /// that are owed, or there are none any more.
    unsent: Option<DenseBitmap>,
    unsent_pages: u64,
}

impl Ledger {
    pub(crate) fn new(pages: u64) -> Self {
        // Fresh ones, not copies: fresh ones are not touched.
        let empty = || DenseBitmap::new(pages);
        Self {
            owed: empty(),
            owed_pages: 0,
            in_flight: empty(),
            in_flight_pages: 0,
            skipped: empty(),
            skipped_pages: 0,
            harvested: empty(),
            unsent: None,
            unsent_pages: 0,
        }
    }

    /// Pages owed and not yet handed to a channel.
    pub(crate) fn owed_pages(&self) -> u64 {
        self.owed_pages + self.skipped_pages
    }

    pub(crate) fn skipped_pages(&self) -> u64 {
        self.skipped_pages
    }

    /// Everything that was taken out of the tracker's record in this attempt.
    pub(crate) fn harvested(&self) -> &DenseBitmap {
        &self.harvested
    }

    /// Pages of the first round that no channel was given yet.
    pub(crate) fn unsent_pages(&self) -> u64 {
        self.unsent_pages
    }

    /// Owes the populated pages of the first round. They are no harvest: nothing to give back.
    pub(crate) fn owe_populated(&mut self, set: &DenseBitmap) -> Result<(), LengthMismatch> {
        if self.owed_pages() == 0 {
            self.owe(set)?;
            self.unsent_pages = self.owed_pages;
            return Ok(());
        }
        self.tell_unsent();
        let unsent = self.unsent.get_or_insert_with(|| DenseBitmap::new(self.owed.len()));
        self.unsent_pages += unsent.or_counting(set)?;
        self.owe(set)
    }

    /// From here on pages may be owed that were sent before.
    fn tell_unsent(&mut self) {
        if self.unsent_pages > 0 && self.unsent.is_none() {
            let mut unsent = self.owed.clone();
            merge(&mut unsent, &self.skipped);
            self.unsent = Some(unsent);
        }
    }

    /// Owes what a harvest reported. Returns how many pages that is.
    pub(crate) fn owe_harvested(&mut self, set: &DenseBitmap) -> Result<u64, LengthMismatch> {
        LengthMismatch::check(self.owed.len(), set.len())?;
        self.tell_unsent();
        let mut pages = 0;
        // Once through the set: a round may be over in a millisecond.
        for (at, words) in set.blocks() {
            self.harvested.or_block(at, words);
            self.owed_pages += self.owed.or_block(at, words);
            pages += DenseBitmap::count_words(words);
        }
        Ok(pages)
    }

    /// A harvest before the first round: nothing is owed for it yet, but a failed attempt must
    /// give it back.
    pub(crate) fn note_harvested(&mut self, set: &DenseBitmap) -> Result<(), LengthMismatch> {
        self.harvested.or_with(set)
    }

    fn owe(&mut self, set: &DenseBitmap) -> Result<(), LengthMismatch> {
        self.owed_pages += self.owed.or_counting(set)?;
        Ok(())
    }

    /// Runs that are about to be re-armed: a failed attempt must give them back, harvested or not.
    pub(crate) fn note_rearmed(&mut self, runs: &[PageRun]) {
        runs.iter().for_each(|run| self.harvested.set_run(*run));
    }

    /// A harvest failed half way: any page may have been taken out of the tracker's record, so a
    /// failed attempt must give back all of them.
    pub(crate) fn distrust_record(&mut self) {
        self.harvested = DenseBitmap::full(self.harvested.len());
    }

    /// The first page at or after `from` that is owed and not set aside.
    pub(crate) fn next_owed(&self, from: PageIndex) -> Option<PageIndex> {
        if self.owed_pages == 0 { None } else { self.owed.next_set(from) }
    }

    /// The runs of owed pages.
    pub(crate) fn owed(&self) -> &DenseBitmap {
        &self.owed
    }

    /// Moves up to `pages_max` owed pages in `window`, in at most `runs_max` runs, to in flight,
    /// and appends their runs to `into`. Returns where to go on.
    pub(crate) fn take(
        &mut self,
        window: PageRun,
        pages_max: u64,
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) -> PageIndex {
        let (mut at, mut room) = (window.start(), pages_max);
        while room > 0 && into.len() < runs_max {
            let Some(run) = self.owed.next_run(at, room).filter(|r| r.start() < window.end())
            else {
                at = window.end();
                break;
            };
            let (run, _) = run.split_at(window.end() - run.start());
            self.hand_over(run);
            room -= run.pages();
            at = run.end();
            into.push(run);
        }
        // All that was owed up to there.
        self.owed.clear_run(PageRun::from_range(window.start().get()..at.get()));
        at
    }

    /// A run of owed pages goes in flight; the caller takes it out of those.
    fn hand_over(&mut self, run: PageRun) {
        self.in_flight.set_run(run);
        self.owed_pages -= run.pages();
        self.in_flight_pages += run.pages();
        if self.unsent_pages > 0 {
            self.unsent_pages -= match &mut self.unsent {
                None => run.pages(),
                Some(unsent) => {
                    let pages = unsent.count_run(run);
                    unsent.clear_run(run);
                    pages
                }
            };
            if self.unsent_pages == 0 {
                self.unsent = None;
            }
        }
    }

    /// Moves those pages of `picked`, in any order, that are owed to in flight, and appends their
    /// runs to `into`, ascending, disjoint, at most `runs_max` of them.
    pub(crate) fn take_picked(
        &mut self,
        picked: &mut [PageRun],
        runs_max: usize,
        into: &mut Vec<PageRun>,
    ) {
        picked.sort_unstable();
        let all = self.owed.len();
        for run in picked.iter().filter(|run| run.start().get() < all) {
            let (mut at, end) = (run.start(), run.end().get().min(all));
            while into.len() < runs_max
                && let Some(owed) = next_run_in(&self.owed, at, PageIndex::new(end))
            {
                self.owed.clear_run(owed);
                self.hand_over(owed);
                at = owed.end();
                match into.last_mut().filter(|last| last.end() == owed.start()) {
                    Some(last) => *last = PageRun::from_range(last.start().get()..at.get()),
                    None => into.push(owed),
                }
            }
        }
    }

    /// Sets aside the owed pages of `window` that are also in `dirty`, until the round ends. Looks
    /// at nothing outside the window: a round peeks many times.
    pub(crate) fn skip(
        &mut self,
        window: PageRun,
        dirty: &DenseBitmap,
    ) -> Result<(), LengthMismatch> {
        LengthMismatch::check(self.owed.len(), dirty.len())?;
        let mut at = window.start();
        while let Some(again) = next_run_in(dirty, at, window.end()) {
            at = again.start();
            while let Some(run) = next_run_in(&self.owed, at, again.end()) {
                self.skipped_pages += run.pages() - self.skipped.count_run(run);
                self.owed_pages -= run.pages();
                self.owed.clear_run(run);
                self.skipped.set_run(run);
                at = run.end();
            }
            at = again.end();
        }
        Ok(())
    }

    /// The round was acknowledged: in flight is settled, skipped is owed again.
    pub(crate) fn settle_round(&mut self) {
        if self.in_flight_pages > 0 {
            self.in_flight.clear_all();
            self.in_flight_pages = 0;
        }
        self.unskip();
    }

    /// The attempt failed: whatever was not acknowledged is owed again.
    pub(crate) fn take_back(&mut self) {
        if self.in_flight_pages > 0 {
            self.tell_unsent();
            merge(&mut self.owed, &self.in_flight);
            self.in_flight.clear_all();
            self.in_flight_pages = 0;
        }
        self.unskip();
        self.owed_pages = self.owed.count();
    }

    fn unskip(&mut self) {
        if self.skipped_pages > 0 {
            merge(&mut self.owed, &self.skipped);
            self.skipped.clear_all();
            self.skipped_pages = 0;
            self.owed_pages = self.owed.count();
        }
    }
}

/// The next run of set pages from `at`, cut at `end`.
fn next_run_in(set: &DenseBitmap, at: PageIndex, end: PageIndex) -> Option<PageRun> {
    let room = end.get().checked_sub(at.get()).filter(|room| *room > 0)?;
    let run = set.next_run(at, room).filter(|run| run.start() < end)?;
    Some(run.split_at(end - run.start()).0)
}

/// ORs two of the ledger's own sets, which have one length by construction.
fn merge(into: &mut DenseBitmap, from: &DenseBitmap) {
    let merged = into.or_with(from);
    debug_assert!(merged.is_ok(), "the ledger's sets have one length");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set_of(pages: impl IntoIterator<Item = u64>) -> DenseBitmap {
        let mut set = DenseBitmap::new(200);
        pages.into_iter().for_each(|p| set.set(PageIndex::new(p)));
        set
    }

    #[derive(Clone, Debug)]
    enum Step {
        Harvest(Vec<u64>),
        Take(u64, usize),
        Pick(Vec<(u64, u64)>, usize),
        Skip(u64, u64, Vec<u64>),
        Settle,
        TakeBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = || prop::collection::vec(0u64..200, 0..40);
        prop_oneof![
            pages().prop_map(Step::Harvest),
            (1u64..50, 1usize..8).prop_map(|(p, r)| Step::Take(p, r)),
            (prop::collection::vec((0u64..190, 0u64..10), 0..8), 1usize..8)
                .prop_map(|(runs, most)| Step::Pick(runs, most)),
            (0u64..200, 0u64..200, pages()).prop_map(|(a, b, p)| Step::Skip(a, a.max(b), p)),
            Just(Step::Settle),
            Just(Step::TakeBack),
        ]
    }

    proptest! {
        /// No page is ever forgotten: owed, in flight and skipped follow a model of three sets.
        #[test]
        fn follows_the_model(
            populated in prop::collection::btree_set(0u64..200, 0..100),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut ledger = Ledger::new(200);
            ledger.owe_populated(&set_of(populated.iter().copied())).unwrap();
            let (mut unsent, mut owed) = (populated.clone(), populated);
            let (mut flying, mut skipped, mut ever) =
                (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Harvest(pages) => {
                        ledger.owe_harvested(&set_of(pages.clone())).unwrap();
                        owed.extend(pages.iter().copied());
                        ever.extend(pages);
                    }
                    Step::Take(pages, runs) => {
                        let mut into = Vec::new();
                        ledger.take(PageRun::from_range(0..200), pages, runs, &mut into);
                        prop_assert!(into.len() <= runs);
                        let taken: Vec<u64> =
                            into.iter().flat_map(|r| r.iter().map(PageIndex::get)).collect();
                        prop_assert!(taken.len() as u64 <= pages);
                        prop_assert!(owed.is_empty() || !taken.is_empty());
                        for page in taken {
                            prop_assert!(owed.remove(&page));
                            unsent.remove(&page);
                            flying.insert(page);
                        }
                    }
                    Step::Pick(runs, most) => {
                        let run = |&(start, pages)| PageRun::new(PageIndex::new(start), pages);
                        let mut picked: Vec<PageRun> = runs.iter().map(run).collect();
                        let mut into = Vec::new();
                        ledger.take_picked(&mut picked, most, &mut into);
                        prop_assert!(into.len() <= most);
                        prop_assert!(into.is_sorted_by(|a, b| a.end() < b.start()));
                        let room = into.len() < most;
                        for page in into.iter().flat_map(|r| r.iter().map(PageIndex::get)) {
                            prop_assert!(picked.iter().any(|r| r.iter().any(|p| p.get() == page)));
                            prop_assert!(owed.remove(&page));
                            unsent.remove(&page);
                            flying.insert(page);
                        }
                        let left = picked.iter().flat_map(|r| r.iter()).map(PageIndex::get);
                        prop_assert!(!room || left.into_iter().all(|page| !owed.contains(&page)));
                    }
                    Step::Skip(from, to, pages) => {
                        let window = PageRun::from_range(from..to);
                        ledger.skip(window, &set_of(pages.clone())).unwrap();
                        for page in pages {
                            if (from..to).contains(&page) && owed.remove(&page) {
                                skipped.insert(page);
                            }
                        }
                    }
                    Step::Settle => {
                        ledger.settle_round();
                        flying.clear();
                        owed.append(&mut skipped);
                    }
                    Step::TakeBack => {
                        ledger.take_back();
                        owed.append(&mut flying);
                        owed.append(&mut skipped);
                    }
                }
                prop_assert_eq!(ledger.owed_pages(), (owed.len() + skipped.len()) as u64);
                prop_assert_eq!(ledger.unsent_pages(), unsent.len() as u64);
                prop_assert_eq!(ledger.owed(), &set_of(owed.iter().copied()));
                prop_assert_eq!(&ledger.in_flight, &set_of(flying.iter().copied()));
                prop_assert_eq!(ledger.harvested(), &set_of(ever.iter().copied()));
            }
        }
    }

    #[test]
    fn a_short_harvest_is_refused() {
        let mut ledger = Ledger::new(200);
        assert!(ledger.owe_harvested(&DenseBitmap::full(199)).is_err());
    }
}
