// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the tracker of other processes, over memory of a child that writes when it is told.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use super::conformance::{self, Rig, TrackedMemory, Traits};
use super::{DirtyError, DirtyTracker, ProcessTracker};
use crate::bitmap::DenseBitmap;
use crate::memory::{MapOptions, MappedMemory, PageReader, ProcessMemory};
use crate::region::{Region, RegionTable};
use crate::sys::test_child::{TestChild, attach, orders, protected, say};
use crate::sys::{Backing, FilePart, ProcessMap};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

/// The test that the child runs.
const PUPPET: &str = "dirty::process_tests::puppet";
const SHM: &str = "shm";

/// Not a test by itself: the child of the others. It maps memory as its variable says, tells where,
/// and then does what lines of its standard input tell.
#[test]
fn puppet() {
    let Some(orders) = orders() else { return };
    let mut words = orders.split(' ');
    let kind = words.next().unwrap();
    let regions: Vec<_> = words
        .map(|word| {
            let (start, pages) = word.split_once(':').unwrap();
            let start = GuestAddress::new(start.parse().unwrap());
            Region { start, pages: pages.parse().unwrap() }
        })
        .collect();
    let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
    let memory = make(kind, table);
    let addresses = memory.host().maps().iter().map(|map| map.addresses().start.to_string());
    say(&addresses.collect::<Vec<_>>().join(" "));
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<u64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
        let page = || PageIndex::new(words[0]);
        match line.as_bytes()[0] {
            b'w' => {
                let slot = usize::try_from(words[1]).unwrap();
                memory.store_u64(page(), slot * 8, words[2]).unwrap();
            }
            // Writes a range of pages.
            b'W' => {
                for page in words[0]..words[1] {
                    memory.store_u64(PageIndex::new(page), 0, words[2]).unwrap();
                }
            }
            b'r' => {
                let slot = usize::try_from(words[1]).unwrap();
                say(&memory.load_u64(page(), slot * 8).unwrap().to_string());
                continue;
            }
            b'd' | b'g' => {
                for piece in memory.host().pieces(PageRun::from_range(words[0]..words[1])) {
                    let discard = line.as_bytes()[0] == b'd';
                    let done = if discard {
                        piece.map.discard(piece.bytes)
                    } else {
                        piece.map.drop_pages(piece.bytes)
                    };
                    done.unwrap();
                }
            }
            what => panic!("{what}"),
        }
        say("ok");
    }
}

fn make(kind: &str, table: RegionTable) -> MappedMemory {
    match kind {
        "memfd" => MappedMemory::new(table, MapOptions::new(Backing::Memfd)),
        SHM => {
            let path = format!("/dev/shm/precopy-test-{}", std::process::id());
            // What a run left behind that was killed.
            let _ = std::fs::remove_file(&path);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            file.set_len(table.bytes()).unwrap();
            let mut parts = Vec::new();
            for region in 0..table.regions().len() {
                let run = table.region_run(region).unwrap();
                let offset = run.start().get() << PageSize::BASE.log2();
                let file = file.try_clone().unwrap();
                parts.push(FilePart::new(file, offset, run.bytes(PageSize::BASE)).unwrap());
            }
            MappedMemory::of_files(table, parts)
        }
        _ => MappedMemory::new(table, MapOptions::new(Backing::Anonymous)),
    }
    .unwrap()
}

/// A child, and how to make it write.
struct Puppet {
    child: Mutex<TestChild>,
    map: Arc<ProcessMap>,
    memory: ProcessMemory,
}

impl Puppet {
    fn start(kind: &str, table: &RegionTable) -> Self {
        let regions =
            table.regions().iter().map(|region| format!("{}:{}", region.start.get(), region.pages));
        let regions = regions.collect::<Vec<_>>().join(" ");
        let mut child = TestChild::start(PUPPET, &format!("{kind} {regions}"));
        let starts = child.numbers().into_iter().map(|place| usize::try_from(place).unwrap());
        let parts: Vec<_> = starts
            .zip(table.regions())
            .map(|(start, region)| {
                (
                    region.start,
                    start..start + PageRun::from_range(0..region.pages).bytes(PageSize::BASE),
                )
            })
            .collect();
        let process = Arc::new(child.process());
        let map = Arc::new(ProcessMap::new(process, PageSize::BASE, &parts).unwrap());
        let memory = ProcessMemory::new(Arc::clone(&map));
        Self { child: Mutex::new(child), map, memory }
    }

