// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where everything lies in guest memory, and how a vCPU starts.
//!
//! Two regions with a hole between them: system pages at address 0 (page tables, code, one control
//! page a vCPU), and the data that the guest works on. Page tables map the first 4 GiB one to one.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_xsave};
use precopy::memory::{MappedMemory, MemoryError};
use precopy::region::{Region, RegionError, RegionTable};
use precopy::units::{GuestAddress, PageIndex, PageSize};

use crate::config::GuestConfig;
use crate::model;
use crate::sys;

/// Pages of the first region.
pub(crate) const SYSTEM_PAGES: u64 = 64;
/// Address of the second region.
pub(crate) const DATA_ADDRESS: u64 = 16 << 20;
/// Most pages of the second region: all of it is below the interrupt controllers.
pub(crate) const DATA_PAGES_MAX: u64 = ((3 << 30) - DATA_ADDRESS) >> 12;

const PAGE_BYTES: u64 = 4096;
const PML4_PAGE: u64 = 1;
const PDPT_PAGE: u64 = 2;
const DIRECTORY_PAGE: u64 = 3;
/// Directories, one for each GiB that is mapped.
const DIRECTORIES: u64 = 4;
const CODE_PAGE: u64 = 9;
const CONTROL_PAGE: u64 = 16;

/// In a control page: not zero if the vCPU is to stop between two steps.
pub(crate) const CONTROL_STOP: usize = 0;
/// What the interrupt controller's task priority must read as.
pub(crate) const CONTROL_TPR: usize = 16;
/// Steps done and state of the random stream, on their way to the SSE register.
pub(crate) const CONTROL_STATE: usize = 64;
/// The same as the SSE register had it.
pub(crate) const CONTROL_SSE: usize = 80;

/// Every so many steps (a power of two) the guest checks more, and tells how far it is.
pub(crate) const CHECK_STEPS: u64 = 256;
/// Of 256 steps, so many go to hot pages; up to the next number, to the ring; the others anywhere.
pub(crate) const HOT_BELOW: u64 = 176;
pub(crate) const RING_BELOW: u64 = 240;

pub(crate) const PORT_PROGRESS: u16 = 0x10;
pub(crate) const PORT_STOP: u16 = 0x11;
pub(crate) const PORT_FAULT: u16 = 0x12;

pub(crate) const MSR_KERNEL_GS_BASE: u32 = 0xC000_0102;
const APIC_TPR: usize = 0x80;
pub(crate) const APIC_TPR_ADDRESS: u64 = 0xFEE0_0000 + APIC_TPR as u64;

/// How the guest found itself harmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Sse = 1,
    Future = 2,
    Check = 3,
    Debug = 4,
    Msr = 5,
    Apic = 6,
}

impl Fault {
    const ALL: [Self; 6] =
        [Self::Sse, Self::Future, Self::Check, Self::Debug, Self::Msr, Self::Apic];

    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Sse => "an SSE register does not hold what was left in it",
            Self::Future => "a page says that it was written by a step that is still to come",
            Self::Check => "a page's check word does not fit its counters",
            Self::Debug => "debug register 0 does not hold what it was given",
            Self::Msr => "KERNEL_GS_BASE does not hold what it was given",
            Self::Apic => "the interrupt controller does not hold the priority it was given",
        }
    }

    pub(crate) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u8 == code)
    }
}

/// The guest's memory map.
pub(crate) fn regions(config: &GuestConfig) -> Result<RegionTable, RegionError> {
    let system = Region { start: GuestAddress::new(0), pages: SYSTEM_PAGES };
    let data = Region { start: GuestAddress::new(DATA_ADDRESS), pages: config.pages };
    RegionTable::new(PageSize::BASE, &[system, data])
}

/// A page of the data as the memory map counts it.
pub(crate) fn data_page(page: u64) -> PageIndex {
    PageIndex::new(SYSTEM_PAGES + page)
}

/// A vCPU's control page.
pub(crate) fn control_page(vcpu: u8) -> PageIndex {
    PageIndex::new(CONTROL_PAGE + u64::from(vcpu))
}

