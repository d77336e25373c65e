// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One vCPU and the thread that runs it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::KVM_EXIT_DIRTY_RING_FULL;
use kvm_ioctls::{VcpuExit, VcpuFd};
use precopy::dirty::kvm::KvmRingLog;

use crate::layout::{CHECK_STEPS, Fault, PORT_FAULT, PORT_PROGRESS, PORT_STOP};
use crate::sys::Kick;

/// Longest nap of a throttled vCPU at a time.
const NAP_MAX: Duration = Duration::from_secs(1);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all vCPUs are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    Run,
    Pause,
    Exit,
}

struct State {
    want: Want,
    /// Counts the starts: a vCPU that stopped by itself waits for the next one.
    start: u64,
    /// Since the last start.
    parked: usize,
    throttle_percent: u8,
    /// For how long vCPUs have napped, all together.
    slowed: Duration,
    fault: Option<String>,
}

/// The way to all vCPUs.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    pub(crate) fn new() -> Self {
        let state = State {
            want: Want::Pause,
            start: 0,
            parked: 0,
            throttle_percent: 0,
            slowed: Duration::ZERO,
            fault: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(crate) fn is_running(&self) -> bool {
        lock(&self.state).want == Want::Run
    }

    /// What the guest or KVM found wrong, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        lock(&self.state).fault.clone()
    }

    pub(crate) fn set_throttle(&self, percent: u8) {
        lock(&self.state).throttle_percent = percent.min(99);
        self.changed.notify_all();
    }

    /// For how long throttled vCPUs have slept, all together.
    pub(crate) fn slowed(&self) -> Duration {
        lock(&self.state).slowed
    }

    /// Lets all run.
    pub(crate) fn run(&self) {
        let mut state = lock(&self.state);
        if state.want == Want::Pause {
            state.want = Want::Run;
            state.start += 1;
            state.parked = 0;
            self.changed.notify_all();
        }
    }

    /// From now on all park; those in the guest must be kicked.
    pub(crate) fn begin_pause(&self) {
        self.turn_to(Want::Pause);
    }

    /// From now on all threads end.
    pub(crate) fn exit(&self) {
        self.turn_to(Want::Exit);
    }

    fn turn_to(&self, want: Want) {
        lock(&self.state).want = want;
        self.changed.notify_all();
    }

    /// Waits until so many are parked.
    pub(crate) fn wait_until_parked(&self, vcpus: usize, limit: Duration) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| state.parked < vcpus)
            .unwrap_or_else(PoisonError::into_inner);
        state.parked >= vcpus
    }

    /// Parks a vCPU until the next start after `seen`; `None` if its thread is to end.
    fn park(&self, seen: u64, kick: &Kick) -> Option<u64> {
        let parks = |state: &State| {
            state.want == Want::Pause || (state.want == Want::Run && state.start == seen)
        };
        let mut state = lock(&self.state);
        let mut counted = None;
        while parks(&state) {
            // A start that was taken back before this thread woke has reset the count.
            if counted != Some(state.start) {
                counted = Some(state.start);
                state.parked += 1;
                self.changed.notify_all();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Under the lock: whoever wants it out again kicks after this.
        kick.clear();
        (state.want == Want::Run).then_some(state.start)
    }

    /// Whether a vCPU that left the guest was asked to. If not, it may go in again.
    fn stays_out(&self, kick: &Kick) -> bool {
        let state = lock(&self.state);
        if state.want == Want::Run {
            kick.clear();
        }
        state.want != Want::Run
    }

    fn set_fault(&self, fault: String) {
        lock(&self.state).fault.get_or_insert(fault);
    }

    /// Sleeps as long as a throttled vCPU must after it ran for `ran`, or until something changes.
    fn nap(&self, ran: Duration) {
        let state = lock(&self.state);
        let percent = u32::from(state.throttle_percent);
        if percent == 0 || state.want != Want::Run {
            return;
        }
        let nap = (ran * percent / (100 - percent)).min(NAP_MAX);
        let still = |state: &mut State| {
            state.want == Want::Run && u32::from(state.throttle_percent) == percent
        };
        let began = Instant::now();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, nap, still)
            .unwrap_or_else(PoisonError::into_inner);
        state.slowed += began.elapsed();
    }
}