    fn tell(&self, order: &str) -> String {
        let mut child = self.child.lock().unwrap();
        child.tell(order);
        child.hear()
    }

    fn write(&self, pages: impl IntoIterator<Item = u64>, value: u64) {
        for page in pages {
            self.tell(&format!("w {page} 0 {value}"));
        }
    }

    /// Pages of the first region that are write-protected.
    fn protected(&self) -> usize {
        protected(self.map.process(), self.map.addresses(0).unwrap())
    }

    fn tracker(&self) -> ProcessTracker {
        let attachment = attach(self.map.process()).unwrap();
        ProcessTracker::with_attachment(Arc::clone(&self.map), attachment).unwrap()
    }
}

impl TrackedMemory for Puppet {
    fn store(&self, page: PageIndex, slot: usize, value: u64) {
        self.tell(&format!("w {} {slot} {value}", page.get()));
    }

    fn load(&self, page: PageIndex, slot: usize) -> u64 {
        let mut copy = vec![0; 4096];
        self.memory.read_run(PageRun::new(page, 1), &mut copy).unwrap();
        u64::from_ne_bytes(copy[slot * 8..slot * 8 + 8].try_into().unwrap())
    }
}

struct PuppetRig {
    tracker: ProcessTracker,
    puppet: Puppet,
}

impl PuppetRig {
    fn new(kind: &str, table: &RegionTable) -> Self {
        let puppet = Puppet::start(kind, table);
        Self { tracker: puppet.tracker(), puppet }
    }
}

impl Rig for PuppetRig {
    fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
        (&mut self.tracker, &self.puppet)
    }
}

/// Whether other processes can be attached to here; says so if this machine forbids it.
fn can_attach() -> bool {
    let table = RegionTable::single(PageSize::BASE, 1).unwrap();
    let puppet = Puppet::start("anonymous", &table);
    match attach(puppet.map.process()) {
        Ok(_) => true,
        Err(why) if why.is_of_the_machine() => {
            crate::skipped(format_args!("{why}"));
            false
        }
        Err(why) => panic!("{why}"),
    }
}

fn harvest(tracker: &mut dyn DirtyTracker) -> BTreeSet<u64> {
    let mut set = DenseBitmap::new(tracker.pages());
    tracker.harvest(&mut set).unwrap();
    set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
}

fn conforms(kind: &str) {
    if can_attach() {
        let traits = Traits::exact().with_peek().with_clear().with_slow_stores();
        conformance::check(|table| PuppetRig::new(kind, table), traits);
    }
}

#[test]
fn process_conforms_on_anonymous_memory() {
    conforms("anonymous");
}

#[test]
fn process_conforms_on_memfd() {
    conforms("memfd");
}

#[test]
fn process_conforms_on_shared_memory_files() {
    conforms(SHM);
}

#[test]
fn a_process_that_ends_is_an_error() {
    if !can_attach() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 100).unwrap();
    for kind in ["anonymous", "memfd", SHM] {
        let puppet = Puppet::start(kind, &table);
        let mut tracker = puppet.tracker();
        tracker.arm().unwrap();
        puppet.write([7], 1);
        assert_eq!(harvest(&mut tracker), BTreeSet::from([7]));
        puppet.child.lock().unwrap().kill();
        let gone = tracker.harvest(&mut DenseBitmap::new(100));
        assert!(matches!(gone, Err(DirtyError::Gone { .. })), "{kind}: {gone:?}");
        tracker.disarm().unwrap();
        assert!(matches!(tracker.arm(), Err(DirtyError::Gone { .. })), "{kind}");
        assert!(ProcessTracker::attach(Arc::clone(&puppet.map)).is_err());
        let mut page = vec![0; 4096];
        assert!(puppet.memory.read_run(PageRun::from_range(0..1), &mut page).is_err());
    }
}

