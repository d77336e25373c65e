// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests over real VMs: every store is made by a vCPU.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;

use super::{ClearAt, KvmLogTracker, KvmRingLog, KvmRingTracker};
use crate::bitmap::DenseBitmap;
use crate::dirty::conformance::{self, Rig, SLOTS, TrackedMemory, Traits};
use crate::dirty::{DirtyError, DirtyTracker};
use crate::memory::{MapOptions, MappedMemory};
use crate::region::{Region, RegionTable};
use crate::sys::kvm::{set_flat_mode, within};
use crate::sys::{Backing, HostMap, KvmRings, KvmSlots, test_ring, write_bytes};
use crate::units::{GuestAddress, PageIndex, PageRun, PageSize};

const RING_ENTRIES: u32 = 1 << 12;
/// Past every region of every layout.
const CODE_SLOT: u32 = 1000;
/// `mov [edi], eax; mov [edi + 4], edx; hlt`, in 32 bits.
const STORE: [u8; 6] = [0x89, 0x07, 0x89, 0x57, 0x04, 0xF4];
const VCPUS: usize = 3;

/// A VM whose vCPUs store words where they are told.
struct Stores {
    vcpus: Vec<Mutex<VcpuFd>>,
    memory: MappedMemory,
    rings: Option<Arc<KvmRingLog>>,
    _code: KvmSlots,
}

struct KvmRig {
    tracker: Box<dyn DirtyTracker>,
    memory: Stores,
}

fn has_kvm() -> bool {
    match Kvm::new().and_then(|kvm| kvm.create_vm()) {
        Ok(_) => true,
        Err(why) => {
            crate::skipped(format_args!("/dev/kvm: {why}"));
            false
        }
    }
}

fn vm() -> Arc<VmFd> {
    Arc::new(Kvm::new().unwrap().create_vm().unwrap())
}

impl KvmRig {
    fn log(table: &RegionTable, clear_at: ClearAt) -> Self {
        let (vm, memory) = (vm(), memory(table));
        let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), 0).unwrap();
        let tracker = KvmLogTracker::new(Arc::new(slots), clear_at).unwrap();
        Self { tracker: Box::new(tracker), memory: Stores::new(&vm, memory, None) }
    }

    fn ring(table: &RegionTable) -> Self {
        let (vm, memory) = (vm(), memory(table));
        let rings = KvmRings::enable(Arc::clone(&vm), RING_ENTRIES).unwrap();
        let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), 0).unwrap();
        let log = KvmRingLog::new(Arc::new(slots), rings);
        let memory = Stores::new(&vm, memory, Some(Arc::clone(&log)));
        Self { tracker: Box::new(KvmRingTracker::new(log)), memory }
    }

    fn write(&self, pages: impl IntoIterator<Item = u64>) {
        pages.into_iter().for_each(|page| self.memory.store(PageIndex::new(page), 0, page + 1));
    }

    fn harvest(&mut self) -> BTreeSet<u64> {
        let mut set = DenseBitmap::new(self.tracker.pages());
        self.tracker.harvest(&mut set).unwrap();
        set.runs().flat_map(PageRun::iter).map(PageIndex::get).collect()
    }

    fn rearm(&mut self, pages: std::ops::Range<u64>) {
        self.tracker.rearm(PageRun::from_range(pages)).unwrap();
    }
}

fn memory(table: &RegionTable) -> MappedMemory {
    MappedMemory::new(table.clone(), MapOptions::new(Backing::Anonymous)).unwrap()
}

impl Stores {
    fn new(vm: &Arc<VmFd>, memory: MappedMemory, rings: Option<Arc<KvmRingLog>>) -> Self {
        let code = RegionTable::single(PageSize::BASE, 1).unwrap();
        let code = Arc::new(HostMap::new(code, Backing::Anonymous).unwrap());
        write_bytes(code.maps()[0].words(), 0, &STORE);
        let code = KvmSlots::map(Arc::clone(vm), code, CODE_SLOT).unwrap();
        let vcpu = |id| {
            let vcpu = vm.create_vcpu(id).unwrap();
            set_flat_mode(&vcpu).unwrap();
            if let Some(rings) = &rings {
                rings.add(&vcpu).unwrap();
            }
            Mutex::new(vcpu)
        };
        let vcpus = (0..VCPUS as u64).map(vcpu).collect();
        Self { vcpus, memory, rings, _code: code }
    }
}

