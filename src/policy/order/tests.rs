// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What holds for every page order, and each one's rule on small examples.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::queue::Queue;
use super::*;
use crate::policy::Spec;
use crate::units::PageIndex;

const PAGES: u64 = 200;

fn order(text: &str) -> Box<dyn PageOrder> {
    Spec::<dyn PageOrder>::parse(text).unwrap().build()
}

fn set_of(pages: impl IntoIterator<Item = u64>) -> DenseBitmap {
    let mut set = DenseBitmap::new(PAGES);
    pages.into_iter().for_each(|page| set.set(PageIndex::new(page)));
    set
}

fn at(ms: u64) -> Tick {
    Tick::from_nanos(ms * 1_000_000)
}

/// A session in small: what is owed, and an order that is asked for it.
struct Owing {
    order: Box<dyn PageOrder>,
    owed: BTreeSet<u64>,
    now_ms: u64,
}

impl Owing {
    fn new(text: &str, owed: impl IntoIterator<Item = u64>) -> Self {
        let mut new = Self { order: order(text), owed: owed.into_iter().collect(), now_ms: 0 };
        new.order.begin(at(0), &set_of(new.owed.iter().copied()));
        new
    }

    fn harvest(&mut self, pages: impl IntoIterator<Item = u64>) {
        let pages: BTreeSet<u64> = pages.into_iter().collect();
        self.now_ms += 50;
        let set = set_of(pages.iter().copied());
        self.order.harvested(at(self.now_ms), Duration::from_millis(50), &set);
        self.owed.extend(pages);
    }

    /// Pages in the order in which they are picked; checks what every pick must keep.
    fn pick(&mut self, pages_max: u64, runs_max: usize) -> Vec<u64> {
        let (owed, mut runs) = (set_of(self.owed.iter().copied()), Vec::new());
        self.order.pick(&owed, pages_max, runs_max, &mut runs);
        assert!(runs.len() <= runs_max && runs.iter().all(|run| !run.is_empty()));
        let picked: Vec<u64> = runs.iter().flat_map(|r| r.iter()).map(PageIndex::get).collect();
        assert!(picked.len() as u64 <= pages_max);
        picked.iter().for_each(|page| assert!(self.owed.remove(page), "{page} is not owed"));
        picked
    }

