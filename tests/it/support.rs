// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small guest that can prove that no write was lost and none happened twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::MarkedTracker;
use precopy::engine::CreatedGuest;
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::{Region, RegionTable};
use precopy::units::{GuestAddress, PageIndex, PageSize, Throttle};
use precopy::wire::Hello;

pub(crate) const VCPUS: usize = 2;
/// Longest wait for what only a hang keeps from happening.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which calls fail.
#[derive(Default, Debug)]
pub(crate) struct Faults {
    pub(crate) pause: AtomicBool,
    pub(crate) resume: AtomicBool,
    pub(crate) export: AtomicBool,
    pub(crate) import: AtomicBool,
}

/// vCPU v at step n adds one to word v of page `hash(v, n) % pages`; its only state is n.
pub(crate) struct TestGuest {
    pub(crate) memory: MappedMemory,
    pub(crate) dirty: Arc<AtomicBitmap>,
    pub(crate) faults: Arc<Faults>,
    steps: [u64; VCPUS],
    /// Steps that all vCPUs have made here, while they run too.
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    vcpus: Vec<JoinHandle<u64>>,
}

pub(crate) fn table(pages: u64) -> RegionTable {
    let first = pages / 3 + 1;
    let region = |start: u64, pages| Region { start: GuestAddress::new(start << 12), pages };
    RegionTable::new(PageSize::BASE, &[region(0, first), region(first + 64, pages - first)])
        .unwrap()
}

fn target(vcpu: usize, step: u64, pages: u64) -> u64 {
    // SplitMix64; only every other page is ever touched, so that there are pages of zeros.
    let mut z = step.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(vcpu as u64 + 1);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % pages) & !1
}

impl TestGuest {
    pub(crate) fn new(table: RegionTable) -> Self {
        let dirty = Arc::new(AtomicBitmap::new(table.pages()));
        Self {
            memory: MappedMemory::new(table, MapOptions::default()).unwrap(),
            dirty,
            faults: Arc::default(),
            steps: [0; VCPUS],
            progress: Arc::default(),
            stop: Arc::default(),
            vcpus: Vec::new(),
        }
    }

    pub(crate) fn tracker(&self) -> MarkedTracker {
        MarkedTracker::new(Arc::clone(&self.dirty))
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (vcpu, thread) in self.vcpus.drain(..).enumerate() {
            self.steps[vcpu] = thread.join().unwrap();
        }
    }

    pub(crate) fn total_steps(&self) -> u64 {
        self.steps.iter().sum()
    }

    /// Whether memory holds exactly the writes of all steps. The guest must be paused.
    pub(crate) fn check(&self) {
        assert!(self.vcpus.is_empty(), "checked while it runs");
        let pages = self.memory.table().pages();
        let mut expected = vec![[0u64; VCPUS]; pages as usize];
        for (vcpu, steps) in self.steps.iter().enumerate() {
            for step in 0..*steps {
                expected[target(vcpu, step, pages) as usize][vcpu] += 1;
            }
        }
        for (page, counts) in (0..).zip(&expected) {
            for (vcpu, count) in counts.iter().enumerate() {
                let found = self.memory.load_u64(PageIndex::new(page), 8 * vcpu).unwrap();
                assert_eq!(found, *count, "page {page}, vCPU {vcpu}: lost or doubled writes");
            }
        }
    }
}

fn fails(fault: &AtomicBool, what: &str) -> Result<(), GuestError> {
    if fault.load(Ordering::SeqCst) { Err(GuestError::new(what)) } else { Ok(()) }
}

