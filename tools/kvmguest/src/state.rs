// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What travels beside memory: vCPUs, interrupt controllers, timer and clock, as KVM has them.
//!
//! ```text
//! frame "KVMG" ( guest's line: length u16, bytes | clock | PIC, PIC, IOAPIC | PIT
//!              | per vCPU: regs sregs xcrs xsave debugregs mp_state lapic events
//!                          | MSRs: count u32, entries | CPUID: count u32, entries )
//! ```
//!
//! Structures are KVM's own, in the machine's byte order: such a guest can only move between
//! machines of one architecture.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, Msrs, kvm_clock_data, kvm_cpuid_entry2,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use precopy::guest::GuestError;
use vmm_sys_util::errno;
use webvm::frame::{Frame, bad};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::GuestConfig;
use crate::sys;

const FRAME: Frame = Frame { magic: *b"KVMG", version: 1, of: "a KVM guest" };
const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// KVM refused.
pub(crate) fn refused(what: &'static str) -> impl Fn(errno::Error) -> GuestError {
    move |error| GuestError::because(what, std::io::Error::from(error))
}

/// One vCPU.
pub(crate) struct VcpuState {
    pub(crate) regs: kvm_regs,
    sregs: kvm_sregs,
    xcrs: kvm_xcrs,
    xsave: kvm_xsave,
    debug: kvm_debugregs,
    mp: kvm_mp_state,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
    cpuid: Vec<kvm_cpuid_entry2>,
}

impl VcpuState {
    /// Reads a vCPU that is not running. `msrs` are those that it has.
    pub(crate) fn read(vcpu: &VcpuFd, msrs: &[u32]) -> Result<Self, GuestError> {
        let read = || -> errno::Result<Self> {
            // First: it also settles events that the others would show half done.
            let mp = vcpu.get_mp_state()?;
            Ok(Self {
                mp,
                regs: vcpu.get_regs()?,
                sregs: vcpu.get_sregs()?,
                xcrs: vcpu.get_xcrs()?,
                xsave: vcpu.get_xsave()?,
                debug: vcpu.get_debug_regs()?,
                lapic: vcpu.get_lapic()?,
                events: vcpu.get_vcpu_events()?,
                msrs: read_msrs(vcpu, msrs)?,
                cpuid: vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?.as_slice().to_vec(),
            })
        };
        read().map_err(refused("export a vCPU's state"))
    }

    /// Gives it to a vCPU that has never run.
    pub(crate) fn write(&self, vcpu: &VcpuFd) -> Result<(), GuestError> {
        let part = |what: &str, done: errno::Result<()>| {
            let named = |error| {
                GuestError::because(format!("import its {what}"), std::io::Error::from(error))
            };
            done.map_err(named)
        };
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| bad("too much CPUID"))?;
        part("CPUID", vcpu.set_cpuid2(&cpuid))?;
        part("segments and control registers", vcpu.set_sregs(&self.sregs))?;
        part("registers", vcpu.set_regs(&self.regs))?;
        part("extended control registers", vcpu.set_xcrs(&self.xcrs))?;
        part("extended state", sys::set_xsave(vcpu, &self.xsave))?;
        part("debug registers", vcpu.set_debug_regs(&self.debug))?;
        part("run state", vcpu.set_mp_state(self.mp))?;
        part("interrupt controller", vcpu.set_lapic(&self.lapic))?;
        // After the interrupt controller: the deadline timer is one of them.
        write_msrs(vcpu, &self.msrs)?;
        part("events", vcpu.set_vcpu_events(&self.events))
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.regs.as_bytes());
        out.put_slice(self.sregs.as_bytes());
        out.put_slice(self.xcrs.as_bytes());
        out.put_slice(self.xsave.as_bytes());
        out.put_slice(self.debug.as_bytes());
        out.put_slice(self.mp.as_bytes());
        out.put_slice(self.lapic.as_bytes());
        out.put_slice(self.events.as_bytes());
        put_list(out, &self.msrs);
        put_list(out, &self.cpuid);
    }

    fn decode(from: &mut Bytes) -> Result<Self, GuestError> {
        Ok(Self {
            regs: take(from)?,
            sregs: take(from)?,
            xcrs: take(from)?,
            xsave: take(from)?,
            debug: take(from)?,
            mp: take(from)?,
            lapic: take(from)?,
            events: take(from)?,
            msrs: take_list(from, KVM_MAX_MSR_ENTRIES)?,
            cpuid: take_list(from, KVM_MAX_CPUID_ENTRIES)?,
        })
    }
}

/// A whole machine without its memory.
pub(crate) struct MachineState {
    config: String,
    clock: kvm_clock_data,
    irqchips: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
    pub(crate) vcpus: Vec<VcpuState>,
}

impl MachineState {
    /// Reads what belongs to the whole machine.
    pub(crate) fn read(
        config: &GuestConfig,
        vm: &VmFd,
        vcpus: Vec<VcpuState>,
    ) -> Result<Self, GuestError> {
        let read = || -> errno::Result<_> {
            let mut irqchips = [kvm_irqchip::default(); 3];
            for (chip, id) in irqchips.iter_mut().zip(IRQCHIPS) {
                chip.chip_id = id;
                vm.get_irqchip(chip)?;
            }
            Ok((vm.get_clock()?, irqchips, vm.get_pit2()?))
        };
        let (clock, irqchips, pit) = read().map_err(refused("export the machine's state"))?;
        Ok(Self { config: config.to_string(), clock, irqchips, pit, vcpus })
    }

