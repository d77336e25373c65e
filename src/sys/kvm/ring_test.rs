// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether dirty rings work here, found out in a VM made for it.
//!
//! A kernel can offer rings and then lose entries, or call a ring full that is empty, for ever. So
//! a small guest adds to a word of each of its pages, round after round, until its ring was full
//! several times; whoever copies each page after it was reported must hold every count in the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kvm_bindings::{KVM_EXIT_DIRTY_RING_FULL, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::errno::Errno;

use super::{KvmRings, KvmSlots};
use crate::limits;
use crate::region::RegionTable;
use crate::sys::{Backing, HostMap, write_bytes};
use crate::units::PageSize;

/// Pages that the guest writes; one before them holds its code.
const PAGES: u64 = 255;
/// How many times a ring's worth of writes is done.
const LAPS: u64 = 4;
const SLOT: u32 = 0;

/// What the guest does, in 32 bits: from `esi` to `ebx`, `ecx` times, adds one to a page's first
/// word.
const CODE: [u8; 18] = [
    0x89, 0xF7, // round: mov edi, esi
    0xFF, 0x07, // page: inc dword ptr [edi]
    0x81, 0xC7, 0x00, 0x10, 0x00, 0x00, // add edi, 4096
    0x39, 0xDF, // cmp edi, ebx
    0x72, 0xF4, // jb page
    0x49, // dec ecx
    0x75, 0xEF, // jnz round
    0xF4, // hlt
];

/// What a ring did in its test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RingTest {
    /// Stores that the guest made.
    pub writes: u64,
    /// Entries that were taken out of its ring.
    pub entries: u64,
    /// How often the ring was full.
    pub full_exits: u64,
}

/// Tries rings of so many entries, for at most `limit`. A thread that KVM does not give back in
/// time is left behind, with its VM.
///
/// # Errors
/// Why rings cannot be used here.
pub fn test_ring(entries: u32, limit: Duration) -> Result<RingTest, String> {
    within(limit, move || run(entries))
}

/// What a test in a thread of its own says, if it ends in time.
pub(crate) fn within(
    limit: Duration,
    test: impl FnOnce() -> Result<RingTest, String> + Send + 'static,
) -> Result<RingTest, String> {
    let (sender, result) = mpsc::sync_channel(1);
    let run = move || {
        // Whoever asked may not wait any longer.
        let _ = sender.send(test());
    };
    let thread = thread::Builder::new().name("precopy-ring-test".to_owned()).spawn(run);
    thread.map_err(|error| format!("no thread for the self-test: {error}"))?;
    match result.recv_timeout(limit) {
        Ok(done) => done,
        Err(_) => Err(format!("the self-test did not end within {} s", limit.as_secs_f32())),
    }
}

fn run(entries: u32) -> Result<RingTest, String> {
    let refused = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let vm = || -> io::Result<_> { Ok(Arc::new(Kvm::new()?.create_vm()?)) };
    let vm = vm().map_err(refused("no VM"))?;
    let mut rings = KvmRings::enable(Arc::clone(&vm), entries).map_err(refused("no dirty ring"))?;
    let table = RegionTable::single(PageSize::BASE, 1 + PAGES).map_err(|e| e.to_string())?;
    let host = HostMap::new(table, Backing::Anonymous).map_err(refused("no memory"))?;
    let host = Arc::new(host);
    let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(&host), SLOT);
    let slots = slots.map_err(refused("no memory slot"))?;
    write_bytes(host.maps()[0].words(), 0, &CODE);
    slots.log(true).map_err(refused("no dirty log"))?;

    let page_bytes = PageSize::BASE.bytes() as u64;
    let rounds = LAPS * u64::from(entries) / PAGES + 1;
    let start = || -> io::Result<VcpuFd> {
        let vcpu = vm.create_vcpu(0)?;
        set_flat_mode(&vcpu)?;
        let (rsi, rbx) = (page_bytes, (1 + PAGES) * page_bytes);
        vcpu.set_regs(&kvm_regs {
            rip: 0,
            rflags: 2,
            rsi,
            rbx,
            rcx: rounds,
            ..Default::default()
        })?;
        Ok(vcpu)
    };
    let mut vcpu = start().map_err(refused("no vCPU"))?;
    rings.add(&vcpu).map_err(refused("the ring cannot be mapped"))?;
    drive(&mut vcpu, &mut rings, &host, rounds)
}

/// Runs the guest to its end and follows its pages by what the ring says.
fn drive(
    vcpu: &mut VcpuFd,
    rings: &mut KvmRings,
    host: &HostMap,
    rounds: u64,
) -> Result<RingTest, String> {
    let words_per_page = PageSize::BASE.bytes() / size_of::<u64>();
    let words = host.maps()[0].words();
    let value = |page: u64| {
        let word = usize::try_from(page).ok().and_then(|page| words.get(page * words_per_page));
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    };
    let mut seen = vec![0; words.len() / words_per_page];
    let mut test = RingTest { writes: rounds * PAGES, ..RingTest::default() };
    let mut stalls = 0;
    loop {
        let (ended, full) = match vcpu.run() {
            Ok(VcpuExit::Hlt) => (true, false),
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => (false, true),
            Ok(other) => return Err(format!("its vCPU stopped unexpectedly: {other:?}")),
            Err(error) if error.errno() == Errno::EINTR as i32 => (false, false),
            Err(error) => return Err(format!("its vCPU cannot run: {error}")),
        };
        test.full_exits += u64::from(full);
        let mut reported = Vec::new();
        let taken = rings.take(|slot, page| {
            if slot == SLOT {
                reported.push(page);
            }
        });
        let taken = taken.map_err(|error| error.to_string())?;
        for page in reported {
            if let Some(seen) = usize::try_from(page).ok().and_then(|page| seen.get_mut(page)) {
                *seen = value(page);
            }
        }
        test.entries += taken;
        stalls = if taken == 0 { stalls + 1 } else { 0 };
        if ended {
            break;
        }
        if stalls > limits::KVM_RING_STALLS_MAX {
            return Err(format!(
                "after {} entries the kernel calls the ring full, and nothing is in it",
                test.entries
            ));
        }
    }
    let lost = (1..).zip(&seen[1..]).filter(|(page, seen)| value(*page) != **seen).count();
    let short = (1..=PAGES).filter(|page| value(*page) != rounds).count();
    match (lost, short) {
        (0, 0) => Ok(test),
        (0, _) => Err(format!("its guest did not write {short} of {PAGES} pages to the end")),
        _ => Err(format!("the ring lost the last writes to {lost} of {PAGES} pages")),
    }
}

/// Puts a vCPU into protected mode with segments that cover 4 GiB, without paging.
pub(crate) fn set_flat_mode(vcpu: &VcpuFd) -> io::Result<()> {
    let mut sregs = vcpu.get_sregs()?;
    // After a reset these are segments of 16 bits and 64 KiB, that of the code at the top.
    for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        (segment.base, segment.limit, segment.db, segment.g) = (0, u32::MAX, 1, 1);
    }
    sregs.cr0 |= 1;
    Ok(vcpu.set_sregs(&sregs)?)
}
