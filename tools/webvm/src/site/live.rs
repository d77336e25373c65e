// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site in real time: one thread is its vCPU and its network card, over real guest memory.
//!
//! The processor time that requests need is modelled, not burnt: a host with two processors could
//! not run guest, engine, and users at full load otherwise. But what the engine costs the guest
//! is measured: the time that writes take beyond what they took before tracking began is taken
//! from the guest's processor (`steal`), as it would be from a vCPU's.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::guest::{GuestControl, GuestError};
use precopy::report::GuestStall;
use precopy::units::{RequestLoad, Throttle, Tick};

use super::{Counters, LiveMemory, SessionKnown, Site, SiteAudit, SiteConfig, SiteMemory};
use crate::clock::monotonic_ns;
use crate::net::{Attach, GuestPort, PortWaker};
use crate::ram::GuestRam;
use crate::users::Acknowledged;
use crate::vcpu::{Control, Measured, PAUSE_LIMIT, lock, summary};
use crate::vm::WriteHook;

mod clock;
mod inside;

pub use clock::LiveClock;
use inside::{Hooked, Inside, SLEEP_MAX};

/// What the line that describes a site to a destination begins with.
const KIND: &str = "site ";

struct Shared {
    control: Control,
    inside: Mutex<Inside>,
    measured: Mutex<Measured>,
    waker: Mutex<Option<PortWaker>>,
    in_flight: AtomicU32,
    answered: AtomicU64,
    stolen_ns: AtomicU64,
    fault: Mutex<Option<String>>,
    /// Others that want to look inside while the guest runs.
    wanted: AtomicU32,
}

impl Shared {
    /// Looks inside between two steps of the guest.
    fn visit<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake();
        }
        let seen = look(&mut lock(&self.inside));
        self.wanted.fetch_sub(1, Ordering::AcqRel);
        seen
    }
}

/// The guest, in as many hands as need it. Dropping the last one ends its thread.
#[derive(Clone)]
pub struct LiveSite {
    shared: Arc<Shared>,
    clock: LiveClock,
    config: SiteConfig,
    _thread: Arc<Thread>,
}