    /// Gives it to a machine with the same vCPUs that has never run.
    pub(crate) fn write(&self, vm: &VmFd) -> Result<(), GuestError> {
        let write = || -> errno::Result<()> {
            for chip in &self.irqchips {
                vm.set_irqchip(chip)?;
            }
            vm.set_pit2(&self.pit)?;
            // What the flags say of the source's clock is nothing to set.
            vm.set_clock(&kvm_clock_data { clock: self.clock.clock, ..Default::default() })
        };
        write().map_err(refused("import the machine's state"))
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u16_le(u16::try_from(self.config.len()).unwrap_or(u16::MAX));
        out.put_slice(self.config.as_bytes());
        out.put_slice(self.clock.as_bytes());
        self.irqchips.iter().for_each(|chip| out.put_slice(chip.as_bytes()));
        out.put_slice(self.pit.as_bytes());
        self.vcpus.iter().for_each(|vcpu| vcpu.encode(&mut out));
        FRAME.seal(&out)
    }

    /// Reads what [`encode`](Self::encode) wrote for the same guest; anything else is an error.
    pub(crate) fn decode(config: &GuestConfig, state: Bytes) -> Result<Self, GuestError> {
        let mut from = FRAME.open(state)?;
        let length = from.try_get_u16_le().map_err(|_| bad("it ends early"))?;
        if from.len() < usize::from(length) {
            return Err(bad("it ends early"));
        }
        let of = from.split_to(usize::from(length));
        let own = config.to_string();
        if of != own.as_bytes() {
            let of = String::from_utf8_lossy(&of).into_owned();
            return Err(bad(format!("it is of another guest: {of}; this one is: {own}")));
        }
        let clock = take(&mut from)?;
        let irqchips = [take(&mut from)?, take(&mut from)?, take(&mut from)?];
        let pit = take(&mut from)?;
        let vcpus = (0..config.vcpus).map(|_| VcpuState::decode(&mut from));
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        if !from.is_empty() {
            return Err(bad("it goes on past its end"));
        }
        Ok(Self { config: own, clock, irqchips, pit, vcpus })
    }
}

/// The MSRs of `indices` that a vCPU can be asked for.
pub(crate) fn readable_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<u32>, GuestError> {
    let mut readable = Vec::with_capacity(indices.len());
    for index in indices.iter().take(KVM_MAX_MSR_ENTRIES) {
        let one = read_msrs(vcpu, std::slice::from_ref(index));
        if one.is_ok_and(|entries| entries.len() == 1) {
            readable.push(*index);
        }
    }
    Ok(readable)
}

/// Reads MSRs up to the first that cannot be read.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> errno::Result<Vec<kvm_msr_entry>> {
    let ask: Vec<_> =
        indices.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
    let too_many = |_| errno::Error::new(libc::E2BIG);
    let mut msrs = Msrs::from_entries(&ask).map_err(too_many)?;
    let read = vcpu.get_msrs(&mut msrs)?;
    Ok(msrs.as_slice().iter().take(read).copied().collect())
}

/// Sets MSRs. One that cannot be set but has its value all the same is as good.
fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), GuestError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let msrs = Msrs::from_entries(rest).map_err(|_| bad("it has too many MSRs"))?;
        let set = vcpu.set_msrs(&msrs).map_err(refused("import its MSRs"))?;
        let Some(stuck) = rest.get(set) else { return Ok(()) };
        let is = read_msrs(vcpu, &[stuck.index]).ok();
        let is = is.and_then(|is| is.first().map(|entry| entry.data));
        if is != Some(stuck.data) {
            let (index, data) = (stuck.index, stuck.data);
            return Err(bad(format!("MSR {index:#x} cannot be set to {data:#x} here")));
        }
        rest = &rest[set + 1..];
    }
    Ok(())
}

fn put_list<T: IntoBytes + Immutable>(out: &mut BytesMut, list: &[T]) {
    out.put_u32_le(u32::try_from(list.len()).unwrap_or(u32::MAX));
    list.iter().for_each(|entry| out.put_slice(entry.as_bytes()));
}

fn take<T: FromBytes>(from: &mut Bytes) -> Result<T, GuestError> {
    if from.len() < size_of::<T>() {
        return Err(bad("it ends early"));
    }
    let part = from.split_to(size_of::<T>());
    T::read_from_bytes(&part).map_err(|_| bad("it ends early"))
}

fn take_list<T: FromBytes>(from: &mut Bytes, most: usize) -> Result<Vec<T>, GuestError> {
    let count = from.try_get_u32_le().map_err(|_| bad("it ends early"))?;
    match usize::try_from(count) {
        Ok(count) if count <= most => (0..count).map(|_| take(from)).collect(),
        _ => Err(bad(format!("it has a list of {count} entries; at most {most} can be"))),
    }
}
