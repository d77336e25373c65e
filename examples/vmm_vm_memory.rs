// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VMM built on vm-memory adds to become migratable: the bitmap type of its guest memory,
//! the adapters, and `GuestControl`. Run with
//! `cargo run --release --example vmm_vm_memory --features vm-memory`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use precopy::bitmap::{AtomicBitmap, DenseBitmap};
use precopy::dirty::DirtyTracker;
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::vm_memory::{VmMemory, marked_tracker};
use precopy::memory::{PageReader, PageWriter};
use precopy::units::{PageSize, Throttle};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

/// The one type to change: `GuestMemoryMmap<()>` becomes this.
type Memory = GuestMemoryMmap<AtomicBitmap>;
type Failure = Box<dyn std::error::Error + Send + Sync>;
const COUNTERS: u64 = 5000;

fn guest_memory() -> Result<Memory, Failure> {
    // Two regions with a hole between, as below and above the 32-bit PCI window.
    Ok(Memory::from_ranges(&[(GuestAddress(0), 64 << 20), (GuestAddress(4 << 30), 32 << 20)])?)
}

/// A vCPU that counts in guest memory. Its register says how often it did.
#[derive(Default)]
struct Vcpu {
    register: u64,
    running: bool,
}

/// The VMM: guest memory and a vCPU thread that can be held.
#[derive(Clone)]
struct Vmm {
    memory: Memory,
    vcpu: Arc<(Mutex<Vcpu>, Condvar)>,
}

impl Vmm {
    fn new(memory: Memory) -> Self {
        let vmm = Self { memory, vcpu: Arc::default() };
        let guest = vmm.clone();
        std::thread::spawn(move || {
            loop {
                let mut vcpu = guest.hold();
                while !vcpu.running {
                    vcpu = guest.vcpu.1.wait(vcpu).unwrap_or_else(PoisonError::into_inner);
                }
                vcpu.register += 1;
                let at = GuestAddress((4 << 30) + vcpu.register % COUNTERS * 4096);
                let count: u64 = guest.memory.read_obj(at).expect("guest memory");
                guest.memory.write_obj(count + 1, at).expect("guest memory");
            }
        });
        vmm
    }

    /// The guest stands still while the lock is held.
    fn hold(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Vcpu)) {
        change(&mut self.hold());
        self.vcpu.1.notify_all();
    }

    /// The sum of the guest's counters.
    fn counted(&self) -> Result<u64, Failure> {
        (0..COUNTERS).try_fold(0, |sum, page| {
            Ok(sum + self.memory.read_obj::<u64>(GuestAddress((4 << 30) + page * 4096))?)
        })
    }
}

impl GuestControl for Vmm {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.set(|vcpu| vcpu.running = false);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.set(|vcpu| vcpu.running = true);
        Ok(())
    }

    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> {
        Err(GuestError::new("be slowed: this VMM cannot hold its vCPU for part of the time"))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        Ok(Bytes::copy_from_slice(&self.hold().register.to_le_bytes()))
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        let state = state.as_ref().try_into();
        let register = state.map_err(|e| GuestError::because("import the state", e))?;
        self.set(|vcpu| vcpu.register = u64::from_le_bytes(register));
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.hold().running
    }
}

/// Moves the dirty pages, by hand. Returns how many there were.
fn send(
    dirty: &mut DenseBitmap,
    from: &dyn PageReader,
    to: &dyn PageWriter,
) -> Result<u64, Failure> {
    for run in dirty.runs() {
        let mut bytes = vec![0; run.bytes(PageSize::BASE)];
        from.read_run(run, &mut bytes)?;
        to.write_run(run, &bytes)?;
    }
    let moved = dirty.count();
    dirty.clear_all();
    Ok(moved)
}

fn main() -> Result<(), Failure> {
    let (mut source, mut destination) = (Vmm::new(guest_memory()?), Vmm::new(guest_memory()?));
    let mut tracker = marked_tracker(&source.memory)?;
    let reader = VmMemory::new(source.memory.clone())?;
    let writer = VmMemory::new(destination.memory.clone())?;
    source.resume()?;

    // From here to the destination's `resume` is what the engine does, given these four objects.
    tracker.arm()?;
    let mut dirty = DenseBitmap::full(tracker.pages());
    for number in 0..5 {
        println!("round {number}: {} pages", send(&mut dirty, &reader, &writer)?);
        tracker.harvest(&mut dirty)?;
    }
    source.pause()?;
    tracker.harvest(&mut dirty)?;
    println!("residual: {} pages", send(&mut dirty, &reader, &writer)?);
    destination.import_state(source.export_state()?)?;
    destination.resume()?;
    destination.pause()?;
    let (before, after) = (source.counted()?, destination.counted()?);
    println!("counted {before} times at the source, {after} so far at the destination");
    assert_eq!(after, destination.hold().register, "nothing was lost or done twice");
    Ok(())
}
