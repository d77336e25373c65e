// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the engine asks of trackers, memory, guests and connections, and in which order.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use precopy::bitmap::DenseBitmap;
use precopy::dirty::{DirtyError, DirtyTracker, Harvest, MarkedTracker};
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, EngineEvent, GuestFactory, MigrateError,
    ReceivedGuest, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MappedMemory, MemoryError, PageReader, PageWriter};
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::session::destination::DestinationPhase;
use precopy::session::{SessionEvent, SourcePhase};
use precopy::transport::{Connection, Connector, Listener};
use precopy::units::{PageIndex, PageRun, Throttle};
use precopy::wire::Hello;

use crate::loopback::{migrate, options, piped, running, tcp};
use crate::support::{Factory, Shared, TestGuest, nothing_left, serial};

const PAGES: u64 = 600;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Arm,
    Harvest,
    Rearm(PageRun),
    Look(PageRun),
    Restore,
    Disarm,
    Pause,
}

type Log = Arc<Mutex<Vec<Step>>>;

/// A tracker with two phases around one with a single phase: what it reported stays reported until
/// it is re-armed.
struct TwoPhases {
    inner: MarkedTracker,
    /// Reported, not re-armed.
    held: DenseBitmap,
    restored: Arc<Mutex<Option<DenseBitmap>>>,
    log: Log,
}

impl DirtyTracker for TwoPhases {
    fn name(&self) -> &'static str {
        "two-phases"
    }

    fn pages(&self) -> u64 {
        self.inner.pages()
    }

    fn arm(&mut self) -> Result<(), DirtyError> {
        self.log.lock().unwrap().push(Step::Arm);
        self.inner.arm()
    }

    fn harvest(&mut self, into: &mut DenseBitmap) -> Result<Harvest, DirtyError> {
        self.log.lock().unwrap().push(Step::Harvest);
        let harvest = self.inner.harvest(&mut self.held)?;
        into.or_with(&self.held)?;
        Ok(harvest)
    }

    fn needs_rearm(&self) -> bool {
        true
    }

    fn rearm(&mut self, run: PageRun) -> Result<(), DirtyError> {
        self.log.lock().unwrap().push(Step::Rearm(run));
        self.held.clear_run(run);
        Ok(())
    }

    fn restore(&mut self, set: &DenseBitmap) -> Result<(), DirtyError> {
        self.log.lock().unwrap().push(Step::Restore);
        *self.restored.lock().unwrap() = Some(set.clone());
        self.inner.restore(set)
    }

    fn disarm(&mut self) -> Result<(), DirtyError> {
        self.log.lock().unwrap().push(Step::Disarm);
        self.inner.disarm()
    }
}

/// Memory that writes down who looks at which page.
struct Watched {
    inner: MappedMemory,
    log: Log,
}

impl PageReader for Watched {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.log.lock().unwrap().push(Step::Look(run));
        self.inner.read_run(run, into)
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        self.log.lock().unwrap().push(Step::Look(PageRun::new(page, 1)));
        self.inner.is_zero(page)
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        self.inner.populated(into)
    }
}

/// Writes down when the guest is paused.
struct Logged(Shared, Log);

#[rustfmt::skip]
impl GuestControl for Logged {
    fn pause(&mut self) -> Result<(), GuestError> {
        self.1.lock().unwrap().push(Step::Pause);
        self.0.pause()
    }
    fn resume(&mut self) -> Result<(), GuestError> { self.0.resume() }
    fn throttle(&mut self, to: Throttle) -> Result<(), GuestError> { self.0.throttle(to) }
    fn export_state(&mut self) -> Result<Bytes, GuestError> { self.0.export_state() }
    fn import_state(&mut self, it: Bytes) -> Result<(), GuestError> { self.0.import_state(it) }
    fn is_running(&self) -> bool { self.0.is_running() }
}

