// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The suite that every dirty tracker must pass.
//!
//! A back-end supplies a [`Rig`]: a tracker together with memory whose writes it sees. [`check`]
//! runs every case, each on a fresh rig, over several memory maps; a breach panics with the case,
//! the map and the pages concerned.
//!
//! ```ignore
//! conformance::check(|table| MyRig::new(table), Traits::default());
//! ```

mod clear;
mod concurrent;

use std::collections::BTreeSet;

use super::{DirtyError, DirtyTracker};
use crate::bitmap::DenseBitmap;
use crate::region::{Region, RegionTable};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

/// Words of a page that the suite uses, counted from the start of the page.
pub const SLOTS: usize = 8;

/// Memory whose writes the tracker under test sees.
pub trait TrackedMemory: Sync {
    /// Stores a word at `slot` (less than [`SLOTS`]) of `page`, as the guest or the VMM would. May
    /// be called from any thread; no two threads use the same slot of a page at the same time.
    fn store(&self, page: PageIndex, slot: usize, value: u64);

    /// Loads a word without dirtying its page. May run while other threads store.
    fn load(&self, page: PageIndex, slot: usize) -> u64;
}

/// A tracker and the memory that it tracks. Memory starts as zeros, the tracker unarmed.
pub trait Rig {
    /// The tracker, for the harvester, and the memory, for any thread.
    fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory);
}

/// What a back-end promises beyond the contract.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Traits {
    /// While nobody else writes, it reports exactly the pages written, and none twice.
    pub exact: bool,
    /// [`DirtyTracker::peek`] looks, rather than answering that it cannot.
    pub peeks: bool,
    /// [`DirtyTracker::clear`] clears, rather than doing nothing.
    pub clears: bool,
    /// A store takes long: the concurrent case is content with a tenth of the writes.
    pub slow: bool,
}

impl Traits {
    /// A back-end that reports exactly what was written.
    #[must_use]
    pub fn exact() -> Self {
        Self { exact: true, ..Self::default() }
    }

    /// The same, whose `peek` looks.
    #[must_use]
    pub fn with_peek(mut self) -> Self {
        self.peeks = true;
        self
    }

    /// The same, of which a store takes long.
    #[must_use]
    pub fn with_slow_stores(mut self) -> Self {
        self.slow = true;
        self
    }

    /// The same, whose `clear` clears.
    #[must_use]
    pub fn with_clear(mut self) -> Self {
        self.clears = true;
        self
    }
}

/// One page; one region ending inside a word; many small regions with holes, some adjacent; a few
/// larger ones of odd length.
#[must_use]
pub fn layouts() -> Vec<RegionTable> {
    let many: Vec<(u64, u64)> = (0..40).map(|i| (i % 3, 1 + i * 7 % 11)).collect();
    let shapes: [&[(u64, u64)]; 5] =
        [&[(0, 1)], &[(0, 64)], &[(3, 65)], &many, &[(0, 200), (16, 129), (1, 63), (7, 517)]];
    shapes.iter().map(|shape| layout(shape)).collect()
}

/// A table from (pages left out before, pages) pairs.
fn layout(shape: &[(u64, u64)]) -> RegionTable {
    let mut at = 256;
    let mut regions = Vec::with_capacity(shape.len());
    for (hole, pages) in shape {
        let start = GuestAddress::new((at + hole) << PageSize::BASE.log2());
        regions.push(Region { start, pages: *pages });
        at += hole + pages;
    }
    RegionTable::new(PageSize::BASE, &regions).expect("the shapes above are valid maps")
}

/// Runs every case of the suite over every layout.
///
/// # Panics
/// If the tracker breaks the contract.
pub fn check<R: Rig>(make: impl Fn(&RegionTable) -> R, traits: Traits) {
    for table in layouts() {
        for (name, case) in CASES {
            let mut rig = make(&table);
            let (tracker, memory) = rig.parts();
            assert_eq!(tracker.pages(), table.pages(), "{name}: pages covered");
            let mut ground = Ground { name, tracker, memory, table: &table, traits };
            case(&mut ground);
        }
    }
}

type Case = fn(&mut Ground<'_>);

const CASES: [(&str, Case); 12] = [
    ("a fresh tracker", fresh),
    ("every page alone", every_page),
    ("edges of regions", edges),
    ("all pages", full_set),
    ("random writes", random_writes),
    ("restore", restore),
    ("attempts", attempts),
    ("peek", peek),
    ("clear", clear::clear),
    ("wrong lengths", wrong_lengths),
    ("unarmed", unarmed),
    ("concurrent writers", concurrent::writers),
];

/// A case's surroundings.
struct Ground<'a> {
    name: &'static str,
    tracker: &'a mut dyn DirtyTracker,
    memory: &'a dyn TrackedMemory,
    table: &'a RegionTable,
    traits: Traits,
}