impl GuestControl for TestGuest {
    fn pause(&mut self) -> Result<(), GuestError> {
        fails(&self.faults.pause, "pause, as the test wants it")?;
        self.halt();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        fails(&self.faults.resume, "resume, as the test wants it")?;
        if self.is_running() {
            return Ok(());
        }
        self.stop = Arc::default();
        self.vcpus = (0..VCPUS)
            .map(|vcpu| {
                let (memory, dirty) = (self.memory.clone(), Arc::clone(&self.dirty));
                let (stop, mut step) = (Arc::clone(&self.stop), self.steps[vcpu]);
                let progress = Arc::clone(&self.progress);
                thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let page = PageIndex::new(target(vcpu, step, dirty.len()));
                        memory.fetch_add_u64(page, 8 * vcpu, 1).unwrap();
                        dirty.mark(page);
                        step += 1;
                        progress.fetch_add(1, Ordering::Relaxed);
                        if step.is_multiple_of(64) {
                            thread::sleep(Duration::from_micros(100));
                        }
                    }
                    step
                })
            })
            .collect();
        Ok(())
    }

    fn throttle(&mut self, _throttle: Throttle) -> Result<(), GuestError> {
        Err(GuestError::new("be slowed"))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        fails(&self.faults.export, "export its state, as the test wants it")?;
        Ok(self.steps.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>().into())
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        fails(&self.faults.import, "import its state, as the test wants it")?;
        for (steps, bytes) in self.steps.iter_mut().zip(state.chunks_exact(8)) {
            *steps = u64::from_le_bytes(bytes.try_into().unwrap());
        }
        Ok(())
    }

    fn is_running(&self) -> bool {
        !self.vcpus.is_empty()
    }
}

impl Drop for TestGuest {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A guest that can be looked at while the engine holds it.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<std::sync::Mutex<TestGuest>>);

impl Shared {
    pub(crate) fn new(guest: TestGuest) -> Self {
        Self(Arc::new(std::sync::Mutex::new(guest)))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut TestGuest) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    /// Waits until the guest has made so many more steps, if it runs: how far it is must not
    /// depend on when its threads get a processor.
    pub(crate) fn go_on(&self, steps: u64) {
        let running = |guest: &mut TestGuest| guest.is_running().then(|| guest.progress.clone());
        let Some(progress) = self.with(running) else { return };
        let (from, began) = (progress.load(Ordering::Relaxed), Instant::now());
        while progress.load(Ordering::Relaxed) - from < steps {
            assert!(began.elapsed() < PATIENCE, "its vCPUs stand still");
            thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) fn created(&self) -> CreatedGuest {
        let memory = Arc::new(self.with(|guest| guest.memory.clone()));
        CreatedGuest { memory, guest: Box::new(self.clone()) }
    }
}

impl GuestControl for Shared {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.with(GuestControl::pause)
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.with(GuestControl::resume)
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.with(|guest| guest.throttle(throttle))
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        self.with(GuestControl::export_state)
    }

    fn import_state(&mut self, state: Bytes) -> Result<(), GuestError> {
        self.with(|guest| guest.import_state(state))
    }

    fn is_running(&self) -> bool {
        self.with(|guest| guest.is_running())
    }
}

/// Creates test guests and remembers the last one.
#[derive(Default)]
pub(crate) struct Factory {
    pub(crate) last: Option<Shared>,
    pub(crate) fail: bool,
    pub(crate) faults: Arc<Faults>,
}

impl precopy::engine::GuestFactory for Factory {
    fn create(&mut self, hello: &Hello) -> Result<CreatedGuest, GuestError> {
        if self.fail {
            return Err(GuestError::new("be created, as the test wants it"));
        }
        let mut guest = TestGuest::new(hello.regions.clone());
        guest.faults = Arc::clone(&self.faults);
        let shared = Shared::new(guest);
        let created = shared.created();
        self.last = Some(shared);
        Ok(created)
    }
}

/// Engine tests run one at a time: they count this process's threads and sockets.
pub(crate) fn serial() -> std::sync::MutexGuard<'static, ()> {
    static SERIAL: std::sync::Mutex<()> = std::sync::Mutex::new(());
    SERIAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Nothing of the engine is left. A thread ends a moment after whoever waits for it goes on, so
/// what is there yet gets time to go; what is left for good stays.
pub(crate) fn nothing_left(what: &str) {
    let began = Instant::now();
    let mut left = leftovers();
    while left != (Vec::new(), 0) && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
        left = leftovers();
    }
    assert_eq!(left, (Vec::new(), 0), "{what}: left behind");
}

/// Names of the engine's threads, and the number of open sockets.
fn leftovers() -> (Vec<String>, usize) {
    let entries = |dir: &str| std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    // A thread or file may go while the directory is read.
    let threads = entries("/proc/self/task")
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("precopy-"))
        .collect();
    let sockets = entries("/proc/self/fd")
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    (threads, sockets)
}