/// Every page is looked at only after it was re-armed since the last harvest.
fn check_order(log: &[Step]) -> DenseBitmap {
    let mut fresh = DenseBitmap::new(PAGES);
    let mut rearmed = DenseBitmap::new(PAGES);
    let (mut looks, mut armed) = (0, false);
    for step in log {
        match step {
            Step::Arm => armed = true,
            Step::Harvest => fresh.clear_all(),
            Step::Rearm(run) => {
                assert!(armed, "re-armed before it was armed");
                fresh.set_run(*run);
                rearmed.set_run(*run);
            }
            Step::Look(run) => {
                let known = run.iter().all(|page| fresh.contains(page));
                assert!(known, "{run} was read before it was re-armed (R1)");
                looks += 1;
            }
            Step::Restore | Step::Disarm | Step::Pause => {}
        }
    }
    assert!(looks > 0);
    rearmed
}

struct TwoPhased {
    report: Report,
    log: Vec<Step>,
    restored: Option<DenseBitmap>,
    received: Result<ReceivedGuest, MigrateError>,
    there: Option<Shared>,
}

fn migrate_two_phased(
    guest: &Shared,
    options: SourceOptions,
    cancel_in: Option<SourcePhase>,
) -> TwoPhased {
    let (mut connector, listener) = tcp();
    let mut receiver = Receiver::bind(listener, DestinationOptions::default()).unwrap();
    let (log, restored) = (Log::default(), Arc::default());
    let cancel = CancelToken::new();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut factory = Factory::default();
            let received = receiver.receive(&mut factory, &CancelToken::new(), &mut ());
            (received, factory.last)
        });
        let (memory, inner) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let regions = memory.table().clone();
        let held = DenseBitmap::new(PAGES);
        let mut tracker =
            TwoPhases { inner, held, restored: Arc::clone(&restored), log: Arc::clone(&log) };
        let mut control = Logged(guest.clone(), Arc::clone(&log));
        let memory = Arc::new(Watched { inner: memory, log: Arc::clone(&log) });
        let parts = SourceParts::new(memory, regions, &mut tracker, &mut control);
        let mut sink = |event: &EngineEvent| {
            if let EngineEvent::Source(SessionEvent::Phase { phase, .. }) = event
                && cancel_in == Some(*phase)
            {
                cancel.cancel();
            }
        };
        let report = send(options, &mut *connector, parts, &cancel, &mut sink).unwrap();
        let (received, there) = destination.join().unwrap();
        let (log, restored) = (log.lock().unwrap().clone(), restored.lock().unwrap().take());
        TwoPhased { report, log, restored, received, there }
    })
}

#[test]
fn pages_are_re_armed_before_they_are_read() {
    let _serial = serial();
    for channels in [1, 3] {
        let guest = running(PAGES);
        let mut options = options("fixed-rounds:rounds=3");
        options.channels = channels;
        let end = migrate_two_phased(&guest, options, None);
        assert_eq!(end.report.outcome, Outcome::HandedOver, "{:#?}", end.report);
        check_order(&end.log);
        // The last harvest comes after the pause, and what it reported is re-armed and read.
        let at = |wanted: Step| end.log.iter().rposition(|step| *step == wanted).unwrap();
        assert!(at(Step::Pause) < at(Step::Harvest) && at(Step::Harvest) < at(Step::Disarm));
        assert!(end.log.iter().filter(|step| **step == Step::Harvest).count() >= 3);
        assert!(end.restored.is_none(), "nothing to give back after a takeover");
        assert_eq!(end.received.unwrap().report.may_run, MayRunHere::Yes);
        end.there.unwrap().with(|there| {
            there.pause().unwrap();
            there.check();
        });
    }
    nothing_left("re-arming");
}

#[test]
fn a_failed_attempt_gives_back_what_was_re_armed() {
    let _serial = serial();
    // In the first round nothing was harvested yet, but re-armed.
    for phase in [SourcePhase::AwaitingAck, SourcePhase::FinalRound] {
        let guest = running(PAGES);
        let end = migrate_two_phased(&guest, options("fixed-rounds:rounds=5"), Some(phase));
        assert_eq!(end.report.outcome, Outcome::SourceKeepsRunning, "{:#?}", end.report);
        let rearmed = check_order(&end.log);
        let restored = end.restored.expect("nothing was given back (R5)");
        let count = rearmed.count();
        let mut missing = rearmed;
        missing.and_not(&restored).unwrap();
        assert!(count > 0 && missing.none_set(), "{} pages are lost", missing.count());
        let at = |wanted: Step| end.log.iter().rposition(|step| *step == wanted).unwrap();
        assert!(at(Step::Restore) < at(Step::Disarm));
        let (report, received, there) = migrate(&guest, options("xen"), piped());
        assert_eq!(report.outcome, Outcome::HandedOver);
        received.unwrap();
        there.unwrap().with(|there| {
            there.pause().unwrap();
            there.check();
        });
    }
    nothing_left("giving back");
}