impl Ground<'_> {
    fn pages(&self) -> u64 {
        self.table.pages()
    }

    fn arm(&mut self) {
        self.tracker.arm().unwrap_or_else(|e| panic!("{}: arm: {e}", self.name));
    }

    fn write(&self, page: u64, value: u64) {
        self.memory.store(PageIndex::new(page), 0, value);
    }

    /// A harvest as the engine does it: with every reported run re-armed.
    fn harvest_into(&mut self, set: &mut DenseBitmap) {
        let name = self.name;
        self.tracker.harvest(set).unwrap_or_else(|e| panic!("{name}: harvest: {e}"));
        if self.tracker.needs_rearm() {
            for run in set.runs() {
                self.tracker.rearm(run).unwrap_or_else(|e| panic!("{name}: rearm: {e}"));
            }
        }
    }

    fn harvest(&mut self) -> BTreeSet<u64> {
        let mut set = DenseBitmap::new(self.pages());
        self.harvest_into(&mut set);
        members(&set)
    }

    /// Harvests, and checks what was reported against what was written.
    fn expect(&mut self, written: &BTreeSet<u64>) {
        let seen = self.harvest();
        let missing: Vec<_> = written.difference(&seen).take(16).collect();
        assert!(missing.is_empty(), "{}: written but not reported: {missing:?}", self.name);
        if self.traits.exact {
            let extra: Vec<_> = seen.difference(written).take(16).collect();
            assert!(extra.is_empty(), "{}: reported but not written: {extra:?}", self.name);
        }
    }
}

fn members(set: &DenseBitmap) -> BTreeSet<u64> {
    set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
}

fn set_of(pages: u64, of: &BTreeSet<u64>) -> DenseBitmap {
    let mut set = DenseBitmap::new(pages);
    for page in of {
        set.set(PageIndex::new(*page));
    }
    set
}

/// Writes before arming may be reported or not; after that, nothing that was not written.
fn fresh(on: &mut Ground<'_>) {
    on.write(0, 1);
    on.arm();
    let early = on.harvest();
    if on.traits.exact {
        assert!(early.iter().all(|p| *p == 0), "{}: invented {early:?}", on.name);
    }
    on.expect(&BTreeSet::new());
    on.expect(&BTreeSet::new());
}

/// Each page is reported when it alone was written, and once only. Ascending, then descending.
fn every_page(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    let step = (on.pages() / 200).max(1);
    let up = (0..on.pages()).filter(|p| p.is_multiple_of(step));
    for page in up.clone().chain(up.rev()) {
        on.write(page, page + 1);
        on.expect(&BTreeSet::from([page]));
    }
    on.expect(&BTreeSet::new());
}

/// First and last page of every region, together and again; the pages between stay clean.
fn edges(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    for round in 0..3 {
        let mut written = BTreeSet::new();
        for region in 0..on.table.regions().len() {
            let run = on.table.region_run(region).expect("a region of the table");
            for page in [run.start().get(), run.end().get() - 1] {
                on.write(page, round);
                written.insert(page);
            }
        }
        on.expect(&written);
        on.expect(&BTreeSet::new());
    }
}

/// Every page at once, twice; a harvest adds to what the bitmap already holds.
fn full_set(on: &mut Ground<'_>) {
    on.arm();
    for round in 0..2 {
        (0..on.pages()).for_each(|page| on.write(page, round));
        on.expect(&(0..on.pages()).collect());
    }
    let mut set = DenseBitmap::new(on.pages());
    set.set(PageIndex::new(on.pages() - 1));
    on.write(0, 9);
    on.harvest_into(&mut set);
    assert!(set.contains(PageIndex::new(0)), "{}: page 0 is missing", on.name);
    let last = PageIndex::new(on.pages() - 1);
    assert!(set.contains(last), "{}: the harvest dropped what the bitmap held", on.name);
}

/// Many rounds of random single pages and runs, against a set.
fn random_writes(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    let mut random = Random::new(0x5eed ^ on.pages());
    for round in 0..60 {
        let mut written = BTreeSet::new();
        for _ in 0..random.below(24) {
            let from = random.below(on.pages());
            let pages = if random.below(4) == 0 { random.below(90) } else { 1 };
            for page in from..(from + pages).min(on.pages()) {
                on.write(page, round);
                written.insert(page);
            }
        }
        on.expect(&written);
    }
}

