// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shared bitmap, one thread at a time, against a set.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn members(set: &DenseBitmap) -> BTreeSet<u64> {
    set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
}

#[test]
fn lengths_must_agree() {
    let ours = AtomicBitmap::new(65);
    ours.mark(PageIndex::new(64));
    let mut other = DenseBitmap::new(64);
    assert!(matches!(ours.harvest_into(&mut other), Err(HarvestError::Length(_))));
    assert!(ours.is_marked(PageIndex::new(64)), "a refused harvest takes nothing");
}

#[test]
fn an_empty_bitmap_is_harmless() {
    let none = AtomicBitmap::new(0);
    none.mark(PageIndex::new(0));
    none.mark_range(0, u64::MAX);
    assert_eq!(none.harvest_into(&mut DenseBitmap::new(0)).unwrap(), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Mark(u64),
    Range(u64, u64),
    Restore(BTreeSet<u64>),
    Peek(u64, u64),
    Harvest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..9000).prop_map(Step::Mark),
        2 => (0u64..9000, 0u64..9000).prop_map(|(a, b)| Step::Range(a, b)),
        1 => (0u64..9000).prop_map(|a| Step::Range(a, u64::MAX)),
        1 => prop::collection::btree_set(0u64..9000, 0..40).prop_map(Step::Restore),
        1 => (0u64..9000, 0u64..9000).prop_map(|(a, b)| Step::Peek(a, b)),
        2 => Just(Step::Harvest),
    ]
}

proptest! {
    /// Marks, restores, peeks and harvests agree with a set, also at an odd place of a larger
    /// bitmap and across more than one summary word.
    #[test]
    fn behaves_like_a_set(
        pages in prop_oneof![1u64..200, 4000u64..8400],
        first in 0u64..130,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let ours = AtomicBitmap::new(pages);
        let len = first + pages + 70;
        let mut model = BTreeSet::new();
        let at_first = |set: &BTreeSet<u64>| -> BTreeSet<u64> {
            set.iter().map(|p| p + first).collect()
        };
        for step in steps.into_iter().chain([Step::Harvest]) {
            match step {
                Step::Mark(page) => {
                    ours.mark(PageIndex::new(page));
                    model.extend((page < pages).then_some(page));
                }
                Step::Range(from, end) => {
                    ours.mark_range(from, end);
                    model.extend(from..end.min(pages));
                }
                Step::Restore(set) => {
                    let mut dense = DenseBitmap::new(len);
                    for page in set.iter().filter(|p| **p < len) {
                        dense.set(PageIndex::new(*page));
                    }
                    ours.mark_window(&dense, first);
                    model.extend(
                        set.iter().filter_map(|p| p.checked_sub(first)).filter(|p| *p < pages),
                    );
                }
                Step::Peek(from, end) => {
                    let mut seen = DenseBitmap::new(len);
                    ours.peek_at(PageRun::from_range(from..end.max(from)), &mut seen, first);
                    let inside: BTreeSet<u64> = at_first(&model)
                        .into_iter().filter(|p| (from..end).contains(p)).collect();
                    prop_assert_eq!(members(&seen), inside);
                }
                Step::Harvest => {
                    let mut seen = DenseBitmap::new(len);
                    let (count, _) = ours.harvest_at(&mut seen, first).unwrap();
                    prop_assert_eq!(count, model.len() as u64);
                    prop_assert_eq!(members(&seen), at_first(&model));
                    model.clear();
                }
            }
            for page in [0, pages / 2, pages - 1, pages, pages + 1] {
                prop_assert_eq!(ours.is_marked(PageIndex::new(page)), model.contains(&page));
            }
        }
    }
}