struct Thread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl fmt::Debug for LiveSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSite").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LiveSite {
    /// A paused guest over `memory`, which is taken to be zero: [`boot`](Self::boot) it at a
    /// source; at a destination import a state.
    ///
    /// # Errors
    /// [`GuestError`] if the configuration does not fit the memory, or a thread cannot be started.
    pub fn new(
        config: SiteConfig,
        memory: Arc<dyn GuestRam>,
        clock: LiveClock,
        hook: Option<WriteHook>,
    ) -> Result<Self, GuestError> {
        let site =
            Site::new(config.clone()).map_err(|error| GuestError::because("be built", error))?;
        if memory.pages() != config.pages || memory.page_bytes() != super::layout::PAGE {
            let why = format!("its memory has {} pages, not {}", memory.pages(), config.pages);
            return Err(GuestError::because("be built", why));
        }
        let inside = Inside {
            site: Some(site),
            memory: Hooked { memory: LiveMemory::new(memory), hook },
            port: None,
            sent: 0,
            write_ns: 0.0,
            learnt: 0,
            stolen: Duration::ZERO,
            worked_until: Tick::ZERO,
        };
        let shared = Arc::new(Shared {
            control: Control::new(),
            inside: Mutex::new(inside),
            measured: Mutex::new(Measured::new()),
            waker: Mutex::new(None),
            in_flight: AtomicU32::new(0),
            answered: AtomicU64::new(0),
            stolen_ns: AtomicU64::new(0),
            fault: Mutex::new(None),
            wanted: AtomicU32::new(0),
        });
        let runner = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("site-vcpu0".to_owned())
            .spawn(move || runner.run(clock))
            .map_err(|error| GuestError::because("start its vCPU", error))?;
        let thread = Thread { shared: Arc::clone(&shared), handle: Some(handle) };
        Ok(Self { shared, clock, config, _thread: Arc::new(thread) })
    }

    /// Loads the data and fills memory. For a guest that has not run yet.
    ///
    /// # Errors
    /// [`GuestError`] if it runs, or memory cannot be written.
    pub fn boot(&self) -> Result<(), GuestError> {
        if self.shared.control.is_running() {
            return Err(GuestError::because("boot", "it is running"));
        }
        let mut inside = lock(&self.shared.inside);
        let Inside { site, memory, worked_until, .. } = &mut *inside;
        let Some(site) = site else { return Err(GuestError::because("boot", "it has no site")) };
        site.boot(memory);
        site.stand_still(self.clock.now());
        *worked_until = self.clock.now();
        memory.fault().map_or(Ok(()), |fault| Err(GuestError::because("boot", fault)))
    }

    /// What was configured.
    #[must_use]
    pub fn config(&self) -> &SiteConfig {
        &self.config
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> LiveClock {
        self.clock
    }

    /// The line that describes this guest to a destination.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{KIND}{} {}", self.clock.epoch_ns(), self.config)
    }

    /// The configuration and clock of a guest so described; `None` if it is no site.
    ///
    /// # Errors
    /// [`GuestError`] if it is one, but makes no sense.
    pub fn parse_description(line: &str) -> Option<Result<(SiteConfig, LiveClock), GuestError>> {
        let rest = line.strip_prefix(KIND)?;
        let parsed = || {
            let (epoch, config) = rest.split_once(' ')?;
            Some((config, LiveClock::since(epoch.parse().ok()?)))
        };
        Some(match parsed() {
            None => Err(GuestError::because("be built", format!("{line:?} is incomplete"))),
            Some((config, clock)) => config
                .parse()
                .map(|config| (config, clock))
                .map_err(|error: super::SiteConfigError| GuestError::because("be built", error)),
        })
    }

    /// How far the guest's memory has come: what the switch must know before a port is attached.
    #[must_use]
    pub fn attach_point(&self) -> Attach {
        self.shared.visit(|inside| {
            inside.site.as_ref().map_or_else(Attach::default, |site| Attach {
                received: site.received(),
                sent_acknowledged: site.acknowledged(),
            })
        })
    }

    /// Connects the guest to a network; an earlier port is dropped.
    pub fn attach(&self, port: Box<dyn GuestPort>) {
        let waker = port.waker();
        self.shared.visit(|inside| {
            inside.sent = inside.site.as_ref().map_or(0, Site::acknowledged);
            inside.port = Some(port);
        });
        *lock(&self.shared.waker) = Some(waker);
    }

    /// What the site has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.visit(|inside| inside.site.as_ref().map(Site::counters)).unwrap_or_default()
    }

    /// Requests answered, as of the guest's last step; unlike [`counters`](Self::counters) it
    /// does not disturb the guest.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Processor time that tracking has taken from the guest so far.
    #[must_use]
    pub fn stolen(&self) -> Duration {
        Duration::from_nanos(self.shared.stolen_ns.load(Ordering::Relaxed))
    }

    /// The longest time that the guest stood still across its last migration.
    #[must_use]
    pub fn blackout(&self) -> Option<Duration> {
        lock(&self.shared.measured).blackout
    }

    /// Why the guest can't go on, if that is so.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        lock(&self.shared.fault).clone()
    }

    /// Pauses the guest, compares memory with what the clients know, and lets it go on if it ran.
    ///
    /// # Errors
    /// [`GuestError`] if it cannot be paused or resumed.
    pub fn audit(
        &self,
        promises: &[Acknowledged],
        sessions: &[SessionKnown],
    ) -> Result<SiteAudit, GuestError> {
        let mut guest = self.clone();
        let ran = guest.is_running();
        guest.pause()?;
        let report = {
            let inside = lock(&self.shared.inside);
            let site = inside.site.as_ref();
            site.map(|site| site.audit(&inside.memory, promises, sessions))
        };
        if ran {
            guest.resume()?;
        }
        report.ok_or_else(|| GuestError::because("be audited", "it has no site"))
    }

    fn wake(&self) {
        if let Some(waker) = &*lock(&self.shared.waker) {
            waker.wake();
        }
    }
}