/// What is put back is reported again, with what was written meanwhile.
fn restore(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    let written: BTreeSet<u64> = (0..on.pages()).filter(|p| p % 5 == 0).collect();
    for round in 0..3 {
        written.iter().for_each(|page| on.write(*page, round));
        let mut taken = DenseBitmap::new(on.pages());
        on.harvest_into(&mut taken);
        on.tracker.restore(&taken).unwrap_or_else(|e| panic!("{}: {e}", on.name));
        let later = on.pages() - 1;
        on.write(later, round);
        let mut both = members(&taken);
        both.insert(later);
        on.expect(&both);
        on.expect(&BTreeSet::new());
    }
    let none = DenseBitmap::new(on.pages());
    on.tracker.restore(&none).unwrap_or_else(|e| panic!("{}: {e}", on.name));
    on.expect(&BTreeSet::new());
}

/// An attempt that fails, and another one: restore, disarm, arm. Every write after the second
/// arming is reported, whatever the first one did.
fn attempts(on: &mut Ground<'_>) {
    for attempt in 0..3 {
        on.arm();
        let mut random = Random::new(attempt + 1);
        for round in 0..4 {
            let written: BTreeSet<u64> =
                (0..on.pages().min(40)).map(|_| random.below(on.pages())).collect();
            written.iter().for_each(|page| on.write(*page, round));
            let seen = on.harvest();
            let missing: Vec<_> = written.difference(&seen).take(16).collect();
            assert!(missing.is_empty(), "{}: attempt {attempt} lost {missing:?}", on.name);
            if round == 3 {
                let taken = set_of(on.pages(), &seen);
                on.tracker.restore(&taken).unwrap_or_else(|e| panic!("{}: {e}", on.name));
            }
        }
        on.tracker.disarm().unwrap_or_else(|e| panic!("{}: disarm: {e}", on.name));
        // Untracked memory stays writable, and keeps what was written.
        on.write(0, 77);
        assert_eq!(on.memory.load(PageIndex::new(0), 0), 77, "{}: store was lost", on.name);
    }
}

/// Looking clears nothing and stays inside its window.
fn peek(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    let written: BTreeSet<u64> = (0..on.pages()).filter(|p| p % 3 == 0).collect();
    written.iter().for_each(|page| on.write(*page, 1));
    let window = PageRun::from_range(on.pages() / 3..on.pages() - on.pages() / 4);
    let mut seen = DenseBitmap::new(on.pages());
    let looked = on.tracker.peek(window, &mut seen).unwrap_or_else(|e| panic!("{}: {e}", on.name));
    assert_eq!(looked, on.traits.peeks, "{}: peek looks, or not, as declared", on.name);
    let seen = members(&seen);
    let inside: BTreeSet<u64> =
        written.range(window.start().get()..window.end().get()).copied().collect();
    assert!(looked || seen.is_empty(), "{}: a peek that cannot look reported", on.name);
    assert!(
        seen.iter().all(|p| (window.start().get()..window.end().get()).contains(p)),
        "{}: peek left its window",
        on.name
    );
    if looked && on.traits.exact {
        assert_eq!(seen, inside, "{}: peek", on.name);
    }
    on.expect(&written);
}

/// Bitmaps of another length are refused (R2), and nothing is lost by it.
fn wrong_lengths(on: &mut Ground<'_>) {
    on.arm();
    on.harvest();
    on.write(0, 1);
    let pages = on.pages();
    for wrong in [0, pages - 1, pages + 1, pages + 64] {
        let mut set = DenseBitmap::new(wrong);
        let is_length =
            |answer: Result<(), DirtyError>| matches!(answer, Err(DirtyError::Length(_)));
        let harvested = on.tracker.harvest(&mut set).map(drop);
        assert!(is_length(harvested), "{}: harvest into {wrong} pages", on.name);
        assert!(is_length(on.tracker.restore(&set)), "{}: restore of {wrong} pages", on.name);
        if on.traits.peeks {
            let peeked = on.tracker.peek(PageRun::from_range(0..1), &mut set).map(drop);
            assert!(is_length(peeked), "{}: peek into {wrong} pages", on.name);
        }
        assert!(set.none_set(), "{}: a refused call changed the bitmap", on.name);
    }
    on.expect(&BTreeSet::from([0]));
}

/// Harvesting needs an armed tracker.
fn unarmed(on: &mut Ground<'_>) {
    let mut set = DenseBitmap::new(on.pages());
    let refused =
        |answer: Result<_, DirtyError>| matches!(answer, Err(DirtyError::NotArmed { .. }));
    assert!(refused(on.tracker.harvest(&mut set)), "{}: harvest before arm", on.name);
    on.arm();
    on.tracker.disarm().unwrap_or_else(|e| panic!("{}: disarm: {e}", on.name));
    assert!(refused(on.tracker.harvest(&mut set)), "{}: harvest after disarm", on.name);
    on.arm();
    on.write(0, 3);
    let seen = on.harvest();
    assert!(seen.contains(&0), "{}: page 0 is missing after arming again", on.name);
}

/// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014): the suite must not depend on a crate.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