impl TrackedMemory for Stores {
    fn store(&self, page: PageIndex, slot: usize, value: u64) {
        assert!(slot < SLOTS);
        let at = self.memory.table().address_of(page).unwrap().get() + 8 * slot as u64;
        let mut vcpu = self.vcpus[slot % VCPUS].lock().unwrap();
        let (rax, rdx) = (value & 0xffff_ffff, value >> 32);
        vcpu.set_regs(&kvm_regs { rflags: 2, rdi: at, rax, rdx, ..Default::default() }).unwrap();
        loop {
            match vcpu.run() {
                Ok(VcpuExit::Hlt) => return,
                Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => {
                    self.rings.as_ref().unwrap().relieve().unwrap();
                }
                // A signal, or the machine was suspended.
                Err(error) if error.errno() == Errno::EINTR as i32 => {}
                other => panic!("the vCPU stopped: {other:?}"),
            }
        }
    }

    fn load(&self, page: PageIndex, slot: usize) -> u64 {
        self.memory.load_u64(page, slot * 8).unwrap()
    }
}

impl Rig for KvmRig {
    fn parts(&mut self) -> (&mut dyn DirtyTracker, &dyn TrackedMemory) {
        (&mut *self.tracker, &self.memory)
    }
}

#[test]
fn the_log_conforms_when_cleared_at_send() {
    if has_kvm() {
        let traits = Traits::exact().with_peek().with_clear();
        conformance::check(|table| KvmRig::log(table, ClearAt::Send), traits);
    }
}

#[test]
fn the_log_conforms_when_cleared_at_harvest() {
    if has_kvm() {
        let traits = Traits::exact().with_peek().with_clear();
        conformance::check(|table| KvmRig::log(table, ClearAt::Harvest), traits);
    }
}

/// Whatever the kernel's rings do with a vCPU that does not leave the guest: here one leaves after
/// every store, and is stopped in time when its ring is full.
#[test]
fn the_ring_conforms() {
    if !has_rings() {
        return;
    }
    conformance::check(KvmRig::ring, Traits::exact());
}

/// The self-test says what became of all writes, or why rings are no good here.
#[test]
fn rings_are_tested_before_they_are_used() {
    if !has_rings() {
        return;
    }
    match test_ring(RING_ENTRIES, Duration::from_secs(60)) {
        Ok(test) => assert!(test.full_exits >= 3 && test.entries >= test.full_exits, "{test:?}"),
        Err(why) => {
            println!("This kernel's dirty rings cannot be used: {why}");
            assert!(why.contains("ring"), "it is the ring that fails: {why}");
        }
    }
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let hangs = move || Err(format!("it has ended: {:?}", held.recv()));
    let late = within(Duration::from_millis(10), hangs).unwrap_err();
    assert!(late.contains("did not end within"), "{late}");
    drop(hold);
    assert!(test_ring(3, Duration::from_secs(60)).is_err(), "no ring has three entries");
}

fn has_rings() -> bool {
    let rings = has_kvm() && KvmRings::enable(vm(), RING_ENTRIES).is_ok();
    if !rings {
        crate::skipped("this kernel offers no dirty rings");
    }
    rings
}

/// Clearing takes reported pages of the same 64 along, early. What is written to them afterwards is
/// reported; what nobody has reported yet stays in the log.
#[test]
fn what_is_cleared_beside_the_run_is_not_lost() {
    if !has_kvm() {
        return;
    }
    let mut rig = KvmRig::log(&shifted(PageSize::BASE, 200), ClearAt::Send);
    rig.tracker.arm().unwrap();
    rig.write([3, 4, 60, 100]);
    assert_eq!(rig.harvest(), BTreeSet::from([3, 4, 60, 100]));
    assert_eq!(rig.harvest(), BTreeSet::from([3, 4, 60, 100]), "nobody re-armed them");
    // Page 5 was not reported; 60 and 4 are re-armed with 3, and 60 is written after that.
    rig.write([5]);
    rig.rearm(3..4);
    rig.write([60]);
    assert_eq!(rig.harvest(), BTreeSet::from([5, 60, 100]));
    // Their turn comes: the write to 60 was reported and is read now.
    rig.rearm(4..6);
    rig.rearm(60..61);
    rig.rearm(100..101);
    assert_eq!(rig.harvest(), BTreeSet::new());
    rig.write([4, 60, 199]);
    assert_eq!(rig.harvest(), BTreeSet::from([4, 60, 199]));
}

/// Before the first harvest, re-arming clears what was written: it is about to be read.
#[test]
fn the_first_round_clears_what_it_sends() {
    if !has_kvm() {
        return;
    }
    let mut rig = KvmRig::log(&shifted(PageSize::BASE, 300), ClearAt::Send);
    rig.tracker.arm().unwrap();
    rig.write([0, 63, 64, 65, 130, 299]);
    rig.rearm(63..65);
    rig.rearm(299..300);
    rig.write([64]);
    assert_eq!(rig.harvest(), BTreeSet::from([0, 64, 65, 130]));
}

