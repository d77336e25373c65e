// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One vCPU: a thread that writes pages, at its pace, until it is told otherwise.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use precopy::memory::MemoryError;
use precopy::report::GuestStall;

use crate::clock::monotonic_ns;
use crate::config::GuestConfig;
use crate::content::{self, BODY_AT, COUNT_AT, OP_AT, VCPU_AT};
use crate::pattern::OpStream;
use crate::ram::GuestRam;
use crate::vm::WriteHook;

/// How long the pause of a guest may take: far more than a vCPU stands still on a busy machine.
pub(crate) const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// Most ops between two looks at the clock.
const STEP_OPS: u64 = 16;
/// Longest sleep of a vCPU that has nothing to do: it wakes up to measure.
const TICK: Duration = Duration::from_micros(500);
/// The throttle holds vCPUs for its share of each such window.
const THROTTLE_WINDOW_NS: u64 = 10_000_000;
/// Ops that a vCPU that was not scheduled may catch up with, as time at its pace.
const BACKLOG_NS: u64 = 100_000_000;
/// A gap between two machines' clocks, or a damaged time stamp, is longer than this.
const BLACKOUT_MAX_NS: u64 = 3_600_000_000_000;

const PAUSED: u8 = 0;
const RUNNING: u8 = 1;
const EXITING: u8 = 2;

/// Locks, and goes on after a panic elsewhere: the data are plain numbers.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all vCPUs obey.
#[derive(Debug)]
pub(crate) struct Control {
    mode: AtomicU8,
    throttle_percent: AtomicU8,
    /// vCPUs that stand still.
    parked: Mutex<usize>,
    all_parked: Condvar,
    mode_changed: Condvar,
    fault: Mutex<Option<MemoryError>>,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            mode: AtomicU8::new(PAUSED),
            throttle_percent: AtomicU8::new(0),
            parked: Mutex::new(0),
            all_parked: Condvar::new(),
            mode_changed: Condvar::new(),
            fault: Mutex::new(None),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.mode.load(Ordering::Acquire) == RUNNING
    }

    fn set_mode(&self, mode: u8) {
        // Under the lock, so that no vCPU misses the change between its look and its wait.
        let _parked = lock(&self.parked);
        self.mode.store(mode, Ordering::Release);
        self.mode_changed.notify_all();
    }

    pub(crate) fn run(&self) {
        self.set_mode(RUNNING);
    }

    pub(crate) fn exit(&self) {
        self.set_mode(EXITING);
    }

    pub(crate) fn begin_pause(&self) {
        self.set_mode(PAUSED);
    }

    /// Waits until `vcpus` vCPUs stand still; `false` if they do not within `limit`.
    pub(crate) fn wait_until_parked(&self, vcpus: usize, limit: Duration) -> bool {
        let parked = lock(&self.parked);
        let wait = self.all_parked.wait_timeout_while(parked, limit, |parked| *parked < vcpus);
        *wait.unwrap_or_else(PoisonError::into_inner).0 >= vcpus
    }

    pub(crate) fn set_throttle(&self, percent: u8) {
        self.throttle_percent.store(percent, Ordering::Relaxed);
    }

    pub(crate) fn fault(&self) -> Option<String> {
        lock(&self.fault).as_ref().map(ToString::to_string)
    }

    pub(crate) fn is_exiting(&self) -> bool {
        self.mode.load(Ordering::Acquire) == EXITING
    }

    /// Stands still while the guest is paused.
    pub(crate) fn park_while_paused(&self) {
        let mut parked = lock(&self.parked);
        *parked += 1;
        self.all_parked.notify_all();
        while self.mode.load(Ordering::Acquire) == PAUSED {
            parked = self.mode_changed.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
        *parked -= 1;
    }
}

/// What a vCPU measures, and what it takes along.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Gaps between steps in nanoseconds.
    pub(crate) gaps: Histogram<u64>,
    /// `CLOCK_MONOTONIC` of the last step; 0 if there was none.
    pub(crate) last_step_ns: u64,
    /// The last step was taken before a migration.
    pub(crate) crossing: bool,
    /// The gap from the last step before the migration to the first one after it.
    pub(crate) blackout: Option<Duration>,
}

impl Measured {
    pub(crate) fn new() -> Self {
        let gaps = Histogram::new_with_bounds(1, BLACKOUT_MAX_NS, 2);
        Self {
            gaps: gaps.expect("bounds and digits are allowed constants"),
            last_step_ns: 0,
            crossing: false,
            blackout: None,
        }
    }

