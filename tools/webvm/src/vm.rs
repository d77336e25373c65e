// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest: its vCPUs, its memory, and control over both.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use precopy::guest::{GuestControl, GuestError};
use precopy::limits;
use precopy::memory::MemoryError;
use precopy::report::GuestStall;
use precopy::units::{PageIndex, PageRun, Throttle};

use crate::audit::{AuditReport, Model};
use crate::clock;
use crate::config::{Amount, GuestConfig};
use crate::content;
use crate::pattern::OpStream;
use crate::ram::GuestRam;
use crate::state::{GuestState, VcpuState};
use crate::vcpu::{Control, Measured, PAUSE_LIMIT, Vcpu, VcpuShared, lock, summary};

/// Most ops of a vCPU: what a thousand years of writing do not reach, and a damaged state exceeds.
const OPS_MAX: u64 = 1 << 58;
/// Pages that are made resident at once while memory is filled.
const FILL_RUN_PAGES: usize = 4096;

/// Called with a page strictly after an op stored into it: where a VMM marks its own writes.
pub type WriteHook = Arc<dyn Fn(PageIndex) + Send + Sync>;

/// The test guest. Starts paused; dropping it ends its threads.
pub struct WebVm {
    config: GuestConfig,
    ram: Arc<dyn GuestRam>,
    hook: Option<WriteHook>,
    control: Arc<Control>,
    vcpus: Vec<Arc<VcpuShared>>,
    threads: Vec<JoinHandle<()>>,
    models: Vec<Model>,
}

impl fmt::Debug for WebVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, ops) = (&self.config, self.ops());
        f.debug_struct("WebVm").field("config", config).field("ops", &ops).finish_non_exhaustive()
    }
}

impl WebVm {
    /// A paused guest over `ram`, which is taken to be zero. A destination's is ready for
    /// [`import_state`](GuestControl::import_state); a source's is to be [filled](Self::fill).
    ///
    /// # Errors
    /// [`GuestError`] if the configuration or the memory is out of bounds, or a thread cannot be
    /// started.
    pub fn new(
        config: GuestConfig,
        ram: Arc<dyn GuestRam>,
        hook: Option<WriteHook>,
    ) -> Result<Self, GuestError> {
        config.check().map_err(|error| GuestError::because("be built", error))?;
        let (pages, page_bytes) = (ram.pages(), ram.page_bytes() as u64);
        if pages < u64::from(config.vcpus) || pages > limits::PAGES_MAX || page_bytes < 4096 {
            let why = format!("{} vCPUs do not fit {pages} pages of memory", config.vcpus);
            return Err(GuestError::because("be built", why));
        }
        let mut guest = Self {
            config,
            ram,
            hook,
            control: Arc::new(Control::new()),
            vcpus: Vec::new(),
            threads: Vec::new(),
            models: Vec::new(),
        };
        for number in 0..guest.config.vcpus {
            guest.start_vcpu(number, page_bytes)?;
        }
        Ok(guest)
    }

