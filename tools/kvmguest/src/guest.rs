// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine: a VM with its memory, interrupt controllers and vCPUs, and control over it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use precopy::dirty::DirtyTracker;
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::sys::{Backing, KvmSlots};
use precopy::units::Throttle;
use vmm_sys_util::errno;

use crate::audit::{self, AuditReport};
use crate::config::GuestConfig;
use crate::layout::{self, CONTROL_STOP, MSR_KERNEL_GS_BASE, TPR_RANGE};
use crate::model::{Model, Position};
use crate::state::{MachineState, VcpuState, readable_msrs, refused};
use crate::sys::{Kick, prepare_kicks, set_xsave};
use crate::track::{Choice, Tracking, Tracks};
use crate::vcpu::{Control, Vcpu, lock};

/// How long a pause may take.
const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// How long vCPUs may take to the end of a step.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// The first slot of the guest's memory.
const FIRST_SLOT: u32 = 0;

struct Running {
    fd: Arc<Mutex<VcpuFd>>,
    kick: Arc<Kick>,
    progress: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// The guest. Starts paused; dropping it ends its threads.
pub struct KvmGuest {
    config: GuestConfig,
    memory: Arc<MappedMemory>,
    vm: Arc<VmFd>,
    /// Whether it has its state: it was started or imported.
    ready: bool,
    msrs: Vec<u32>,
    vcpus: Vec<Running>,
    control: Arc<Control>,
    tracks: Tracks,
    models: Vec<Model>,
}

impl fmt::Debug for KvmGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmGuest").field("config", &self.config).finish_non_exhaustive()
    }
}

impl KvmGuest {
    /// A machine without state: for [`start`](Self::start) at a source, for
    /// [`import_state`](GuestControl::import_state) at a destination.
    ///
    /// # Errors
    /// [`GuestError`] if the configuration is out of bounds or KVM refuses.
    pub fn new(config: GuestConfig, tracking: Tracking) -> Result<Self, GuestError> {
        config.check().map_err(|error| GuestError::because("be built", error))?;
        let table = layout::regions(&config);
        let table = table.map_err(|error| GuestError::because("be built", error))?;
        let memory = MappedMemory::new(table, MapOptions::new(Backing::Anonymous));
        let memory = memory.map_err(|error| GuestError::because("have its memory", error))?;
        prepare_kicks().map_err(|error| GuestError::because("be interrupted", error))?;

        let kvm = Kvm::new().map_err(refused("open /dev/kvm"))?;
        let vm = Arc::new(kvm.create_vm().map_err(refused("create a VM"))?);
        let choice = Choice::new(tracking, &vm);
        let slots = KvmSlots::map(Arc::clone(&vm), Arc::clone(memory.host()), FIRST_SLOT);
        let slots = slots.map_err(|error| GuestError::because("give the VM memory", error))?;
        let tracks = choice.over(Arc::new(slots));
        create_devices(&vm).map_err(refused("create interrupt controllers"))?;
        let mut guest = Self {
            memory: Arc::new(memory),
            vm,
            ready: false,
            msrs: Vec::new(),
            vcpus: Vec::new(),
            control: Arc::new(Control::new()),
            tracks,
            models: (0..config.vcpus).map(|vcpu| Model::new(&config, vcpu)).collect(),
            config,
        };
        for number in 0..guest.config.vcpus {
            guest.create_vcpu(&kvm, number)?;
        }
        Ok(guest)
    }