/// A guest that does not come back after a failed attempt: the report says so.
#[test]
fn a_resume_that_fails_at_the_source() {
    let _serial = serial();
    let guest = running(PAGES);
    guest.with(|g| {
        g.faults.resume.store(true, Ordering::SeqCst);
        g.faults.export.store(true, Ordering::SeqCst);
    });
    let (report, received, _) = migrate(&guest, options("xen"), tcp());
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning, "it may run at no other place");
    assert!(!guest.is_running());
    let failure = report.failure.unwrap();
    assert!(failure.contains("export its state"), "{failure}");
    assert!(failure.contains("; then: The guest could not resume"), "{failure}");
    assert_eq!(received.unwrap_err().may_run_here(), MayRunHere::No);
    guest.with(|g| {
        g.faults.resume.store(false, Ordering::SeqCst);
        g.faults.export.store(false, Ordering::SeqCst);
        // The caller's second try.
        g.resume().unwrap();
    });
    let (report, received, there) = migrate(&guest, options("xen"), tcp());
    assert_eq!(report.outcome, Outcome::HandedOver);
    received.unwrap();
    there.unwrap().with(|there| {
        there.pause().unwrap();
        there.check();
    });
    nothing_left("no resume");
}

/// One migration into what `factory` makes, over `link`.
fn migrate_into(
    guest: &Shared,
    options: SourceOptions,
    (mut connector, listener): (Box<dyn Connector>, Box<dyn Listener>),
    factory: &mut (dyn GuestFactory + Send),
    stop_in: Option<DestinationPhase>,
) -> (Report, Result<ReceivedGuest, MigrateError>) {
    let mut receiver = Receiver::bind(listener, DestinationOptions::default()).unwrap();
    let cancel = CancelToken::new();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut sink = |event: &EngineEvent| {
                if let EngineEvent::Destination { phase, .. } = event
                    && stop_in == Some(*phase)
                {
                    cancel.cancel();
                }
            };
            receiver.receive(factory, &cancel, &mut sink)
        });
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let (regions, mut control) = (memory.table().clone(), guest.clone());
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let report = send(options, &mut *connector, parts, &CancelToken::new(), &mut ()).unwrap();
        (report, destination.join().unwrap())
    })
}

/// The guest goes on at the source, and the next attempt has everything.
fn check_kept(what: &str, guest: &Shared, report: &Report, error: &MigrateError) -> String {
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning, "{what}: {report:#?}");
    assert!(guest.is_running(), "{what}: nobody runs it");
    assert_eq!(error.may_run_here(), MayRunHere::No, "{what}: {error}");
    let (next, received, there) = migrate(guest, options("xen"), piped());
    assert_eq!(next.outcome, Outcome::HandedOver, "{what}: {next:#?}");
    received.expect(what);
    there.expect(what).with(|there| {
        there.pause().unwrap();
        there.check();
    });
    nothing_left(what);
    report.failure.clone().expect(what)
}

#[test]
fn cancelled_at_the_destination() {
    let _serial = serial();
    for phase in [
        DestinationPhase::Attaching,
        DestinationPhase::Receiving,
        DestinationPhase::Paused,
        DestinationPhase::Preparing,
        DestinationPhase::Ready,
    ] {
        let guest = running(PAGES);
        let mut factory = Factory::default();
        let source = options("fixed-rounds:rounds=4");
        let (report, received) = migrate_into(&guest, source, tcp(), &mut factory, Some(phase));
        let what = format!("in {phase:?}");
        let Err(error) = received else {
            // Commit was faster than the look at the token.
            assert_eq!(report.outcome, Outcome::HandedOver, "{what}");
            assert_eq!(phase, DestinationPhase::Ready, "{what}: the cancel was lost");
            continue;
        };
        assert!(error.to_string().contains("Cancelled at the destination"), "{what}: {error}");
        assert!(factory.last.is_none_or(|there| !there.is_running()), "{what}: two runners");
        let failure = check_kept(&what, &guest, &report, &error);
        assert!(failure.contains("Cancelled at the destination"), "{what}: {failure}");
    }
}

