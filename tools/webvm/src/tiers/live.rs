// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tier over real memory, on a thread that stops between two operations.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::MemoryError;
use precopy::report::GuestStall;
use precopy::units::{PageRun, Throttle};

use crate::clock::{self, monotonic_ns};
use crate::ram::GuestRam;
use crate::state::{GuestState, VcpuState};
use crate::vcpu::{Control, Measured, PAUSE_LIMIT, lock, summary};
use crate::vm::WriteHook;

use super::config::TierConfig;
use super::memory::{PAGE_BYTES, Real};
use super::model::{Model, TierAudit};

/// Most operations between two looks at the clock.
const STEP_OPS: u64 = 16;
/// Longest sleep of the vCPU.
const NAP: Duration = Duration::from_micros(500);
/// The throttle holds the vCPU for its share of each such window.
const THROTTLE_WINDOW_NS: u64 = 10_000_000;
/// Time for which a vCPU that was not scheduled catches up.
const BACKLOG_NS: u64 = 100_000_000;
/// Most operations of a tier that a migration believes.
const OPS_MAX: u64 = 1 << 48;

/// What the thread and its owners share.
struct Vcpu {
    config: TierConfig,
    model: Model,
    ram: Arc<dyn GuestRam>,
    hook: Option<WriteHook>,
    control: Control,
    throttle_percent: AtomicU8,
    /// Operations done. Exact while paused.
    ops: AtomicU64,
    /// Operations that found a value or page that is not as it was stored.
    bad_reads: AtomicU64,
    measured: Mutex<Measured>,
    fault: Mutex<Option<MemoryError>>,
}

impl Vcpu {
    fn memory(&self) -> Real<'_> {
        Real { ram: &*self.ram, hook: self.hook.as_ref() }
    }

    fn live(&self) {
        loop {
            self.control.park_while_paused();
            if self.control.is_exiting() {
                return;
            }
            if let Err(error) = self.run_until_told() {
                lock(&self.fault).get_or_insert(error);
                while self.control.is_running() {
                    thread::park_timeout(NAP);
                }
            }
        }
    }

    fn run_until_told(&self) -> Result<(), MemoryError> {
        let per_s = u128::from(self.config.ops_per_s());
        let (mut last_ns, mut worked_ns, mut issued) = (monotonic_ns(), 0_u128, 0);
        while self.control.is_running() {
            let now_ns = monotonic_ns();
            let passed_ns = now_ns.saturating_sub(last_ns).min(BACKLOG_NS);
            last_ns = now_ns;
            let percent = u64::from(self.throttle_percent.load(Ordering::Relaxed));
            let held_ns = THROTTLE_WINDOW_NS / 100 * percent;
            if now_ns % THROTTLE_WINDOW_NS < held_ns {
                let left_ns = held_ns - now_ns % THROTTLE_WINDOW_NS;
                thread::park_timeout(Duration::from_nanos(left_ns));
                last_ns = monotonic_ns();
                continue;
            }
            lock(&self.measured).step(now_ns);
            worked_ns += u128::from(passed_ns);
            let due = (worked_ns * per_s / 1_000_000_000).saturating_sub(issued);
            let due = u64::try_from(due).unwrap_or(STEP_OPS).min(STEP_OPS);
            if due == 0 {
                thread::park_timeout(NAP);
            }
            for _ in 0..due {
                if !self.control.is_running() {
                    break;
                }
                let op = self.ops.load(Ordering::Relaxed);
                if !self.model.run(op, &mut self.memory())? {
                    self.bad_reads.fetch_add(1, Ordering::Relaxed);
                }
                self.ops.store(op + 1, Ordering::Release);
                issued += 1;
            }
        }
        Ok(())
    }
}

/// The thread, which ends with its last owner.
struct Thread {
    vcpu: Arc<Vcpu>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.vcpu.control.exit();
        if let Some(handle) = self.handle.take() {
            handle.thread().unpark();
            // A vCPU that panicked has said so already.
            let _ = handle.join();
        }
    }
}

/// A tier as a guest with one vCPU. Starts paused. Clones are the same guest, so that the engine
/// may have one and an auditor another; dropping the last ends the thread.
#[derive(Clone)]
pub struct TierVm(Arc<Thread>);