    /// Records the gap that a step at `now_ns` ends, unless it is nonsense.
    pub(crate) fn step(&mut self, now_ns: u64) {
        let gap = now_ns.checked_sub(self.last_step_ns).filter(|_| self.last_step_ns > 0);
        if let Some(gap) = gap.filter(|gap| *gap <= BLACKOUT_MAX_NS) {
            self.gaps.saturating_record(gap);
            if self.crossing {
                self.blackout = Some(Duration::from_nanos(gap));
            }
        }
        self.crossing = false;
        self.last_step_ns = now_ns;
    }
}

/// A distribution of gaps, if there were any.
pub(crate) fn summary(gaps: &Histogram<u64>) -> Option<GuestStall> {
    if gaps.is_empty() {
        return None;
    }
    let at = |quantile| Duration::from_nanos(gaps.value_at_quantile(quantile));
    let longest = Duration::from_nanos(gaps.max());
    Some(GuestStall::new(longest, at(0.5), at(0.99), at(0.999), gaps.len()))
}

/// What one vCPU shares with its guest.
#[derive(Debug)]
pub(crate) struct VcpuShared {
    /// Ops done. Exact while the guest is paused.
    pub(crate) ops: AtomicU64,
    pub(crate) measured: Mutex<Measured>,
}

/// Says how many ops are due.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    per_s: u64,
    start_ns: u64,
    issued: u64,
}

impl Pacer {
    pub(crate) fn new(per_s: u64, now_ns: u64) -> Self {
        Self { per_s, start_ns: now_ns, issued: 0 }
    }

    /// Ops due at `now_ns`, at most a step's worth; they count as issued. What a vCPU fell
    /// behind by more than its allowed backlog is forgotten.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> u64 {
        let passed = u128::from(now_ns.saturating_sub(self.start_ns));
        let target = passed * u128::from(self.per_s) / 1_000_000_000;
        let target = u64::try_from(target).unwrap_or(u64::MAX);
        let backlog = BACKLOG_NS.saturating_mul(self.per_s) / 1_000_000_000 + 1;
        self.issued = self.issued.max(target.saturating_sub(backlog));
        let due = target.saturating_sub(self.issued).min(STEP_OPS);
        self.issued += due;
        due
    }

    /// Time until the next op is due.
    fn wait_ns(&self, now_ns: u64) -> u64 {
        let next = u128::from(self.issued + 1) * 1_000_000_000 / u128::from(self.per_s.max(1));
        let at = u128::from(self.start_ns) + next;
        u64::try_from(at.saturating_sub(u128::from(now_ns))).unwrap_or(u64::MAX)
    }

    /// Time in which the vCPU was held does not count.
    fn shift(&mut self, held_ns: u64) {
        self.start_ns = self.start_ns.saturating_add(held_ns);
    }
}

/// How long a vCPU is to be held at `now_ns`.
fn hold_ns(percent: u8, now_ns: u64) -> u64 {
    let held = THROTTLE_WINDOW_NS / 100 * u64::from(percent);
    held.saturating_sub(now_ns % THROTTLE_WINDOW_NS)
}

/// One vCPU, on its own thread.
pub(crate) struct Vcpu {
    pub(crate) number: u16,
    pub(crate) config: GuestConfig,
    pub(crate) stream: OpStream,
    pub(crate) ram: Arc<dyn GuestRam>,
    pub(crate) hook: Option<WriteHook>,
    pub(crate) control: Arc<Control>,
    pub(crate) shared: Arc<VcpuShared>,
}

impl Vcpu {
    /// Runs until the guest is dropped.
    pub(crate) fn run(self) {
        let mut body = vec![0; self.config.body_bytes as usize];
        loop {
            match self.control.mode.load(Ordering::Acquire) {
                EXITING => return,
                PAUSED => self.control.park_while_paused(),
                _ => {
                    if let Err(error) = self.run_until_told(&mut body) {
                        lock(&self.control.fault).get_or_insert(error);
                        while self.control.is_running() {
                            thread::park_timeout(TICK);
                        }
                    }
                }
            }
        }
    }