/// Memory that takes some pages and then no more.
struct Scarce {
    inner: MappedMemory,
    left: AtomicU64,
    ahead: bool,
}

fn want() -> MemoryError {
    let source = io::Error::from_raw_os_error(nix::libc::ENOMEM);
    MemoryError::System { what: "write guest memory", source }
}

impl PageReader for Scarce {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        self.inner.read_run(run, into)
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        self.inner.is_zero(page)
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        self.inner.populated(into)
    }
}

impl PageWriter for Scarce {
    fn write_run(&self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError> {
        let take = |left: u64| left.checked_sub(run.pages());
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.map_err(|_| want())?;
        self.inner.write_run(run, bytes)
    }

    fn zero_run(&self, run: PageRun) -> Result<(), MemoryError> {
        self.inner.zero_run(run)
    }

    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        if self.ahead { Err(want()) } else { self.inner.prefault(run) }
    }
}

#[test]
fn no_memory_at_the_destination() {
    let _serial = serial();
    for (what, pages, ahead) in [("when pages come", 100, false), ("ahead of them", PAGES, true)] {
        for channels in [1, 2] {
            let guest = running(PAGES);
            let mut factory = |hello: &Hello| {
                let guest = TestGuest::new(hello.regions.clone());
                let memory = guest.memory.clone();
                let memory = Scarce { inner: memory, left: pages.into(), ahead };
                Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(Shared::new(guest)) })
            };
            let mut source = options("fixed-rounds:rounds=4");
            source.channels = channels;
            let (report, received) = migrate_into(&guest, source, tcp(), &mut factory, None);
            if ahead && received.is_ok() {
                // All pages came before the first was to be made resident ahead.
                assert_eq!(report.outcome, Outcome::HandedOver);
                continue;
            }
            let failure = check_kept(what, &guest, &report, &received.unwrap_err());
            // Its own want, not the source's fault.
            assert!(failure.contains("refused (System)"), "{what}: {failure}");
            assert!(failure.contains("annot allocate memory"), "{what}: {failure}");
        }
    }
    let guest = running(PAGES);
    let mut factory = |_: &Hello| {
        Err(GuestError::because("get memory", io::Error::from(io::ErrorKind::OutOfMemory)))
    };
    let (report, received) = migrate_into(&guest, options("xen"), tcp(), &mut factory, None);
    let failure = check_kept("create", &guest, &report, &received.unwrap_err());
    assert!(failure.contains("refused (Guest): The guest could not get memory"), "{failure}");
}

/// A listener that runs out of file descriptors after some connections.
struct Poor {
    inner: Box<dyn Listener>,
    left: u32,
    /// The system has some again.
    relieved: Arc<AtomicBool>,
}

impl Listener for Poor {
    fn accept(&mut self, timeout: Duration) -> io::Result<Option<Box<dyn Connection>>> {
        if self.left == 0 && !self.relieved.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
        }
        let accepted = self.inner.accept(timeout)?;
        self.left = self.left.saturating_sub(u32::from(accepted.is_some()));
        Ok(accepted)
    }

    fn local(&self) -> String {
        self.inner.local()
    }
}