impl fmt::Debug for TierVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, ops) = (&self.vcpu().config, self.ops());
        f.debug_struct("TierVm").field("config", config).field("ops", &ops).finish_non_exhaustive()
    }
}

impl TierVm {
    /// A paused tier over `ram`, which is taken to be zero. A destination's is ready for
    /// [`import_state`](GuestControl::import_state); a source's is to be [filled](Self::fill).
    ///
    /// # Errors
    /// [`GuestError`] if the configuration is out of bounds, the memory too small, or the thread
    /// cannot be started.
    pub fn new(
        config: TierConfig,
        ram: Arc<dyn GuestRam>,
        hook: Option<WriteHook>,
    ) -> Result<Self, GuestError> {
        let model = Model::new(&config).map_err(|error| GuestError::because("be built", error))?;
        let (pages, needs) = (ram.pages(), model.pages());
        if ram.page_bytes() as u64 != PAGE_BYTES || pages < needs {
            let bytes = ram.page_bytes();
            let why = format!(
                "its memory has {pages} pages of {bytes} bytes; it must have at least {needs} of \
                 {PAGE_BYTES}: enlarge it, or shrink the tier"
            );
            return Err(GuestError::because("be built", why));
        }
        let vcpu = Arc::new(Vcpu {
            config,
            model,
            ram,
            hook,
            control: Control::new(),
            throttle_percent: AtomicU8::new(0),
            ops: AtomicU64::new(0),
            bad_reads: AtomicU64::new(0),
            measured: Mutex::new(Measured::new()),
            fault: Mutex::new(None),
        });
        let own = Arc::clone(&vcpu);
        let handle = thread::Builder::new()
            .name("tier".to_owned())
            .spawn(move || own.live())
            .map_err(|error| GuestError::because("start a vCPU", error))?;
        Ok(Self(Arc::new(Thread { vcpu, handle: Some(handle) })))
    }

    fn vcpu(&self) -> &Vcpu {
        &self.0.vcpu
    }

    fn must_be_paused(&self, what: &str) -> Result<(), GuestError> {
        if self.vcpu().control.is_running() {
            return Err(GuestError::because(what, "it is running"));
        }
        match lock(&self.vcpu().fault).as_ref() {
            Some(fault) => Err(GuestError::because(what, fault.to_string())),
            None => Ok(()),
        }
    }

    /// What the tier does.
    #[must_use]
    pub fn config(&self) -> &TierConfig {
        &self.vcpu().config
    }

    /// Operations done.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.vcpu().ops.load(Ordering::Acquire)
    }

    /// Operations that found a value or a page that is not as it was stored. Must be 0.
    #[must_use]
    pub fn bad_reads(&self) -> u64 {
        self.vcpu().bad_reads.load(Ordering::Relaxed)
    }

    /// The time that the vCPU stood still across its last migration, where it is known.
    #[must_use]
    pub fn blackout(&self) -> Option<Duration> {
        lock(&self.vcpu().measured).blackout
    }

    /// Puts the data there that the tier starts with. For a tier that has not run yet.
    ///
    /// # Errors
    /// [`GuestError`] if it has run, or memory cannot be written.
    pub fn fill(&self) -> Result<(), GuestError> {
        let what = "fill its memory";
        self.must_be_paused(what)?;
        if self.ops() > 0 {
            return Err(GuestError::because(what, "it has run already"));
        }
        let vcpu = self.vcpu();
        let fill = || {
            vcpu.ram.prefault(PageRun::from_range(0..vcpu.model.pages()))?;
            vcpu.model.populate(&mut vcpu.memory())
        };
        fill().map_err(|error| GuestError::because(what, error))
    }

    /// Replays every operation on a model and compares. The tier must be paused.
    ///
    /// # Errors
    /// [`GuestError`] if it runs or memory cannot be read. What is wrong is no error: see
    /// [`TierAudit::is_clean`].
    pub fn audit(&self) -> Result<TierAudit, GuestError> {
        self.must_be_paused("be audited")?;
        let audit = self.vcpu().model.audit(self.ops(), &mut self.vcpu().memory());
        audit.map_err(|error| GuestError::because("be audited", error))
    }
}