    fn create_vcpu(&mut self, kvm: &Kvm, number: u8) -> Result<(), GuestError> {
        let create = || -> errno::Result<_> {
            let fd = self.vm.create_vcpu(u64::from(number))?;
            fd.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
            Ok((fd, kvm.get_msr_index_list()?))
        };
        let (fd, msrs) = create().map_err(refused("create a vCPU"))?;
        if number == 0 {
            self.msrs = readable_msrs(&fd, msrs.as_slice())?;
        }
        let rings = self.tracks.rings();
        if let Some(rings) = &rings {
            rings.add(&fd).map_err(|error| GuestError::because("create a vCPU", error))?;
        }
        let kick = Kick::new(&fd).map_err(|error| GuestError::because("create a vCPU", error))?;
        let (fd, kick) = (Arc::new(Mutex::new(fd)), Arc::new(kick));
        let progress = Arc::new(AtomicU64::new(0));
        let vcpu = Vcpu {
            number,
            fd: Arc::clone(&fd),
            kick: Arc::clone(&kick),
            control: Arc::clone(&self.control),
            rings,
            progress: Arc::clone(&progress),
        };
        let thread = thread::Builder::new()
            .name(format!("kvm-vcpu{number}"))
            .spawn(move || vcpu.run())
            .map_err(|error| GuestError::because("start a vCPU's thread", error))?;
        self.vcpus.push(Running { fd, kick, progress, thread });
        Ok(())
    }

    /// Fills memory and gives the vCPUs the state in which a new guest starts. It does not run yet.
    ///
    /// # Errors
    /// [`GuestError`] if it has state already, or KVM refuses.
    pub fn start(&mut self) -> Result<(), GuestError> {
        if self.ready {
            return Err(GuestError::because("start anew", "it has run already"));
        }
        layout::write(&self.config, &self.memory)
            .map_err(|error| GuestError::because("have its memory filled", error))?;
        for (vcpu, number) in self.vcpus.iter().zip(0..) {
            set_start(&self.config, &lock(&vcpu.fd), number)
                .map_err(refused("give a vCPU its first state"))?;
        }
        self.ready = true;
        Ok(())
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<MappedMemory> {
        &self.memory
    }

    /// What finds the writes of its vCPUs; there is nothing else that writes while it runs.
    ///
    /// # Errors
    /// [`GuestError`] if KVM refuses.
    pub fn tracker(&self) -> Result<Box<dyn DirtyTracker>, GuestError> {
        self.tracks.tracker()
    }

    /// Why this kind of tracker.
    #[must_use]
    pub fn tracker_why(&self) -> &str {
        self.tracks.why()
    }

    /// Steps that all vCPUs have told of so far.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.progress.load(Ordering::Relaxed)).sum()
    }

    /// For how long throttled vCPUs have been kept from running so far, all together.
    #[must_use]
    pub fn slowed(&self) -> Duration {
        self.control.slowed()
    }

    /// What the guest found wrong with itself, or KVM with it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.control.fault()
    }

    /// Brings every vCPU to the end of a step and compares all memory, and the registers, with what
    /// so many steps must have left. The guest is paused then. What was repeated is remembered, so
    /// the next audit repeats only what is new.
    ///
    /// # Errors
    /// [`GuestError`] if the guest does not get there. Wrong pages are no error: see
    /// [`AuditReport::is_clean`].
    pub fn audit(&mut self) -> Result<AuditReport, GuestError> {
        self.pause()?;
        self.stop_words(1)?;
        self.control.run();
        let stopped = self.control.wait_until_parked(self.vcpus.len(), STEP_LIMIT);
        let paused = self.pause();
        // A guest that could not be paused goes on; it must not stop after its next step.
        self.stop_words(0)?;
        paused?;
        if !stopped {
            return Err(GuestError::new(format!("end a step in {} s", STEP_LIMIT.as_secs())));
        }
        let mut at = Vec::new();
        for vcpu in &self.vcpus {
            let regs = lock(&vcpu.fd).get_regs().map_err(refused("be asked for registers"))?;
            at.push(Position { steps: regs.rsi, random: regs.rdi, ring: regs.rbp });
        }
        let fault = self.fault();
        audit::audit(&self.config, &self.memory, &mut self.models, &at, fault)
            .map_err(|error| GuestError::because("be audited", error))
    }

    /// Asks every vCPU to stop after its step, or not to.
    fn stop_words(&self, value: u64) -> Result<(), GuestError> {
        for vcpu in 0..self.config.vcpus {
            self.memory
                .store_u64(layout::control_page(vcpu), CONTROL_STOP, value)
                .map_err(|error| GuestError::because("be told to stop", error))?;
        }
        Ok(())
    }

    fn check_paused(&self, what: &str) -> Result<(), GuestError> {
        if self.control.is_running() {
            return Err(GuestError::because(what, "it is running"));
        }
        Ok(())
    }
}

