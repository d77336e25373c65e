// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest as a whole: integrity, pause and resume, moving from one memory to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::{DirtyTracker, MarkedTracker, PagemapTracker};
use precopy::guest::GuestControl;
use precopy::memory::{MapOptions, MappedMemory, PageReader, PageWriter};
use precopy::region::{Region, RegionTable};
use precopy::sys::UffdMode;
use precopy::units::{GuestAddress, PageIndex, PageRun, PageSize, Throttle};
use proptest::prelude::*;

use crate::content::{self, BODY_AT, COUNT_AT, OP_AT};
use crate::{FaultKind, GuestConfig, GuestRam, OpStream, VecRam, WebVm, WriteHook};

fn ram(pages: usize) -> Arc<VecRam> {
    Arc::new(VecRam::new(PageSize::BASE, pages))
}

fn guest(line: &str, ram: &Arc<VecRam>) -> WebVm {
    let mut guest = WebVm::new(line.parse().unwrap(), Arc::clone(ram) as _, None).unwrap();
    guest.fill().unwrap();
    guest
}

/// Runs the guest until it has done `more` ops, however long that takes.
fn run(guest: &mut WebVm, more: u64) {
    let until = guest.ops() + more;
    guest.resume().unwrap();
    while guest.ops() < until {
        thread::sleep(Duration::from_micros(200));
    }
    guest.pause().unwrap();
}

fn copy(from: &VecRam, to: &VecRam, pages: impl Iterator<Item = u64>) {
    let mut bytes = vec![0; from.page_bytes()];
    for page in pages.map(PageIndex::new) {
        from.read_bytes(page, 0, &mut bytes).unwrap();
        to.write_bytes(page, 0, &bytes).unwrap();
    }
}

const PATTERNS: [&str; 5] = ["sequential", "uniform", "zipf", "log", "idle"];

#[test]
fn every_pattern_passes_its_own_audit() {
    for pattern in PATTERNS {
        for rest in ["", ",body=compressible,filling=zero,fill=30%", ",fill=0%,body_bytes=4032"] {
            let ram = ram(200);
            let mut guest = guest(&format!("vcpus=3,pattern={pattern}{rest}"), &ram);
            assert!(guest.audit().unwrap().is_clean());
            for _ in 0..2 {
                run(&mut guest, if pattern == "idle" { 0 } else { 2000 });
                let report = guest.audit().unwrap();
                assert!(report.is_clean(), "{pattern}{rest}: {report}");
                assert_eq!(report.ops, guest.ops());
                assert_eq!(report.pages, 200);
            }
        }
    }
}

/// Over real mappings, in several regions with holes between them.
#[test]
fn mapped_memory_in_several_regions_passes() {
    let region = |start, pages| Region { start: GuestAddress::new(start), pages };
    let regions = [region(0, 30), region(1 << 30, 1), region(1 << 40, 97)];
    let table = RegionTable::new(PageSize::BASE, &regions).unwrap();
    let memory = Arc::new(MappedMemory::new(table, MapOptions::default()).unwrap());
    for pattern in PATTERNS {
        let line = format!("vcpus=3,pattern={pattern}");
        let mut guest = WebVm::new(line.parse().unwrap(), Arc::clone(&memory) as _, None).unwrap();
        guest.fill().unwrap();
        run(&mut guest, if pattern == "idle" { 0 } else { 2000 });
        let report = guest.audit().unwrap();
        assert!(report.is_clean(), "{pattern}: {report}");
        assert_eq!(report.pages, 128);
    }
}

fn copy_dirty(from: &MappedMemory, to: &MappedMemory, dirty: &mut DenseBitmap) {
    let mut page_bytes = vec![0; from.page_bytes()];
    for page in dirty.runs().flat_map(PageRun::iter) {
        PageReader::read_run(from, PageRun::new(page, 1), &mut page_bytes).unwrap();
        PageWriter::write_run(to, PageRun::new(page, 1), &page_bytes).unwrap();
    }
    dirty.clear_all();
}