impl GuestControl for TierVm {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.vcpu().control.begin_pause();
        if let Some(handle) = &self.0.handle {
            handle.thread().unpark();
        }
        if self.vcpu().control.wait_until_parked(1, PAUSE_LIMIT) {
            return Ok(());
        }
        self.vcpu().control.run();
        Err(GuestError::new(format!("pause within {} s", PAUSE_LIMIT.as_secs())))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if !self.vcpu().control.is_running() {
            self.must_be_paused("resume")?;
        }
        self.vcpu().control.run();
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.vcpu().throttle_percent.store(throttle.get(), Ordering::Relaxed);
        Ok(())
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.must_be_paused("export its state")?;
        let last_step_ns = lock(&self.vcpu().measured).last_step_ns;
        let state = GuestState {
            config: self.vcpu().config.to_string(),
            pages: self.vcpu().ram.pages(),
            boot: clock::boot_id(),
            vcpus: vec![VcpuState { ops: self.ops(), last_step_ns }],
        };
        Ok(state.encode())
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.must_be_paused("import the state")?;
        let bad = |why: String| Err(GuestError::because("import the state", why));
        let state = GuestState::decode(state)?;
        let (own, pages) = (self.vcpu().config.to_string(), self.vcpu().ram.pages());
        if state.config != own {
            return bad(format!("it is of another guest: {}; this one is: {own}", state.config));
        }
        let [vcpu] = state.vcpus.as_slice() else {
            return bad(format!("it has {} vCPUs; a tier has one", state.vcpus.len()));
        };
        if state.pages != pages || vcpu.ops > OPS_MAX {
            let (pages_there, ops) = (state.pages, vcpu.ops);
            return bad(format!("it claims {ops} operations and {pages_there} pages, not {pages}"));
        }
        let mut measured = lock(&self.vcpu().measured);
        *measured = Measured::new();
        if state.boot != 0 && state.boot == clock::boot_id() {
            (measured.last_step_ns, measured.crossing) = (vcpu.last_step_ns, true);
        }
        self.vcpu().ops.store(vcpu.ops, Ordering::Release);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.vcpu().control.is_running()
    }

    fn stall(&self) -> Option<GuestStall> {
        summary(&lock(&self.vcpu().measured).gaps)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use precopy::sim::VirtualGuest as _;
    use precopy::units::{PageIndex, PageSize, Tick};

    use super::super::Tier;
    use super::*;
    use crate::VecRam;

    const TIERS: [&str; 3] = [
        "tier=memcached,items=3000,ops_per_s=200000,set_share=0.3,kernel_pages=50,bump_s=1",
        "tier=memcached,items=900,value_bytes=5001,ops_per_s=200000,set_share=0.8,kernel_pages=0",
        "tier=database,pool_mib=2,log_mib=1,ops_per_s=20000,matrix=write30,cleaner_s=1,\
         kernel_pages=100,kernel_writes=5",
    ];

    fn ram(line: &str) -> Arc<VecRam> {
        let pages = Model::new(&line.parse().unwrap()).unwrap().pages() as usize;
        Arc::new(VecRam::new(PageSize::BASE, pages))
    }

    fn vm(line: &str, ram: &Arc<VecRam>) -> TierVm {
        TierVm::new(line.parse().unwrap(), Arc::<VecRam>::clone(ram), None).unwrap()
    }

    fn run_for(vm: &mut TierVm, ops: u64) {
        let goal = vm.ops() + ops;
        vm.resume().unwrap();
        let begun = std::time::Instant::now();
        while vm.ops() < goal {
            assert!(begun.elapsed() < Duration::from_secs(60), "it stands still");
            thread::sleep(Duration::from_millis(1));
        }
        vm.pause().unwrap();
    }

    fn clean(vm: &TierVm) {
        let audit = vm.audit().unwrap();
        assert!(audit.is_clean() && vm.bad_reads() == 0, "{audit}, {} bad", vm.bad_reads());
        assert!(audit.bodies > 100 && audit.words > 1000, "{audit}");
    }

    #[test]
    fn what_runs_live_is_what_a_replay_says() {
        for line in TIERS {
            let ram = ram(line);
            let mut vm = vm(line, &ram);
            vm.fill().unwrap();
            for _ in 0..3 {
                run_for(&mut vm, 3000);
                clean(&vm);
            }
        }
    }

    /// To other memory and another thread, and on.
    #[test]
    fn a_tier_moves_with_its_memory_and_state() {
        for line in TIERS {
            let (from, to) = (ram(line), ram(line));
            let mut source = vm(line, &from);
            source.fill().unwrap();
            run_for(&mut source, 4000);
            let mut bytes = vec![0; 4096];
            for page in (0..from.pages()).map(PageIndex::new) {
                from.read_bytes(page, 0, &mut bytes).unwrap();
                to.write_bytes(page, 0, &bytes).unwrap();
            }
            let mut destination = vm(line, &to);
            let state = source.export_state().unwrap();
            destination.import_state(state.clone()).unwrap();
            clean(&destination);
            run_for(&mut destination, 2000);
            clean(&destination);
            assert!(destination.blackout().is_some());
            let other = line.replace("kernel_pages=", "seed=9,kernel_pages=");
            let mut other = vm(&other, &to);
            assert!(other.import_state(state).is_err());
            assert!(destination.fill().is_err());
        }
    }

    /// A page that goes back to what it was, as if its last transfer were forgotten, is found.
    #[test]
    fn a_lost_write_is_found() {
        for line in TIERS {
            let ram = ram(line);
            let mut vm = vm(line, &ram);
            vm.fill().unwrap();
            run_for(&mut vm, 2000);
            let all = |ram: &VecRam| {
                let mut pages = vec![vec![0; 4096]; ram.pages() as usize];
                for (page, bytes) in pages.iter_mut().enumerate() {
                    ram.read_bytes(PageIndex::new(page as u64), 0, bytes).unwrap();
                }
                pages
            };
            let before = all(&ram);
            run_for(&mut vm, 3000);
            let after = all(&ram);
            let changed: Vec<_> = (0..before.len()).filter(|p| before[*p] != after[*p]).collect();
            assert!(changed.len() > 20);
            for page in changed.iter().step_by(changed.len() / 10) {
                let number = PageIndex::new(*page as u64);
                ram.write_bytes(number, 0, &before[*page]).unwrap();
                let audit = vm.audit().unwrap();
                assert!(!audit.is_clean(), "{line}: page {page} is old");
                ram.write_bytes(number, 0, &after[*page]).unwrap();
            }
            clean(&vm);
            // A word that runs ahead is a write done twice.
            ram.fetch_add_u64(PageIndex::new(changed[0] as u64), 0, 1).unwrap();
            let audit = vm.audit().unwrap();
            assert!(audit.ahead + audit.wrong_bodies > 0, "{audit}");
        }
    }

    /// The hook hears of exactly the pages that virtual time writes.
    #[test]
    fn live_and_virtual_write_the_same_pages() {
        for line in TIERS {
            let ram = ram(line);
            let heard = Arc::new(Mutex::new(BTreeSet::new()));
            let ear = Arc::clone(&heard);
            let hook: WriteHook = Arc::new(move |page| {
                lock(&ear).insert(page);
            });
            let config: TierConfig = line.parse().unwrap();
            let memory = Arc::<VecRam>::clone(&ram);
            let mut vm = TierVm::new(config.clone(), memory, Some(hook)).unwrap();
            vm.fill().unwrap();
            lock(&heard).clear();
            run_for(&mut vm, 3000);
            let (mut tier, mut told) = (Tier::new(config.clone()).unwrap(), BTreeSet::new());
            let until = (u128::from(vm.ops()) * 1_000_000_000).div_ceil(config.ops_per_s().into());
            let until = Tick::from_nanos(u64::try_from(until).unwrap());
            tier.run(until, true, Throttle::NONE, &mut |page| {
                told.insert(page);
            });
            assert_eq!(tier.ops(), vm.ops());
            assert_eq!(*lock(&heard), told);
        }
    }

    #[test]
    fn memory_that_is_too_small_is_refused() {
        let small = Arc::new(VecRam::new(PageSize::BASE, 10));
        let error = TierVm::new(TIERS[0].parse().unwrap(), small, None).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("10 pages") && source.contains("at least"), "{source}");
    }
}
