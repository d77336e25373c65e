// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VMM built on vm-memory adds to become migratable: the bitmap type of its guest memory,
//! the adapters, and `GuestControl`. Run with
//! `cargo run --release --example vmm_vm_memory --features vm-memory`.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::GuestMemory;
use precopy::memory::vm_memory::{VmMemory, marked_tracker};
use precopy::policy;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{PageIndex, PageRun, PageSize, Throttle};
use precopy::wire::Hello;
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

/// The sum of the guest's counters, which begin where the second region does.
fn counted(memory: &dyn GuestMemory) -> Result<u64, Failure> {
    let mut bytes = vec![0; PageSize::BASE.bytes()];
    (0..COUNTERS).try_fold(0, |sum, page| {
        memory.read_run(PageRun::new(PageIndex::new((64 << 8) + page), 1), &mut bytes)?;
        Ok(sum + bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)))
    })
}

fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default())?;
    let target = listener.local_addr().to_string();
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
    let destination = std::thread::spawn(move || {
        // A VMM would build the guest that the source describes; this one knows only one kind.
        let mut create = |_: &Hello| {
            let no_memory = |error| GuestError::because("get memory", error);
            let vmm = Vmm::new(guest_memory().map_err(no_memory)?);
            let memory = VmMemory::new(vmm.memory.clone()).map_err(|e| no_memory(e.into()))?;
            Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(vmm) })
        };
        receiver.receive(&mut create, &CancelToken::new(), &mut ())
    });

    let mut source = Vmm::new(guest_memory()?);
    source.resume()?;
    let mut tracker = marked_tracker(&source.memory)?;
    // vm-memory does not say which pages were ever written: the first round sends all of them.
    let memory = VmMemory::new(source.memory.clone())?;
    let regions = memory.table().clone();
    let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut source);
    let options = SourceOptions::new(policy::parse("xen")?);
    let mut connector = TcpConnector::new(target, TcpOptions::default());
    let report = send(options, &mut connector, parts, &CancelToken::new(), &mut ())?;
    println!("{:?}: {:?}, {:?}", report.outcome, report.totals, report.downtime);
    let mut received = destination.join().map_err(|_| "the destination panicked")??;
    received.guest.pause()?;
    let state = received.guest.export_state()?;
    let register = u64::from_le_bytes(state.as_ref().try_into()?);
    let counted = counted(&*received.memory)?;
    println!("the guest counted {register} times, its memory says {counted}");
    assert_eq!(register, counted, "nothing was lost or done twice");
    Ok(())
}