/// What is owed and not read yet cannot be told from what was written again: peeks leave it out.
#[test]
fn a_peek_leaves_out_what_is_still_to_be_sent() {
    if !has_kvm() {
        return;
    }
    let mut rig = KvmRig::log(&shifted(PageSize::BASE, 100), ClearAt::Send);
    rig.tracker.arm().unwrap();
    rig.write([1, 2]);
    rig.harvest();
    rig.write([2, 3]);
    let mut seen = DenseBitmap::new(100);
    assert!(rig.tracker.peek(PageRun::from_range(0..100), &mut seen).unwrap());
    let seen: Vec<u64> = seen.runs().flat_map(PageRun::iter).map(PageIndex::get).collect();
    assert_eq!(seen, [3]);
}

/// Guest pages larger than the log's: a part that is written counts.
#[test]
fn large_guest_pages() {
    if !has_kvm() {
        return;
    }
    for clear_at in [ClearAt::Send, ClearAt::Harvest] {
        let size = PageSize::new(64 << 10).unwrap();
        let mut rig = KvmRig::log(&shifted(size, 20), clear_at);
        rig.tracker.arm().unwrap();
        rig.write([0, 7, 19]);
        rig.memory.store(PageIndex::new(7), SLOTS - 1, 1);
        assert_eq!(rig.harvest(), BTreeSet::from([0, 7, 19]));
        if rig.tracker.needs_rearm() {
            rig.rearm(0..20);
        }
        assert_eq!(rig.harvest(), BTreeSet::new());
        rig.write([7]);
        assert_eq!(rig.harvest(), BTreeSet::from([7]));
    }
}

/// A tracker that is dropped ends the log, and another one begins it.
#[test]
fn trackers_come_and_go() {
    if !has_kvm() {
        return;
    }
    let (vm, memory) = (vm(), memory(&shifted(PageSize::BASE, 100)));
    let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), 0).unwrap();
    let slots = Arc::new(slots);
    let stores = Stores::new(&vm, memory, None);
    let mut first = KvmLogTracker::new(Arc::clone(&slots), ClearAt::Send).unwrap();
    first.arm().unwrap();
    stores.store(PageIndex::new(1), 0, 1);
    drop(first);
    assert!(slots.read_log(0, &mut [0; 2]).is_err(), "the log has ended");
    let mut second = KvmLogTracker::new(Arc::clone(&slots), ClearAt::Harvest).unwrap();
    second.arm().unwrap();
    stores.store(PageIndex::new(5), 0, 1);
    let mut set = DenseBitmap::new(100);
    second.harvest(&mut set).unwrap();
    assert_eq!(set.runs().collect::<Vec<_>>(), [PageRun::from_range(5..6)]);
}

/// A wrong use of the slots is an error, not a wrong log.
#[test]
fn slots_check_what_they_are_told() {
    if !has_kvm() {
        return;
    }
    let (vm, memory) = (vm(), memory(&shifted(PageSize::BASE, 100)));
    let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), 7).unwrap();
    assert_eq!((slots.region_of(7), slots.region_of(8), slots.log_words(0)), (Some(0), None, 2));
    let again = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), 8);
    assert!(again.is_err(), "the addresses are taken");
    slots.protect_by_hand().unwrap();
    slots.log(true).unwrap();
    assert!(slots.read_log(0, &mut [0; 1]).is_err() && slots.read_log(1, &mut [0; 2]).is_err());
    assert!(slots.clear(0, 1, &[1, 1]).is_err() && slots.clear(0, usize::MAX, &[1]).is_err());
    slots.clear(0, 1, &[1]).unwrap();
    assert!(KvmRings::enable(vm, 3).is_err(), "no ring of three entries");
}

/// A tracker says what is missing where the kernel has no such log.
#[test]
fn a_vm_with_rings_has_no_log() {
    if !has_kvm() {
        return;
    }
    let (vm, memory) = (vm(), memory(&shifted(PageSize::BASE, 10)));
    let Ok(_rings) = KvmRings::enable(Arc::clone(&vm), RING_ENTRIES) else {
        crate::skipped("this kernel offers no dirty rings");
        return;
    };
    let slots = KvmSlots::map(vm, Arc::clone(memory.host()), 0).unwrap();
    let answer = KvmLogTracker::new(Arc::new(slots), ClearAt::Send).and_then(|mut tracker| {
        tracker.arm()?;
        tracker.harvest(&mut DenseBitmap::new(10))
    });
    assert!(matches!(answer, Err(DirtyError::System { .. } | DirtyError::Unsupported { .. })));
}

/// One region well above the code.
fn shifted(size: PageSize, pages: u64) -> RegionTable {
    let start = GuestAddress::new(1 << 24);
    RegionTable::new(size, &[Region { start, pages }]).unwrap()
}
