// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clearing the record of pages that are about to be read.

use std::collections::BTreeSet;

use super::Ground;
use crate::units::PageRun;

/// What is cleared is not reported, unless it is written again; what is not cleared is.
pub(super) fn clear(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    let pages = on.pages();
    let (from, middle, to) = (pages / 3, pages / 2, pages - pages / 4);
    let written: BTreeSet<u64> = (0..pages).filter(|p| p % 5 != 2).collect();
    let runs = [from..middle, (middle + 1).min(to)..to].map(PageRun::from_range);
    let is_cleared = |page: u64| (from..to).contains(&page) && page != middle;
    for round in 0..2 {
        written.iter().for_each(|page| on.write(*page, round));
        on.tracker.clear(&runs).unwrap_or_else(|e| panic!("{}: {e}", on.name));
        on.tracker.clear(&[]).unwrap_or_else(|e| panic!("{}: {e}", on.name));
        if on.traits.clears {
            on.expect(&written.iter().copied().filter(|page| !is_cleared(*page)).collect());
        } else {
            let seen = on.harvest();
            let lost = written.iter().find(|page| !is_cleared(**page) && !seen.contains(page));
            assert!(lost.is_none(), "{}: {lost:?} was not cleared, and not reported", on.name);
        }
        // A cleared page is tracked as ever, and clearing clean pages does no harm.
        on.tracker.clear(&runs).unwrap_or_else(|e| panic!("{}: {e}", on.name));
        let again = BTreeSet::from([0, from, middle, to - 1]);
        again.iter().for_each(|page| on.write(*page, 7));
        on.expect(&again);
    }
}