/// Live rounds by hand with one tracker: only what it reports is copied while the guest writes,
/// and the guest that continues from the copy misses nothing.
fn moves_by(tracker: &str) {
    let table = RegionTable::single(PageSize::BASE, 512).unwrap();
    let map = || Arc::new(MappedMemory::new(table.clone(), MapOptions::default()).unwrap());
    for pattern in PATTERNS {
        let line = format!("vcpus=2,pattern={pattern},fill=50%");
        let (from, to) = (map(), map());
        let marks = Arc::new(AtomicBitmap::new(512));
        let hooked = Arc::clone(&marks);
        let hook: WriteHook = Arc::new(move |page| hooked.mark(page));
        let mut tracker: Box<dyn DirtyTracker> = match tracker {
            "marked" => Box::new(MarkedTracker::new(marks)),
            _ => {
                Box::new(PagemapTracker::new(Arc::clone(from.host()), UffdMode::default()).unwrap())
            }
        };
        let ram = Arc::clone(&from) as _;
        let mut here = WebVm::new(line.parse().unwrap(), ram, Some(hook)).unwrap();
        here.fill().unwrap();
        tracker.arm().unwrap();
        let mut dirty = DenseBitmap::new(512);
        dirty.set_run(table.all());
        here.resume().unwrap();
        for _ in 0..20 {
            let until = here.ops() + if pattern == "idle" { 0 } else { 200 };
            while here.ops() < until {
                thread::yield_now();
            }
            copy_dirty(&from, &to, &mut dirty);
            tracker.harvest(&mut dirty).unwrap();
        }
        here.pause().unwrap();
        tracker.harvest(&mut dirty).unwrap();
        copy_dirty(&from, &to, &mut dirty);
        let state = here.export_state().unwrap();
        let mut there = WebVm::new(line.parse().unwrap(), to as _, None).unwrap();
        there.import_state(state).unwrap();
        run(&mut there, if pattern == "idle" { 0 } else { 500 });
        let report = there.audit().unwrap();
        assert!(report.is_clean(), "{pattern}: {report}");
    }
}

#[test]
fn a_guest_moves_by_its_own_marks() {
    moves_by("marked");
}

#[test]
fn a_guest_moves_by_the_kernels_record() {
    moves_by("pagemap");
}

/// A word of a written page, the change to it, and what the audit must say.
#[test]
fn planted_faults_are_found_exactly() {
    let ram = ram(64);
    let mut guest = guest("vcpus=2,pattern=sequential", &ram);
    let page = PageIndex::new(40);
    while ram.load_u64(page, COUNT_AT).unwrap() < 2 {
        run(&mut guest, 1000);
    }
    assert!(guest.audit().unwrap().is_clean());
    let plant = |offset, add: u64| {
        ram.fetch_add_u64(page, offset, add).unwrap();
    };
    for (offset, add, kind) in [
        (COUNT_AT, 1, FaultKind::Duplicated),
        (COUNT_AT, 1u64.wrapping_neg(), FaultKind::Lost),
        (OP_AT, 1u64.wrapping_neg(), FaultKind::Stamp),
        (BODY_AT, 1, FaultKind::Content),
        (BODY_AT + 256 - 8, 1 << 63, FaultKind::Content),
        (4088, 1 << 63, FaultKind::Content),
    ] {
        plant(offset, add);
        let report = guest.audit().unwrap();
        assert_eq!(report.examples.len(), 1, "{offset} {add}");
        assert_eq!((report.examples[0].page, report.examples[0].kind), (page, kind));
        assert_eq!(report.lost_writes, u64::from(kind == FaultKind::Lost));
        assert_eq!(report.duplicated_writes, u64::from(kind == FaultKind::Duplicated));
        assert_eq!(report.wrong_stamps, u64::from(kind == FaultKind::Stamp));
        assert_eq!(report.wrong_contents, u64::from(kind == FaultKind::Content));
        plant(offset, add.wrapping_neg());
        assert!(guest.audit().unwrap().is_clean());
    }
}