/// Its address; other registers are given the same number, to see that they keep it.
pub(crate) fn control_address(vcpu: u8) -> u64 {
    control_page(vcpu).get() * PAGE_BYTES
}

/// Task priority of a vCPU's interrupt controller.
pub(crate) fn task_priority(vcpu: u8) -> u8 {
    0x10 + vcpu
}

/// The priority in the state of an interrupt controller.
pub(crate) const TPR_RANGE: std::ops::Range<usize> = APIC_TPR..APIC_TPR + 1;

/// Writes page tables, code, control pages and what the data hold from the start.
pub(crate) fn write(config: &GuestConfig, memory: &MappedMemory) -> Result<(), MemoryError> {
    /// Present, writable.
    const TABLE: u64 = 0b11;
    /// The same, and a page of 2 MiB.
    const LARGE: u64 = TABLE | 1 << 7;
    let entry = |page: u64, index: u64, value: u64| {
        memory.store_u64(PageIndex::new(page), PageIndex::new(index * 8).as_usize(), value)
    };
    entry(PML4_PAGE, 0, (PDPT_PAGE * PAGE_BYTES) | TABLE)?;
    for directory in 0..DIRECTORIES {
        let page = DIRECTORY_PAGE + directory;
        entry(PDPT_PAGE, directory, (page * PAGE_BYTES) | TABLE)?;
        for index in 0..512 {
            entry(page, index, (directory << 30) | (index << 21) | LARGE)?;
        }
    }
    memory.write_bytes(PageIndex::new(CODE_PAGE), 0, sys::code())?;
    for vcpu in 0..config.vcpus {
        let priority = u64::from(task_priority(vcpu));
        memory.store_u64(control_page(vcpu), CONTROL_TPR, priority)?;
    }
    for page in 0..config.pages {
        memory.store_u64(data_page(page), model::FILL_WORD * 8, model::fill(page))?;
    }
    Ok(())
}

/// General registers of a vCPU that has done nothing.
pub(crate) fn start_regs(config: &GuestConfig, vcpu: u8) -> kvm_regs {
    kvm_regs {
        rip: CODE_PAGE * PAGE_BYTES,
        rflags: 2,
        rbx: DATA_ADDRESS + u64::from(vcpu) * model::BLOCK_WORDS as u64 * 8,
        rdi: model::seed(config, vcpu),
        r8: control_address(vcpu),
        r9: config.hot_pages,
        r10: config.ring_pages,
        r11: config.cold_pages(),
        r12: model::MULTIPLIER,
        r13: model::INCREMENT,
        r14: model::CHECK_FACTOR,
        ..Default::default()
    }
}

/// Makes `sregs` those of 64-bit code in the most privileged mode, with paging.
pub(crate) fn set_long_mode(sregs: &mut kvm_sregs) {
    /// Protection, extension type, numeric error, write protection, paging.
    const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
    /// Physical address extension, SSE, SSE exceptions.
    const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
    /// Long mode enabled and active.
    const EFER: u64 = 1 << 8 | 1 << 10;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x10,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr3 = PML4_PAGE * PAGE_BYTES;
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0, CR4, EFER);
}

/// Puts two words into each of the first SSE registers of an extended state. Setting them by
/// `KVM_SET_FPU` would leave the state's header saying that the SSE registers are as after a
/// reset, and so they would be.
pub(crate) fn set_sse_registers(xsave: &mut kvm_xsave, registers: [[u64; 2]; 2]) {
    /// Where they lie in the legacy region, and the bit of the header that says that they hold
    /// something (Intel SDM, volume 1, 13.4), in words of 32 bits.
    const XMM0: usize = 160 / 4;
    const HEADER: usize = 512 / 4;
    const SSE: u32 = 1 << 1;
    let halves = registers.into_iter().flatten().flat_map(u64::to_le_bytes);
    let halves: Vec<u8> = halves.collect();
    for (to, from) in xsave.region[XMM0..].iter_mut().zip(halves.as_chunks().0) {
        *to = u32::from_le_bytes(*from);
    }
    xsave.region[HEADER] |= SSE;
}