    fn run_until_told(&self, body: &mut [u8]) -> Result<(), MemoryError> {
        let unpaced = self.config.pages_per_s == 0;
        let idle = !crate::audit::writes(self.config.pattern);
        let mut pacer = Pacer::new(self.ops_per_s(), monotonic_ns());
        let mut op = self.shared.ops.load(Ordering::Relaxed);
        while self.control.is_running() {
            let now_ns = monotonic_ns();
            let hold = hold_ns(self.control.throttle_percent.load(Ordering::Relaxed), now_ns);
            if hold > 0 {
                thread::park_timeout(Duration::from_nanos(hold));
                pacer.shift(monotonic_ns().saturating_sub(now_ns));
                continue;
            }
            lock(&self.shared.measured).step(now_ns);
            let due = match (idle, unpaced) {
                (true, _) => 0,
                (false, true) => STEP_OPS,
                (false, false) => pacer.take_due(now_ns),
            };
            if due == 0 {
                let wait = if idle { u64::MAX } else { pacer.wait_ns(now_ns) };
                thread::park_timeout(TICK.min(Duration::from_nanos(wait)));
                continue;
            }
            let end = op + due;
            while op < end && self.control.is_running() {
                self.write(op, body)?;
                op += 1;
                self.shared.ops.store(op, Ordering::Release);
            }
        }
        Ok(())
    }

    /// This vCPU's part of the guest's pace.
    fn ops_per_s(&self) -> u64 {
        let (all, vcpus) = (self.config.pages_per_s, u64::from(self.config.vcpus));
        all / vcpus + u64::from(u64::from(self.number) < all % vcpus)
    }

    fn write(&self, op: u64, body: &mut [u8]) -> Result<(), MemoryError> {
        let page = self.stream.page(op);
        let vcpu = u64::from(self.number);
        content::body(&self.config, vcpu, op, page, body);
        self.ram.fetch_add_u64(page, COUNT_AT, 1)?;
        self.ram.store_u64(page, OP_AT, op)?;
        self.ram.store_u64(page, VCPU_AT, vcpu)?;
        self.ram.write_bytes(page, BODY_AT, body)?;
        // After the last store: a mark before it could be harvested before the store is seen.
        if let Some(hook) = &self.hook {
            hook(page);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ops issued are counted against the clock's reading, so nothing here waits.
    #[test]
    fn pace_is_exact_over_any_reading_of_the_clock() {
        let mut pacer = Pacer::new(1000, 5_000);
        let mut issued = 0;
        let mut now = 5_000;
        for step in 0..10_000u64 {
            now += 1 + step * 7919 % 3_000_000;
            issued += pacer.take_due(now);
        }
        while let due @ 1.. = pacer.take_due(now) {
            issued += due;
        }
        assert_eq!(issued, (now - 5_000) / 1_000_000);
    }

    #[test]
    fn a_long_sleep_is_not_caught_up_with() {
        let mut pacer = Pacer::new(1000, 0);
        let now = 60_000_000_000;
        let mut issued = 0;
        while let due @ 1.. = pacer.take_due(now) {
            issued += due;
        }
        assert_eq!(issued, 101, "100 ms at 1000 per second, and the one that is due");
        assert_eq!(pacer.wait_ns(now), 1_000_000);
    }

    #[test]
    fn held_time_is_not_caught_up_with() {
        let mut pacer = Pacer::new(1000, 0);
        pacer.shift(9_000_000);
        assert_eq!(pacer.take_due(10_000_000), 1);
    }

    #[test]
    fn the_throttle_holds_its_share_of_each_window() {
        for percent in [0, 1, 50, 99] {
            let held = (0..10_000u64).filter(|us| hold_ns(percent, us * 1000) > 0).count();
            assert_eq!(held, usize::from(percent) * 100);
        }
    }

    #[test]
    fn nonsense_gaps_are_not_recorded() {
        let mut measured = Measured::new();
        measured.step(1000);
        assert_eq!(measured.gaps.len(), 0, "a first step ends no gap");
        measured.step(3000);
        assert_eq!(measured.gaps.len(), 1);
        for last in [9_000, 1] {
            measured.last_step_ns = last;
            measured.crossing = true;
            // Backwards, then more than an hour.
            measured.step(if last == 1 { BLACKOUT_MAX_NS + 2 } else { 8_000 });
            assert_eq!((measured.gaps.len(), measured.blackout), (1, None));
        }
        measured.last_step_ns = 1_000_000;
        measured.crossing = true;
        measured.step(3_000_000);
        measured.step(9_000_000);
        assert_eq!(measured.blackout, Some(Duration::from_millis(2)), "only the first gap");
    }
}