/// The source is told what is missing, instead of waiting for its channels; when there are
/// descriptors again, the same listener serves the next source.
#[test]
fn no_descriptors_at_the_destination() {
    let _serial = serial();
    {
        let (mut connector, inner) = tcp();
        let relieved = Arc::new(AtomicBool::new(false));
        let poor = Poor { inner, left: 9, relieved: Arc::clone(&relieved) };
        let mut receiver = Receiver::bind(Box::new(poor), DestinationOptions::default()).unwrap();
        let guest = running(PAGES);
        for few in [true, false] {
            thread::scope(|scope| {
                let receiver = &mut receiver;
                let destination = scope.spawn(move || {
                    let mut factory = Factory::default();
                    receiver.receive(&mut factory, &CancelToken::new(), &mut ()).map(drop)
                });
                let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
                let (regions, mut control) = (memory.table().clone(), guest.clone());
                let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
                let mut source = options("fixed-rounds:rounds=1");
                source.channels = 64;
                let quiet = CancelToken::new();
                let report = send(source, &mut *connector, parts, &quiet, &mut ()).unwrap();
                let ended = destination.join().unwrap();
                if few {
                    assert_eq!(report.outcome, Outcome::SourceKeepsRunning);
                    let failure = report.failure.unwrap();
                    assert!(failure.contains("Too many open files"), "{failure}");
                    assert!(ended.unwrap_err().to_string().contains("Too many open files"));
                    relieved.store(true, Ordering::SeqCst);
                } else {
                    assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
                    ended.unwrap();
                }
            });
        }
    }
    nothing_left("no descriptors");
}

/// What a source sent over all connections, and the rates that it asked for.
#[derive(Default)]
struct Traffic {
    bytes: AtomicU64,
    connections: AtomicU32,
    rates: Mutex<Vec<Option<u64>>>,
}

struct Metered(Box<dyn Connector>, Arc<Traffic>);
struct MeteredConnection(Box<dyn Connection>, Arc<Traffic>);
struct MeteredWriter(Box<dyn Write + Send>, Arc<Traffic>);

impl Connector for Metered {
    fn connect(&mut self, timeout: Duration) -> io::Result<Box<dyn Connection>> {
        let inner = self.0.connect(timeout)?;
        self.1.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(MeteredConnection(inner, Arc::clone(&self.1))))
    }

    fn target(&self) -> String {
        self.0.target()
    }
}

#[rustfmt::skip]
impl Connection for MeteredConnection {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> { self.0.reader() }
    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(MeteredWriter(self.0.writer()?, Arc::clone(&self.1))))
    }
    fn set_io_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_io_timeout(timeout)
    }
    fn set_send_rate(&self, bytes_per_s: Option<u64>) -> io::Result<()> {
        self.1.rates.lock().unwrap().push(bytes_per_s);
        self.0.set_send_rate(bytes_per_s)
    }
    fn shutdown(&self) { self.0.shutdown(); }
    fn peer(&self) -> String { self.0.peer() }
}

impl Write for MeteredWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.bytes.fetch_add(written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The cap is shared out over the channels, stays or goes during the pause as asked for, and the
/// report's bytes are those that went out.
#[test]
fn bandwidth_caps_and_bytes_on_the_wire() {
    let _serial = serial();
    const CAP: u64 = 400_000_000;
    for (cap, cap_paused, share) in [
        (None, true, vec![None; 2]),
        (Some(CAP), true, vec![Some(CAP / 2); 2]),
        (Some(CAP), false, vec![Some(CAP / 2), Some(CAP / 2), None, None]),
    ] {
        let guest = running(PAGES);
        let (connector, listener) = tcp();
        let traffic = Arc::new(Traffic::default());
        let connector = Metered(connector, Arc::clone(&traffic));
        let mut source = options("fixed-rounds:rounds=3");
        (source.channels, source.bandwidth_cap_bytes_per_s) = (2, cap);
        source.cap_paused = cap_paused;
        let link: (Box<dyn Connector>, _) = (Box::new(connector), listener);
        let mut factory = Factory::default();
        let (report, received) = migrate_into(&guest, source, link, &mut factory, None);
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert_eq!(report.bandwidth_cap_bytes_per_s, cap);
        let received = received.unwrap().report;
        assert_eq!(*traffic.rates.lock().unwrap(), share);
        assert_eq!(traffic.connections.load(Ordering::SeqCst), 2);
        // Page frames are counted; beside them there are only some small messages.
        let (sent, paged) = (traffic.bytes.load(Ordering::SeqCst), report.totals.wire_bytes);
        assert_eq!(received.wire_bytes, paged);
        assert!(paged > PAGES / 4 * 4096, "{paged}");
        assert!((paged..paged + 20_000).contains(&sent), "{sent} bytes, {paged} of them pages");
    }
    nothing_left("caps");
}