impl Shared {
    /// The guest's thread.
    fn run(&self, clock: LiveClock) {
        loop {
            self.control.park_while_paused();
            if self.control.is_exiting() {
                return;
            }
            let mut inside = lock(&self.inside);
            // The world went on while the guest stood still; its work did not.
            inside.stand_still(clock.now());
            while self.control.is_running() {
                lock(&self.measured).step(monotonic_ns());
                let idle_until = inside.step(clock, &self.stolen_ns);
                if let Some(site) = &inside.site {
                    self.in_flight.store(site.requests_in_flight(), Ordering::Relaxed);
                    self.answered.store(site.counters().answered, Ordering::Relaxed);
                }
                if let Some(fault) = inside.memory.fault() {
                    *lock(&self.fault) = Some(fault);
                    self.control.begin_pause();
                }
                if self.wanted.load(Ordering::Acquire) > 0 {
                    drop(inside);
                    while self.wanted.load(Ordering::Acquire) > 0 {
                        thread::sleep(Duration::from_micros(20));
                    }
                    inside = lock(&self.inside);
                    continue;
                }
                let Some(until) = idle_until else { continue };
                let now = clock.now();
                let sleep = until.since(now).min(SLEEP_MAX);
                if sleep.is_zero() {
                    continue;
                }
                match inside.port.as_mut().filter(|port| port.closed().is_none()) {
                    Some(port) => port.wait(Instant::now() + sleep),
                    None => {
                        // Others may want to attach one.
                        drop(inside);
                        thread::sleep(sleep.min(Duration::from_micros(200)));
                        inside = lock(&self.inside);
                    }
                }
            }
        }
    }
}

impl GuestControl for LiveSite {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.shared.control.begin_pause();
        self.wake();
        if self.shared.control.wait_until_parked(1, PAUSE_LIMIT) {
            return Ok(());
        }
        self.shared.control.run();
        Err(GuestError::new(format!("pause within {} s", PAUSE_LIMIT.as_secs())))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if let Some(fault) = self.fault() {
            return Err(GuestError::because("resume", fault));
        }
        self.shared.control.run();
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        let share = f64::from(100 - throttle.get()) / 100.0;
        self.shared.visit(|inside| {
            if let Some(site) = &mut inside.site {
                site.set_speed(share);
            }
        });
        Ok(())
    }

    fn export_state(&mut self) -> Result<Bytes, GuestError> {
        if self.is_running() {
            return Err(GuestError::because("export its state", "it is running"));
        }
        let inside = lock(&self.shared.inside);
        let site = inside.site.as_ref();
        let state = site.ok_or_else(|| GuestError::because("export its state", "it has none"))?;
        let mut out = Vec::from(&state.save()[..]);
        // The last step goes in front of the site's own state.
        let last = lock(&self.shared.measured).last_step_ns;
        out.splice(0..0, last.to_le_bytes());
        Ok(out.into())
    }

    fn import_state(&mut self, mut state: Bytes) -> Result<(), GuestError> {
        if self.is_running() {
            return Err(GuestError::because("import the state", "it is running"));
        }
        if state.len() < 8 {
            return Err(GuestError::because("import the state", "it is too short"));
        }
        let last = bytes::Buf::get_u64_le(&mut state);
        let mut inside = lock(&self.shared.inside);
        let site = Site::restore(&self.config, state, &inside.memory)?;
        inside.site = Some(site);
        let mut measured = lock(&self.shared.measured);
        *measured = Measured::new();
        (measured.last_step_ns, measured.crossing) = (last, last > 0);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.shared.control.is_running()
    }

    fn requests(&self) -> Option<RequestLoad> {
        let in_flight = self.shared.in_flight.load(Ordering::Relaxed);
        Some(RequestLoad { in_flight, answered: self.answered() })
    }

    fn stall(&self) -> Option<GuestStall> {
        summary(&lock(&self.shared.measured).gaps)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.control.exit();
        if let Some(waker) = &*lock(&self.shared.waker) {
            waker.wake();
        }
        if let Some(handle) = self.handle.take() {
            // A vCPU that panicked has said so already.
            let _ = handle.join();
        }
    }
}