    fn drain(&mut self) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let picked = self.pick(7, 3);
            if picked.is_empty() {
                return all;
            }
            all.extend(picked);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Begin(Vec<u64>),
    Harvest(Vec<u64>, u64),
    Pick(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let page = prop_oneof![0..PAGES, 0..8u64, 60..70u64];
    let pages = prop::collection::vec(page, 0..40);
    prop_oneof![
        1 => pages.clone().prop_map(Step::Begin),
        4 => (pages, 0u64..5000).prop_map(|(pages, ms)| Step::Harvest(pages, ms)),
        6 => (1u64..60, 1usize..9).prop_map(|(pages, runs)| Step::Pick(pages, runs)),
    ]
}

const PICKING: [&str; 9] = [
    "fifo",
    "lru",
    "frequency",
    "frequency:slice_ms=20",
    "cold-first",
    "cold-first:age=false",
    "cold-first:weight=1",
    "history",
    "history:rounds=16,dirty=16",
];

proptest! {
    /// No picking order forgets a page that is owed, or hands one out that is not, whatever comes;
    /// one that defers keeps nothing back once the guest is quiet.
    #[test]
    fn no_order_loses_a_page(
        which in 0..PICKING.len(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut owing = Owing::new(PICKING[which], 0..PAGES);
        prop_assert!(owing.order.picks());
        for step in steps {
            match step {
                Step::Begin(pages) => {
                    owing.owed = pages.into_iter().collect();
                    let set = set_of(owing.owed.iter().copied());
                    owing.order.begin(at(owing.now_ms), &set);
                }
                Step::Harvest(pages, ms) => {
                    owing.now_ms += ms;
                    owing.harvest(pages);
                }
                Step::Pick(pages, runs) => drop(owing.pick(pages, runs)),
            }
            let mut fork = Owing { order: owing.order.fork(), owed: owing.owed.clone(), now_ms: 0 };
            if PICKING[which].starts_with("history") {
                continue;
            }
            fork.drain();
            prop_assert!(fork.owed.is_empty(), "forgot {:?}", fork.owed);
        }
        // Nothing is written for a while: what was deferred is not hot any more.
        (0..16).for_each(|_| owing.harvest([]));
        owing.drain();
        prop_assert!(owing.owed.is_empty(), "forgot {:?}", owing.owed);
    }

    /// The queue against a plain one.
    #[test]
    fn the_queue_follows_a_plain_one(steps in prop::collection::vec((0u64..20, 0..4u8), 0..200)) {
        let (mut queue, mut plain) = (Queue::new(20), VecDeque::new());
        for (page, what) in steps {
            let at = PageIndex::new(page);
            let stands = plain.iter().position(|p| *p == page);
            prop_assert_eq!(queue.contains(at), stands.is_some());
            match (what, stands) {
                (0 | 1, None) => {
                    queue.push_back(at);
                    plain.push_back(page);
                }
                (0, Some(place)) => {
                    queue.remove(at);
                    plain.remove(place);
                }
                (1, Some(place)) => {
                    queue.start_at(at);
                    plain.rotate_left(place);
                }
                (_, _) => {
                    let mut runs = Vec::new();
                    queue.take(3, 2, &mut runs);
                    for taken in runs.iter().flat_map(|run| run.iter()) {
                        prop_assert_eq!(plain.pop_front(), Some(taken.get()));
                    }
                }
            }
            prop_assert_eq!(queue.front().map(PageIndex::get), plain.front().copied());
        }
        queue.clear();
        prop_assert!((0..20).all(|page| !queue.contains(PageIndex::new(page))));
    }

    /// Deferral counts the harvests of each page as one would by hand.
    #[test]
    fn history_counts_by_hand(
        rounds in 1usize..=16,
        dirty in 1usize..=16,
        harvests in prop::collection::vec(prop::collection::vec(0..PAGES, 0..60), 1..30),
    ) {
        let mut owing = Owing::new(&format!("history:rounds={rounds},dirty={dirty}"), []);
        for (index, pages) in harvests.iter().enumerate() {
            owing.harvest(pages.iter().copied());
            let sent: BTreeSet<u64> = owing.drain().into_iter().collect();
            let last = &harvests[(index + 1).saturating_sub(rounds)..=index];
            for page in 0..PAGES {
                let hot = last.iter().filter(|pages| pages.contains(&page)).count() >= dirty;
                prop_assert!(!(hot && sent.contains(&page)), "page {} is hot", page);
                prop_assert!(hot || !owing.owed.contains(&page), "page {} is not", page);
            }
        }
    }
}

#[test]
fn fifo_keeps_a_place_and_lru_gives_it_up() {
    let play = |text: &str| {
        let mut owing = Owing::new(text, [9, 3]);
        owing.harvest([5, 6]);
        owing.harvest([3, 4, 5]);
        owing.drain()
    };
    assert_eq!(play("fifo"), [3, 9, 5, 6, 4]);
    assert_eq!(play("lru"), [9, 6, 3, 4, 5]);
}

#[test]
fn lru_keeps_what_a_preflight_learnt_behind_the_rest() {
    let mut lru = Owing::new("lru", []);
    lru.harvest([2, 8]);
    lru.harvest([2]);
    lru.owed = (0..10).collect();
    lru.order.begin(at(100), &set_of(0..10));
    assert_eq!(lru.drain(), [0, 1, 3, 4, 5, 6, 7, 9, 8, 2]);
}

#[test]
fn frequency_sends_by_rising_count() {
    let mut owing = Owing::new("frequency", [1, 2, 3]);
    for times in 0..12u64 {
        owing.harvest((1..=3).filter(|page| times.is_multiple_of(*page)));
    }
    owing.harvest([7]);
    assert_eq!(owing.drain(), [7, 3, 2, 1]);
    assert!(owing.order.slice().is_none() && !owing.order.clears_at_send());
    assert_eq!(order("frequency:slice_ms=20").slice(), Some(Duration::from_millis(20)));
}

#[test]
fn rounds_by_address_differ_in_what_they_leave_to_the_tracker() {
    let habits = |text: &str| {
        let order = order(text);
        (order.picks(), order.clears_at_send(), [0, 1, 9].map(|r| order.skips_redirtied(r)))
    };
    assert_eq!(habits("address"), (false, false, [false; 3]));
    assert_eq!(habits("clear-at-send"), (false, true, [false; 3]));
    assert_eq!(habits("xen-skip"), (false, false, [false, true, true]));
    assert_eq!(habits("xen-skip:first=true"), (false, false, [true; 3]));
    assert_eq!(habits("cold-first:clear=false"), (true, false, [false; 3]));
}

#[test]
fn every_order_is_described_and_built() {
    for info in orders() {
        let order = order(info.name);
        assert_eq!(order.name(), info.name);
        assert_eq!(order.fork().name(), info.name);
        assert!(!info.rule.is_empty() && !info.source.is_empty());
        // A deferral must not spin: what picks without slices may be dry at once.
        let defers = info.name == "history";
        assert!(!defers || order.least_interval() > Duration::ZERO);
    }
}