/// A page that stayed behind by some ops, as when its last copy was not sent.
#[test]
fn a_stale_page_is_found_with_the_number_of_lost_writes() {
    let old = ram(16);
    let ram = ram(16);
    let mut guest = guest("pattern=sequential", &ram);
    run(&mut guest, 160);
    let before = guest.ops();
    copy(&ram, &old, 0..16);
    run(&mut guest, 160);
    copy(&old, &ram, 5..6);
    let lost = (before..guest.ops()).filter(|op| op % 16 == 5).count() as u64;
    let report = guest.audit().unwrap();
    assert_eq!((report.lost_writes, report.examples.len()), (lost, 1));
}

/// The guest moves between two memories and back, with a live copy that is stale on purpose, and
/// goes on where it was.
#[test]
fn a_guest_continues_in_another_memory() {
    for pattern in PATTERNS {
        let line = format!("vcpus=2,pattern={pattern},working_set=70%");
        let rams = [ram(128), ram(128)];
        let mut here = guest(&line, &rams[0]);
        for hop in 0..4 {
            let (from, to) = (&rams[hop % 2], &rams[(hop + 1) % 2]);
            here.resume().unwrap();
            copy(from, to, 0..128);
            run(&mut here, if pattern == "idle" { 0 } else { 500 });
            copy(from, to, 0..128);
            let state = here.export_state().unwrap();
            let ops = here.ops();
            let mut there = WebVm::new(line.parse().unwrap(), Arc::clone(to) as _, None).unwrap();
            there.import_state(state).unwrap();
            assert_eq!(there.ops(), ops);
            assert!(there.audit().unwrap().is_clean());
            run(&mut there, if pattern == "idle" { 0 } else { 500 });
            assert!(there.audit().unwrap().is_clean(), "{pattern}, hop {hop}");
            here = there;
        }
    }
}

#[test]
fn the_first_step_after_a_migration_measures_the_blackout() {
    let (from, to) = (ram(16), ram(16));
    let mut here = guest("pattern=sequential", &from);
    run(&mut here, 10);
    assert_eq!(here.blackout(), None);
    let state = here.export_state().unwrap();
    let mut there = WebVm::new(here.config().clone(), Arc::clone(&to) as _, None).unwrap();
    there.import_state(state).unwrap();
    run(&mut there, 10);
    let blackout = there.blackout().unwrap();
    assert!(blackout > Duration::ZERO);
    let stall = there.stall().unwrap();
    // The histogram keeps two significant digits.
    assert!(stall.longest.as_secs_f64() >= blackout.as_secs_f64() * 0.98);
    assert!(stall.p50 <= stall.p99 && stall.p99 <= stall.p999 && stall.p999 <= stall.longest);
}

#[test]
fn state_of_another_guest_or_damaged_state_is_refused() {
    let line = "vcpus=2,pattern=uniform";
    let mut here = guest(line, &ram(64));
    run(&mut here, 10);
    let state = here.export_state().unwrap();
    let refuse = |line: &str, pages: usize, state: &[u8]| {
        let mut there = WebVm::new(line.parse().unwrap(), ram(pages) as _, None).unwrap();
        let error = there.import_state(Bytes::copy_from_slice(state)).unwrap_err();
        assert_eq!(there.ops(), 0);
        error.source.unwrap().to_string()
    };
    assert!(refuse("vcpus=2,pattern=zipf", 64, &state).contains("another guest"));
    assert!(refuse(line, 65, &state).contains("64 pages; this one has 65"));
    for length in 0..state.len() {
        refuse(line, 64, &state[..length]);
    }
    for at in 0..state.len() {
        let mut flipped = state.to_vec();
        flipped[at] ^= 0x10;
        refuse(line, 64, &flipped);
    }
    // Right checksum, wrong contents.
    let sealed = |at: usize, value: u8| {
        let mut body = state[..state.len() - 4].to_vec();
        body[at] = value;
        let sum = crc32fast::hash(&body).to_le_bytes();
        body.extend_from_slice(&sum);
        body
    };
    assert!(refuse(line, 64, &sealed(0, b'X')).contains("not the state of a test guest"));
    assert!(refuse(line, 64, &sealed(4, 2)).contains("version is 2"));
    assert!(refuse(line, 64, &sealed(6, 3)).contains("length"));
    let ops_at = state.len() - 4 - 32;
    assert!(refuse(line, 64, &sealed(ops_at + 7, 0xff)).contains("claims"));
}