    fn start_vcpu(&mut self, number: u16, page_bytes: u64) -> Result<(), GuestError> {
        let stream = OpStream::new(&self.config, number, self.ram.pages(), page_bytes);
        let measured = Mutex::new(Measured::new());
        let shared = Arc::new(VcpuShared { ops: AtomicU64::new(0), measured });
        let vcpu = Vcpu {
            number,
            config: self.config.clone(),
            stream: stream.clone(),
            ram: Arc::clone(&self.ram),
            hook: self.hook.clone(),
            control: Arc::clone(&self.control),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name(format!("vcpu{number}"))
            .spawn(move || vcpu.run())
            .map_err(|error| GuestError::because("start a vCPU", error))?;
        self.models.push(Model::new(number, stream));
        self.vcpus.push(shared);
        self.threads.push(thread);
        Ok(())
    }

    /// What the guest does.
    #[must_use]
    pub fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Ops done by all vCPUs, each one page written.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ops.load(Ordering::Acquire)).sum()
    }

    /// The longest time that any vCPU stood still across its last migration. Only known where
    /// source and destination are processes of the same boot of one machine.
    #[must_use]
    pub fn blackout(&self) -> Option<Duration> {
        self.vcpus.iter().filter_map(|vcpu| lock(&vcpu.measured).blackout).max()
    }

    /// Populates memory as configured, on two threads. For a guest that has not run yet.
    ///
    /// # Errors
    /// [`GuestError`] if the guest has run, or memory cannot be written.
    pub fn fill(&mut self) -> Result<(), GuestError> {
        if self.control.is_running() || self.ops() > 0 {
            return Err(GuestError::because("fill its memory", "it has run already"));
        }
        if self.config.fill == Amount::Percent(0.0) {
            return Ok(());
        }
        let shares = self.models.iter().map(|model| model.stream().share());
        let runs = shares.flat_map(|share| {
            let end = share.start + share.filled;
            (share.start..end)
                .step_by(FILL_RUN_PAGES)
                .map(move |from| PageRun::from_range(from..end.min(from + FILL_RUN_PAGES as u64)))
        });
        let runs = Mutex::new(runs.collect::<Vec<_>>().into_iter());
        let fill = || -> Result<(), MemoryError> {
            let mut page_bytes = vec![0; self.ram.page_bytes()];
            loop {
                let Some(run) = lock(&runs).next() else { return Ok(()) };
                self.fill_run(run, &mut page_bytes)?;
            }
        };
        let filled = thread::scope(|scope| {
            let other = scope.spawn(fill);
            let own = fill();
            let other = other.join().expect("filling does not panic");
            own.and(other)
        });
        filled.map_err(|error| GuestError::because("fill its memory", error))
    }

    fn fill_run(&self, run: PageRun, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.ram.prefault(run)?;
        for page in run.iter() {
            content::filling(&self.config, page, bytes);
            self.ram.write_bytes(page, 0, bytes)?;
            if let Some(hook) = &self.hook {
                hook(page);
            }
        }
        Ok(())
    }

    /// Compares every page that was filled or written with what it must hold. The guest must be
    /// paused. What was replayed is remembered, so that the next audit replays only what is new;
    /// the first one at a destination replays from the first op.
    ///
    /// # Errors
    /// [`GuestError`] if the guest runs or memory cannot be read. Wrong pages are no error: see
    /// [`AuditReport::is_clean`].
    pub fn audit(&mut self) -> Result<AuditReport, GuestError> {
        if self.control.is_running() {
            return Err(GuestError::because("be audited", "it is running"));
        }
        let ops: Vec<u64> = self.vcpus.iter().map(|v| v.ops.load(Ordering::Acquire)).collect();
        let (config, ram) = (&self.config, &*self.ram);
        let work = Mutex::new(self.models.iter_mut().zip(ops));
        let audit = || -> Result<AuditReport, MemoryError> {
            let mut report = AuditReport::default();
            loop {
                let Some((model, ops)) = lock(&work).next() else { return Ok(report) };
                report.add(model.audit(config, ram, ops)?);
            }
        };
        let reports = thread::scope(|scope| {
            let other = scope.spawn(audit);
            let own = audit();
            let other = other.join().expect("an audit does not panic");
            own.and_then(|mut own| {
                own.add(other?);
                Ok(own)
            })
        });
        reports.map_err(|error| GuestError::because("be audited", error))
    }

    fn wake_all(&self) {
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }

    fn check_state(&self, state: &GuestState) -> Result<(), GuestError> {
        let bad = |why: String| Err(GuestError::because("import the state", why));
        let own = self.config.to_string();
        if state.config != own {
            return bad(format!("it is of another guest: {}; this one is: {own}", state.config));
        }
        if state.pages != self.ram.pages() || state.vcpus.len() != self.vcpus.len() {
            let (pages, own_pages) = (state.pages, self.ram.pages());
            return bad(format!("its guest has {pages} pages; this one has {own_pages}"));
        }
        if let Some(vcpu) = state.vcpus.iter().find(|vcpu| vcpu.ops > OPS_MAX) {
            return bad(format!("a vCPU claims to have done {} ops", vcpu.ops));
        }
        Ok(())
    }
}

impl GuestControl for WebVm {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.control.begin_pause();
        self.wake_all();
        if self.control.wait_until_parked(self.vcpus.len(), PAUSE_LIMIT) {
            return Ok(());
        }
        self.control.run();
        Err(GuestError::new(format!("pause within {} s", PAUSE_LIMIT.as_secs())))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if let Some(fault) = self.control.fault() {
            return Err(GuestError::because("resume", fault));
        }
        self.control.run();
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.control.set_throttle(throttle.get());
        self.wake_all();
        Ok(())
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        if self.control.is_running() {
            return Err(GuestError::because("export its state", "it is running"));
        }
        if let Some(fault) = self.control.fault() {
            return Err(GuestError::because("export its state", fault));
        }
        let vcpu = |vcpu: &Arc<VcpuShared>| VcpuState {
            ops: vcpu.ops.load(Ordering::Acquire),
            last_step_ns: lock(&vcpu.measured).last_step_ns,
        };
        let state = GuestState {
            config: self.config.to_string(),
            pages: self.ram.pages(),
            boot: clock::boot_id(),
            vcpus: self.vcpus.iter().map(vcpu).collect(),
        };
        Ok(state.encode())
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        if self.control.is_running() {
            return Err(GuestError::because("import the state", "it is running"));
        }
        let state = GuestState::decode(state)?;
        self.check_state(&state)?;
        let same_clock = state.boot != 0 && state.boot == clock::boot_id();
        for (vcpu, state) in self.vcpus.iter().zip(&state.vcpus) {
            let mut measured = lock(&vcpu.measured);
            *measured = Measured::new();
            if same_clock {
                (measured.last_step_ns, measured.crossing) = (state.last_step_ns, true);
            }
            vcpu.ops.store(state.ops, Ordering::Release);
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.control.is_running()
    }

    fn stall(&self) -> Option<GuestStall> {
        let mut all: Option<Histogram<u64>> = None;
        for vcpu in &self.vcpus {
            let measured = lock(&vcpu.measured);
            match &mut all {
                None => all = Some(measured.gaps.clone()),
                Some(all) => all.add(&measured.gaps).ok()?,
            }
        }
        summary(&all?)
    }
}

impl Drop for WebVm {
    fn drop(&mut self) {
        self.control.exit();
        self.wake_all();
        for thread in self.threads.drain(..) {
            // A vCPU that panicked has said so already.
            let _ = thread.join();
        }
    }
}
