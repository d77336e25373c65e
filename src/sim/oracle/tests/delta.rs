// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! O4 against every schedule of small worlds, and against O1.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::bitmap::DenseBitmap;
use crate::sim::Rng;
use crate::sim::oracle::{Clairvoyant, DeltaOracle, DeltaShare, Release};
use crate::trace::{PageContent, TraceTick};
use crate::units::{PageIndex, PageRun, PageSize, Tick};

const PAGE_BYTES: u16 = 4096;

fn one(page: u64) -> PageRun {
    PageRun::new(PageIndex::new(page), 1)
}

fn oracle(pages: u64, share: f64) -> DeltaOracle {
    let share = DeltaShare(share);
    DeltaOracle::new(pages, PageSize::BASE, None, share, Release::TickEnd).unwrap()
}

/// Writes in a slot: the page, and its delta in sixteenths of a page.
type Slot = (u32, Vec<(u64, u8)>);

fn tick(number: usize, written: &[(u64, u8)]) -> TraceTick {
    let mut set = DenseBitmap::new(64);
    written.iter().for_each(|(page, _)| set.set(PageIndex::new(*page)));
    let mut tick = TraceTick::new(Tick::from_nanos(number as u64 + 1), set.runs().collect());
    let delta = |d: u8| PageContent::Delta(u16::from(d) * (PAGE_BYTES / 16));
    tick.content = written.iter().map(|(page, d)| (one(*page), delta(*d))).collect();
    tick
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Nowhere,
    Older,
    Same,
}

/// The least sixteenths of a page left after all slots, by trying every order of sends.
fn search(pages: usize, slots: &[Slot]) -> u32 {
    let mut states = BTreeSet::from([vec![At::Nowhere; pages]]);
    let mut deltas = vec![0u8; pages];
    for (sends, written) in slots {
        for _ in 0..*sends {
            let sent = states.iter().flat_map(|state| {
                (0..pages).map(|page| {
                    let mut state = state.clone();
                    state[page] = At::Same;
                    state
                })
            });
            states = sent.chain(states.iter().cloned()).collect();
        }
        let written_states = states.into_iter().map(|mut state| {
            for (page, _) in written {
                let page = *page as usize;
                state[page] = state[page].min(At::Older);
            }
            state
        });
        states = written_states.collect();
        written.iter().for_each(|(page, delta)| deltas[*page as usize] = *delta);
    }
    let left = |state: &Vec<At>| {
        let left = state.iter().zip(&deltas).map(|(at, delta)| match at {
            At::Nowhere => 16,
            At::Older => u32::from(*delta),
            At::Same => 0,
        });
        left.sum()
    };
    states.iter().map(left).min().unwrap()
}

#[test]
fn no_schedule_of_a_small_world_leaves_less_with_deltas() {
    let mut rng = Rng::new(3);
    let (mut left, mut below_full) = (0, 0);
    for case in 0..4000 {
        let pages = 1 + rng.below(5) as usize;
        let density = rng.unit();
        let slots: Vec<Slot> = (0..=rng.below(6))
            .map(|_| {
                let written =
                    (0..pages as u64).filter(|_| rng.unit() < density).collect::<Vec<_>>();
                let sends = rng.below(3) as u32;
                (sends, written.into_iter().map(|page| (page, rng.below(17) as u8)).collect())
            })
            .collect();
        let mut oracle = oracle(pages as u64, 1.0);
        let mut carried = 0;
        for (number, (sends, written)) in slots.iter().enumerate() {
            carried += sends;
            oracle.tick(f64::from(carried), &tick(number, written)).unwrap();
        }
        let (found, told) = (search(pages, &slots), oracle.residual_pages());
        assert!(
            (f64::from(found) / 16.0 - told).abs() < 1e-9,
            "case {case}: {slots:?}: found {found}/16, told {told}"
        );
        left += u32::from(found > 0);
        below_full += u32::from(found % 16 != 0);
    }
    assert!(left > 2000 && below_full > 1000, "not all trivial: {left} {below_full}");
}

proptest! {
    #[test]
    fn deltas_as_large_as_pages_change_nothing(
        ticks in prop::collection::vec((0.0..6.0f64, prop::collection::vec(0u64..40, 0..12)), 1..60),
        share in 0.0..1.0f64,
    ) {
        let mut plain = Clairvoyant::new(40, None, 0.0, Release::TickEnd).unwrap();
        let (mut whole, mut parts) = (oracle(40, 1.0), oracle(40, share));
        let mut carried = 0.0;
        for (number, (carries, written)) in ticks.iter().enumerate() {
            carried += carries;
            let mut tick = tick(number, &written.iter().map(|p| (*p, 0)).collect::<Vec<_>>());
            tick.content.clear();
            let least = plain.tick(carried, &tick.runs).unwrap().after_pages;
            whole.tick(carried, &tick).unwrap();
            parts.tick(carried, &tick).unwrap();
            prop_assert!((whole.residual_pages() - least).abs() < 1e-6);
            let parts = parts.residual_pages();
            // Pages that no send is left for count whole; the others as their share.
            prop_assert!(parts <= least + 1e-6 && parts >= least * share - least / 16.0 - 1e-6);
        }
    }
}

#[test]
fn what_the_trace_says_of_a_page_counts() {
    let run = |at, pages| PageRun::new(PageIndex::new(at), pages);
    let mut all = TraceTick::new(Tick::from_nanos(1), vec![run(0, 8), run(10, 1)]);
    all.content = vec![
        (run(1, 1), PageContent::Zero),
        (run(2, 2), PageContent::Unchanged),
        (run(5, 1), PageContent::Delta(1024)),
        (run(10, 1), PageContent::Full),
    ];
    let mut oracle = oracle(12, 0.5);
    oracle.tick(1000.0, &all).unwrap();
    // Unknown 0, 4, 6, 7 at 0.5 each, a quarter of page 5, page 10 whole.
    assert!((oracle.residual_pages() - 3.25).abs() < 1e-9, "{}", oracle.residual_pages());
    oracle.tick(1001.0, &TraceTick::new(Tick::from_nanos(2), vec![])).unwrap();
    assert!((oracle.residual_pages() - 2.25).abs() < 1e-9, "one send: the whole page");
    let past = TraceTick::new(Tick::from_nanos(3), vec![run(11, 2)]);
    let error = oracle.tick(1002.0, &past).unwrap_err().to_string();
    assert_eq!(error, "Tick 3 names pages 11..13, but the guest has 12 pages");
    let bad = DeltaOracle::new(8, PageSize::BASE, None, DeltaShare(1.5), Release::TickEnd);
    assert!(bad.unwrap_err().to_string().contains("from 0 to 1"));
}