#[test]
fn what_needs_a_paused_guest_says_so() {
    let mut guest = guest("pattern=uniform,pages_per_s=1000", &ram(64));
    guest.resume().unwrap();
    guest.resume().unwrap();
    assert!(guest.is_running());
    assert!(guest.audit().is_err());
    assert!(guest.export_state().is_err());
    assert!(guest.import_state(Bytes::new()).is_err());
    assert!(guest.fill().is_err());
    guest.pause().unwrap();
    guest.pause().unwrap();
    assert!(!guest.is_running());
    assert!(guest.audit().unwrap().is_clean());
}

/// No op happens once `pause` has returned, at any throttle.
#[test]
fn a_paused_guest_writes_nothing() {
    let hooked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&hooked);
    let hook = Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let config: GuestConfig = "vcpus=4,pattern=uniform,fill=0%".parse().unwrap();
    let mut guest = WebVm::new(config, ram(64), Some(hook)).unwrap();
    for percent in [0, 50, 99, 0] {
        guest.throttle(Throttle::percent(percent)).unwrap();
        for _ in 0..20 {
            run(&mut guest, 20);
            let before = (guest.ops(), hooked.load(Ordering::Relaxed));
            assert_eq!(before.0, before.1, "each op is reported once");
            thread::yield_now();
            assert_eq!((guest.ops(), hooked.load(Ordering::Relaxed)), before);
        }
    }
    assert!(guest.audit().unwrap().is_clean());
}

/// The hook is called when all of the op can already be read from memory.
#[test]
fn the_hook_comes_after_the_store() {
    let ram = ram(16);
    let early = Arc::new(AtomicU64::new(0));
    let next_op = AtomicU64::new(0);
    let config: GuestConfig = "pattern=sequential,fill=0%".parse().unwrap();
    let hook = {
        let (ram, early, config) = (Arc::clone(&ram), Arc::clone(&early), config.clone());
        Arc::new(move |page| {
            let op = next_op.fetch_add(1, Ordering::Relaxed);
            let (mut expected, mut found) = ([0; 256], [0; 256]);
            content::body(&config, 0, op, page, &mut expected);
            ram.read_bytes(page, BODY_AT, &mut found).unwrap();
            let seen = ram.load_u64(page, COUNT_AT).unwrap() == op / 16 + 1
                && ram.load_u64(page, OP_AT).unwrap() == op
                && found == expected;
            early.fetch_add(u64::from(!seen), Ordering::Relaxed);
        })
    };
    let mut guest = WebVm::new(config, Arc::clone(&ram) as _, Some(hook)).unwrap();
    run(&mut guest, 500);
    assert_eq!(early.load(Ordering::Relaxed), 0);
}

/// Which op writes which page must never change: states and audits of other builds rely on it.
#[test]
fn op_streams_are_golden() {
    let mut all = String::new();
    for pattern in PATTERNS {
        let config = format!("vcpus=2,pattern={pattern},seed=7").parse().unwrap();
        let stream = OpStream::new(&config, 1, 100_000, 4096);
        let pages: Vec<_> =
            (0..6).chain([1 << 20, 1 << 40]).map(|op| stream.page(op).get()).collect();
        all += &format!("{pattern} {pages:?}\n");
    }
    assert_eq!(all, GOLDEN);
}

const GOLDEN: &str = "\
sequential [50000, 50001, 50002, 50003, 50004, 50005, 98576, 77776]
uniform [86196, 72093, 60978, 90052, 81872, 56150, 57928, 91181]
zipf [71878, 78543, 99444, 95448, 97256, 65507, 58210, 65696]
log [50000, 50000, 50000, 50000, 50000, 50000, 81072, 53472]
idle [50000, 50001, 50002, 50003, 50004, 50005, 98576, 77776]
";