/// Interrupt controllers and timer, in the kernel.
fn create_devices(vm: &VmFd) -> errno::Result<()> {
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config::default())
}

/// The state in which a vCPU starts.
fn set_start(config: &GuestConfig, fd: &VcpuFd, number: u8) -> errno::Result<()> {
    let mut sregs = fd.get_sregs()?;
    layout::set_long_mode(&mut sregs);
    fd.set_sregs(&sregs)?;
    let regs = layout::start_regs(config, number);
    fd.set_regs(&regs)?;
    let mut xsave = fd.get_xsave()?;
    layout::set_sse_registers(&mut xsave, [[regs.rsi, regs.rdi], [regs.r8, regs.r14]]);
    set_xsave(fd, &xsave)?;
    let mut debug = fd.get_debug_regs()?;
    debug.db[0] = regs.r8;
    fd.set_debug_regs(&debug)?;
    let mut lapic = fd.get_lapic()?;
    for byte in &mut lapic.regs[TPR_RANGE] {
        *byte = layout::task_priority(number).cast_signed();
    }
    fd.set_lapic(&lapic)?;
    let base =
        kvm_msr_entry { index: MSR_KERNEL_GS_BASE, data: regs.r8, ..kvm_msr_entry::default() };
    let msrs = Msrs::from_entries(&[base]).map_err(|_| errno::Error::new(libc::E2BIG))?;
    if fd.set_msrs(&msrs)? != 1 {
        return Err(errno::Error::new(libc::EIO));
    }
    // Application processors wait for an interrupt otherwise.
    fd.set_mp_state(kvm_bindings::kvm_mp_state { mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE })
}

impl GuestControl for KvmGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.control.begin_pause();
        self.vcpus.iter().for_each(|vcpu| vcpu.kick.kick(&vcpu.thread));
        if self.control.wait_until_parked(self.vcpus.len(), PAUSE_LIMIT) {
            return Ok(());
        }
        self.control.run();
        Err(GuestError::new(format!("pause within {} s", PAUSE_LIMIT.as_secs())))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if let Some(fault) = self.fault() {
            return Err(GuestError::because("resume", fault));
        }
        if !self.ready {
            return Err(GuestError::because("resume", "it has no state yet"));
        }
        self.control.run();
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.control.set_throttle(throttle.get());
        Ok(())
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.check_paused("export its state")?;
        if let Some(fault) = self.fault() {
            return Err(GuestError::because("export its state", fault));
        }
        let vcpus = self.vcpus.iter().map(|vcpu| VcpuState::read(&lock(&vcpu.fd), &self.msrs));
        let vcpus = vcpus.collect::<Result<_, _>>()?;
        Ok(MachineState::read(&self.config, &self.vm, vcpus)?.encode())
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.check_paused("import the state")?;
        if self.ready {
            return Err(GuestError::because("import the state", "it has run already"));
        }
        let state = MachineState::decode(&self.config, state)?;
        state.write(&self.vm)?;
        for (vcpu, state) in self.vcpus.iter().zip(&state.vcpus) {
            state.write(&lock(&vcpu.fd))?;
            vcpu.progress.store(state.regs.rsi, Ordering::Relaxed);
        }
        self.ready = true;
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.control.is_running()
    }
}

impl Drop for KvmGuest {
    fn drop(&mut self) {
        self.control.exit();
        for vcpu in &self.vcpus {
            vcpu.kick.kick(&vcpu.thread);
        }
        for vcpu in self.vcpus.drain(..) {
            // A vCPU that panicked has said so already.
            let _ = vcpu.thread.join();
        }
    }
}