/// What the thread of a vCPU needs.
pub(crate) struct Vcpu {
    pub(crate) number: u8,
    /// Locked while it runs.
    pub(crate) fd: Arc<Mutex<VcpuFd>>,
    pub(crate) kick: Arc<Kick>,
    pub(crate) control: Arc<Control>,
    pub(crate) rings: Option<Arc<KvmRingLog>>,
    /// Steps done, as of the last time that the guest told.
    pub(crate) progress: Arc<AtomicU64>,
}

/// Why a vCPU came out of the guest.
enum Left {
    /// Something to do; it goes in again.
    Busy,
    /// It told how far it is.
    Progress,
    /// It is between two steps, as asked, or harmed: the exit must be completed, then it parks.
    ForGood,
    /// A kick, or what was left of one.
    Kicked,
}

impl Vcpu {
    /// Runs it until the control says that its thread is to end.
    pub(crate) fn run(&self) {
        let mut start = 0;
        while let Some(next) = self.control.park(start, &self.kick) {
            start = next;
            let mut fd = lock(&self.fd);
            if let Err(fault) = self.run_until_parked(&mut fd) {
                self.control.set_fault(format!("vCPU {}: {fault}", self.number));
            }
        }
    }

    /// Runs it until it is to park. KVM completes an exit at the next entry, so it parks only when
    /// KVM has refused entry: its state is whole then.
    fn run_until_parked(&self, fd: &mut VcpuFd) -> Result<(), String> {
        let (mut for_good, mut since) = (false, Instant::now());
        loop {
            match self.leave(fd)? {
                Left::Busy => {}
                Left::Progress => {
                    self.control.nap(since.elapsed());
                    since = Instant::now();
                }
                Left::ForGood => {
                    for_good = true;
                    self.kick.leave_next();
                }
                Left::Kicked if for_good || self.control.stays_out(&self.kick) => return Ok(()),
                Left::Kicked => {}
            }
        }
    }

    /// Enters the guest once.
    fn leave(&self, fd: &mut VcpuFd) -> Result<Left, String> {
        let exit = match fd.run() {
            Ok(exit) => exit,
            Err(error) if error.errno() == libc::EINTR => return Ok(Left::Kicked),
            // A spurious wake-up of a vCPU that waits for something.
            Err(error) if error.errno() == libc::EAGAIN => return Ok(Left::Busy),
            Err(error) => return Err(format!("KVM does not run it: {error}")),
        };
        match exit {
            VcpuExit::IoOut(PORT_PROGRESS, data) => {
                // The low 32 bits of the steps; they move on by a fixed number at a time.
                let told = data.first_chunk().map_or(0, |low| u32::from_le_bytes(*low));
                self.note_progress(told);
                Ok(Left::Progress)
            }
            VcpuExit::IoOut(PORT_STOP, _) => Ok(Left::ForGood),
            VcpuExit::IoOut(PORT_FAULT, data) => {
                let code = data.first().copied().unwrap_or(0);
                let text = Fault::of_code(code).map_or("an unknown fault", Fault::text);
                self.control.set_fault(format!("vCPU {} found: {text}", self.number));
                Ok(Left::ForGood)
            }
            VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => {
                let rings = self.rings.as_ref().ok_or("a dirty ring that it has not is full")?;
                rings.relieve().map_err(|error| error.to_string())?;
                Ok(Left::Busy)
            }
            other => Err(format!("it stopped unexpectedly: {other:?}")),
        }
    }

    fn note_progress(&self, low: u32) {
        let old = self.progress.load(Ordering::Relaxed);
        let mut now = (old & !u64::from(u32::MAX)) | u64::from(low);
        if now + CHECK_STEPS < old {
            now += 1 << 32;
        }
        self.progress.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttled_vcpu_sleeps_as_long_as_its_share_says() {
        let (control, ran) = (Control::new(), Duration::from_millis(1));
        let slept = || {
            let before = control.slowed();
            control.nap(ran);
            control.slowed() - before
        };
        control.set_throttle(75);
        assert_eq!(slept(), Duration::ZERO, "it does not run");
        control.run();
        assert!(slept() >= 3 * ran);
        control.set_throttle(99);
        assert!(slept() >= 99 * ran);
        control.set_throttle(0);
        assert_eq!(slept(), Duration::ZERO);
    }
}