#[test]
fn a_zipf_hot_set_is_small_and_scattered() {
    let config = "pattern=zipf,skew=1".parse().unwrap();
    let stream = OpStream::new(&config, 0, 10_000, 4096);
    let mut counts = vec![0u32; 10_000];
    for op in 0..200_000 {
        counts[stream.page(op).as_usize()] += 1;
    }
    let mut hot: Vec<usize> = (0..counts.len()).collect();
    hot.sort_by_key(|page| std::cmp::Reverse(counts[*page]));
    let share = hot[..1000].iter().map(|page| counts[*page]).sum::<u32>();
    // H(1000) / H(10 000) = 0.765 of all ops go to a tenth of the pages.
    assert!((148_000..158_000).contains(&share), "{share}");
    let tenths = hot[..10].iter().map(|page| page / 1000).collect::<std::collections::HashSet<_>>();
    assert!(tenths.len() >= 6, "{:?}", &hot[..10]);
}

proptest! {
    /// Whatever the layout, each vCPU keeps to its own share, and the shares cover the memory.
    #[test]
    fn shares_are_disjoint(
        vcpus in 1u16..20,
        pages in 20u64..5000,
        percent in 0u32..=100,
        pattern in prop::sample::select(PATTERNS.as_slice()),
        op in any::<u64>(),
    ) {
        let amounts = format!("working_set={percent}%,fill={percent}%");
        let line = format!("vcpus={vcpus},pattern={pattern},{amounts}");
        let config: GuestConfig = line.parse().unwrap();
        let mut next = 0;
        for vcpu in 0..vcpus {
            let stream = OpStream::new(&config, vcpu, pages, 4096);
            let share = stream.share();
            prop_assert_eq!(share.start, next);
            next += share.pages;
            prop_assert!((1..=share.pages).contains(&share.working));
            prop_assert!(share.filled <= share.pages);
            for op in [op, 0, 1, u64::from(percent)] {
                let page = stream.page(op).get();
                prop_assert!((share.start..share.start + share.working).contains(&page));
            }
        }
        prop_assert_eq!(next, pages);
    }

    /// A guest's line reads back as the same guest, and no text panics.
    #[test]
    fn configurations_read_back(
        vcpus in 1u16..=256,
        skew_percent in 0u32..=400,
        pages_per_s in 0u64..=1_000_000_000,
        working in "([0-9]{1,2}(\\.[0-9])?%|[0-9]{1,6}[KMG]?)",
        body in 0u32..=504,
        pattern in prop::sample::select(PATTERNS.as_slice()),
        garbage in "[a-z_]{0,8}=?[0-9a-z%,=]{0,20}",
    ) {
        // JSON readers may be wrong in the last digit of a long fraction; nobody writes one.
        let skew = f64::from(skew_percent) / 100.0;
        let line = format!(
            "vcpus={vcpus}, skew={skew},pages_per_s={pages_per_s},working_set={working},\
             body_bytes={},pattern={pattern},filling=zero",
            body * 8,
        );
        let config: GuestConfig = line.parse().unwrap();
        prop_assert_eq!(config.to_string().parse::<GuestConfig>(), Ok(config.clone()));
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(serde_json::from_str::<GuestConfig>(&json).unwrap(), config);
        let _ = garbage.parse::<GuestConfig>();
    }
}

#[test]
fn bad_configurations_say_what_is_possible() {
    for (line, expected) in [
        ("vcpus=0", "1 to 256"),
        ("vcpus=257", "1 to 256"),
        ("vcpus=1,vcpus=1", "more than once"),
        ("cpus=1", "it has: vcpus, pattern"),
        ("pattern=random", "sequential, uniform, zipf, log, idle"),
        ("skew=NaN", "0 to 4"),
        ("skew=-1", "0 to 4"),
        ("working_set=101%", "50%"),
        ("fill=99999999999T", "256M"),
        ("fill=%", "256M"),
        ("body_bytes=12", "multiple of 8"),
        ("body_bytes=4040", "multiple of 8"),
        ("pages_per_s=1000000001", "1000000000"),
        ("seed", "name=value"),
        (&"x".repeat(600), "512 bytes"),
    ] {
        let error = line.parse::<GuestConfig>().unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
    let config = GuestConfig { vcpus: 9, ..GuestConfig::default() };
    assert!(WebVm::new(config, ram(8), None).is_err());
}