/// Reclaim leaves empty entries behind pages that were written, discards leave none: both must be
/// reported, in full blocks and beside holes, and holes must not.
#[test]
fn reclaimed_and_discarded_pages_are_reported() {
    if !can_attach() {
        return;
    }
    // Not a whole number of blocks, so that the last one goes past the region's end.
    let (pages, filled) = (9 * 512 + 77, 7 * 512 + 30);
    let table = RegionTable::single(PageSize::BASE, pages).unwrap();
    for kind in ["anonymous", "memfd", SHM] {
        let puppet = Puppet::start(kind, &table);
        puppet.tell(&format!("W 0 {filled} 1"));
        let mut populated = DenseBitmap::new(pages);
        puppet.memory.populated(&mut populated).unwrap();
        assert_eq!(populated.count(), filled, "{kind}");
        let mut tracker = puppet.tracker();
        tracker.arm().unwrap();
        assert_eq!(harvest(&mut tracker), BTreeSet::new(), "{kind}");
        let written = (100..900).chain(filled - 9..filled + 9).chain([pages - 1]).collect();
        puppet.tell("W 100 900 2");
        puppet.tell(&format!("W {} {} 2", filled - 9, filled + 9));
        puppet.write([pages - 1], 2);
        if kind == "anonymous" {
            assert_eq!(harvest(&mut tracker), written);
        } else {
            puppet.tell(&format!("g 0 {pages}"));
            let seen = harvest(&mut tracker);
            assert!(seen.is_superset(&written), "{kind}: lost a write");
            let held = |page: &u64| *page < filled || written.contains(page);
            assert!(seen.iter().all(held), "{kind}: a hole was reported");
            harvest(&mut tracker);
        }
        puppet.tell("d 512 600");
        let seen = harvest(&mut tracker);
        assert!(seen.is_superset(&(512..600).collect()), "{kind}: {seen:?}");
        assert_eq!(harvest(&mut tracker), BTreeSet::new(), "{kind}");
        puppet.write([555], 3);
        assert_eq!(harvest(&mut tracker), BTreeSet::from([555]), "{kind}");
    }
}

/// Faults of the child that needed no disk.
fn minor_faults(puppet: &Puppet) -> u64 {
    let stat = std::fs::read_to_string(puppet.map.process().proc("stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(7).unwrap().parse().unwrap()
}

/// A process that was tracked and is released has no protected page, and soon faults no more.
#[test]
fn a_released_process_runs_at_full_speed() {
    if !can_attach() {
        return;
    }
    let table = RegionTable::single(PageSize::BASE, 4096).unwrap();
    for kind in ["anonymous", "memfd", SHM] {
        for by_drop in [false, true] {
            let puppet = Puppet::start(kind, &table);
            puppet.tell("W 0 4096 1");
            let attachment = attach(puppet.map.process()).unwrap();
            // A child that is forked somewhere in this process has a copy of every descriptor.
            let _copy = attachment.uffd().as_fd().try_clone_to_owned().unwrap();
            let map = Arc::clone(&puppet.map);
            let mut tracker = ProcessTracker::with_attachment(map, attachment).unwrap();
            tracker.arm().unwrap();
            assert_eq!(puppet.protected(), 4096);
            puppet.tell("W 0 100 2");
            let before = minor_faults(&puppet);
            puppet.tell("W 100 1100 2");
            let faults = minor_faults(&puppet) - before;
            assert!(faults >= 1000, "tracking costs faults, or the test sees none: {faults}");
            assert_eq!(harvest(&mut tracker), (0..1100).collect());
            if by_drop {
                drop(tracker);
            } else {
                tracker.disarm().unwrap();
            }
            assert_eq!(puppet.protected(), 0, "{kind}");
            // The kernel gives pages of shared memory back as new ones are: each has one ordinary
            // fault to come, which is none of tracking.
            if kind != "anonymous" {
                puppet.tell("W 0 4096 3");
            }
            let before = minor_faults(&puppet);
            puppet.tell("W 0 4096 4");
            let faults = minor_faults(&puppet) - before;
            assert!(faults < 64, "{kind}: {faults} faults");
        }
    }
}
