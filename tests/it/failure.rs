// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Everything that can go wrong between two hosts, one thing at a time. After each: the guest
//! runs at exactly one side (or is in doubt and paused), no write was lost, the next attempt
//! succeeds, and no thread or socket is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use precopy::engine::{
    CancelToken, DestinationOptions, EngineEvent, MigrateError, ReceivedGuest, Receiver,
    SourceOptions, SourceParts, send, settle,
};
use precopy::guest::GuestControl;
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::session::{SessionEvent, SourcePhase};
use precopy::transport::fault::{
    Direction, Fault, FaultAction, FaultLog, FaultPlan, FaultPoint, FaultyConnector,
};
use precopy::transport::{Connector, Listener, TcpConnector, TcpOptions};
use precopy::units::MigrationId;
use precopy::wire::{Fate, FrameKind};

use crate::loopback::{migrate, options, piped, running, tcp};
use crate::support::{Factory, PATIENCE, Shared, nothing_left, serial};

const PAGES: u64 = 600;

type Link = (Box<dyn Connector>, Box<dyn Listener>);

/// Options that make the waits short that only a time limit ends, and so many times as long for a
/// machine that stands still at times.
fn hasty(policy: &str, channels: u8, patience: u32) -> SourceOptions {
    let mut options = options(policy);
    options.channels = channels;
    options.negotiate_timeout = Duration::from_millis(500) * patience;
    options.stall_timeout = Duration::from_millis(350) * patience;
    options.ready_timeout = Duration::from_millis(500) * patience;
    options.commit_timeout = Duration::from_millis(300) * patience;
    options
}

fn hasty_destination(patience: u32) -> DestinationOptions {
    let mut options = DestinationOptions::default();
    options.session.stall_timeout = Duration::from_millis(450) * patience;
    options.session.commit_timeout = Duration::from_millis(600) * patience;
    options
}

/// What both sides say in the end.
struct Ends {
    source: Report,
    destination: Result<ReceivedGuest, MigrateError>,
    there: Option<Shared>,
}

/// One attempt with whatever goes wrong. The destination stays to be asked until the source is
/// through; it ends by itself, or is cancelled if no source ever got to it.
fn attempt(
    guest: &Shared,
    (source, destination): (SourceOptions, DestinationOptions),
    (mut connector, listener): Link,
    mut factory: Factory,
    mut sink: impl FnMut(&EngineEvent, &CancelToken),
) -> Ends {
    let mut receiver = Receiver::bind(listener, destination).unwrap();
    let (cancel, stop) = (CancelToken::new(), CancelToken::new());
    let came = AtomicBool::new(false);
    thread::scope(|scope| {
        let (stopped, came) = (stop.clone(), &came);
        let destination = scope.spawn(move || {
            let mut sink = |event: &EngineEvent| {
                came.fetch_or(matches!(event, EngineEvent::Incoming { .. }), Ordering::SeqCst);
            };
            let received = receiver.receive(&mut factory, &stopped, &mut sink);
            (received, factory.last, receiver)
        });
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let (regions, mut control) = (memory.table().clone(), guest.clone());
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let mut shown = |event: &EngineEvent| sink(event, &cancel);
        let source = send(source, &mut *connector, parts, &cancel, &mut shown).unwrap();
        let (began, served) = (Instant::now(), came.load(Ordering::SeqCst));
        while served && !destination.is_finished() && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(2));
        }
        let ended = destination.is_finished();
        stop.cancel();
        let (destination, there, _receiver) = destination.join().unwrap();
        assert!(ended || !served, "the destination waits for ever");
        Ends { source, destination, there }
    })
}

/// Checks one end of an attempt against the other, and that the guest is whole.
fn check(what: &str, guest: &Shared, ends: Ends) -> Outcome {
    let outcome = ends.source.outcome;
    match outcome {
        Outcome::HandedOver => {
            let received = ends.destination.expect(what);
            assert_eq!(received.report.may_run, MayRunHere::Yes, "{what}");
            assert!(!guest.is_running(), "{what}: two runners");
            let there = ends.there.expect(what);
            assert!(there.is_running(), "{what}: nobody runs it");
            there.with(|there| {
                there.pause().unwrap();
                there.check();
            });
        }
        Outcome::SourceKeepsRunning => {
            let error = ends.destination.expect_err(what);
            assert_eq!(error.may_run_here(), MayRunHere::No, "{what}: {error}");
            assert!(guest.is_running(), "{what}: nobody runs it");
            assert!(ends.there.is_none_or(|there| !there.is_running()), "{what}: two runners");
            assert!(ends.source.failure.is_some(), "{what}: no reason");
            // R5: the next attempt has everything that it needs.
            let (report, received, there) = migrate(guest, options("xen"), piped());
            assert_eq!(report.outcome, Outcome::HandedOver, "{what}: {report:#?}");
            received.expect(what);
            there.expect(what).with(|there| {
                there.pause().unwrap();
                there.check();
            });
        }
        Outcome::InDoubt => assert!(!guest.is_running(), "{what}: in doubt and running"),
    }
    outcome
}

fn faulty((connector, listener): Link, plan: FaultPlan) -> (Link, FaultLog) {
    let connector = FaultyConnector::new(connector, plan);
    let log = connector.log();
    ((Box::new(connector), listener), log)
}

fn points() -> Vec<(usize, Direction, FaultPoint)> {
    use Direction::{ToDestination, ToSource};
    use FrameKind as K;
    let first = [K::Hello, K::Announce, K::Pages, K::RoundEnd, K::State, K::Prepare, K::Commit]
        .map(|kind| (0, ToDestination, FaultPoint::FrameOf(kind, 0)));
    let back = [K::Accept, K::ChannelsReady, K::RoundAck, K::Ready, K::Committed]
        .map(|kind| (0, ToSource, FaultPoint::FrameOf(kind, 0)));
    let later = [(0, K::Pages, 1), (0, K::RoundEnd, 1), (1, K::Attach, 0), (1, K::Pages, 0)]
        .map(|(lane, kind, nth)| (lane, ToDestination, FaultPoint::FrameOf(kind, nth)));
    let more = [(1, K::RoundEnd, 0), (1, K::RoundEnd, 1)]
        .map(|(lane, kind, nth)| (lane, ToDestination, FaultPoint::FrameOf(kind, nth)));
    [&first[..], &back, &later, &more].concat()
}

/// Attempts at once: most of each is waiting for a limit.
const AT_ONCE: usize = 6;

fn run_faults(actions: &[FaultAction], link: fn() -> Link) {
    let _serial = serial();
    let each = |(lane, direction, point): (usize, Direction, FaultPoint)| {
        actions.iter().map(move |action| Fault::new(lane, direction, point, action.clone()))
    };
    let faults: Vec<Fault> = points().into_iter().flat_map(each).collect();
    for some in faults.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for fault in some {
                // Where the machine stands still for longer than a limit, the attempt is over
                // before the fault comes, which proves nothing of it.
                scope.spawn(move || {
                    let came =
                        [1, 8, 64].into_iter().any(|patience| run_fault(fault, link, patience));
                    assert!(came, "{fault:?}: never came");
                });
            }
        });
        nothing_left(&format!("{some:?}"));
    }
}

/// One attempt with a fault; whether it came.
fn run_fault(fault: &Fault, link: fn() -> Link, patience: u32) -> bool {
    let what = format!("{fault:?}");
    let guest = running(PAGES);
    let (link, log) = faulty(link(), FaultPlan::one(fault.clone()));
    let began = Instant::now();
    let options = (hasty("fixed-rounds:rounds=2", 2, patience), hasty_destination(patience));
    let ends = attempt(&guest, options, link, Factory::default(), |_, _| ());
    let failure = ends.source.failure.clone();
    let outcome = check(&what, &guest, ends);
    // It can always be asked on a new connection.
    assert_ne!(outcome, Outcome::InDoubt, "{what}: {failure:?}");
    println!("{what}: {outcome:?} after {:?}: {failure:?}", began.elapsed());
    log.fired() > 0
}

#[test]
fn connections_that_end_at_every_frame() {
    run_faults(&[FaultAction::Cut, FaultAction::Truncate { bytes: 40 }], piped);
}

#[test]
fn connections_that_reset_at_every_frame() {
    run_faults(&[FaultAction::Reset, FaultAction::Truncate { bytes: 7 }], tcp);
}

#[test]
fn silence_at_every_frame() {
    run_faults(&[FaultAction::Stall, FaultAction::Hang], piped);
}

#[test]
fn damage_at_every_frame() {
    let flip = |offset| FaultAction::FlipBit { offset, bit: 3 };
    run_faults(
        &[flip(4), flip(9), flip(29), FaultAction::Insert(b"GET / HTTP/1.1\r\n".into())],
        tcp,
    );
}

#[test]
fn frames_lost_or_doubled() {
    run_faults(&[FaultAction::Drop, FaultAction::Duplicate], piped);
}

#[test]
fn cancel_in_every_phase() {
    let _serial = serial();
    for phase in [
        SourcePhase::Attaching,
        SourcePhase::Arming,
        SourcePhase::Round,
        SourcePhase::AwaitingAck,
        SourcePhase::Harvesting,
        SourcePhase::Pausing,
        SourcePhase::FinalHarvest,
        SourcePhase::FinalRound,
        SourcePhase::Preparing,
        SourcePhase::Committing,
    ] {
        let guest = running(PAGES);
        let mut source = options("fixed-rounds:rounds=2");
        (source.channels, source.verify) = (2, true);
        let options = (source, DestinationOptions::default());
        let mut too_late = false;
        let ends =
            attempt(&guest, options, tcp(), Factory::default(), |event, cancel| match event {
                EngineEvent::Source(SessionEvent::Phase { phase: now, .. }) if *now == phase => {
                    cancel.cancel();
                }
                EngineEvent::Source(SessionEvent::CancelTooLate { .. }) => too_late = true,
                _ => {}
            });
        let failure = ends.source.failure.clone();
        let outcome = check(&format!("cancel in {phase:?}"), &guest, ends);
        nothing_left(&format!("cancel in {phase:?}"));
        if phase == SourcePhase::Committing {
            assert_eq!(outcome, Outcome::HandedOver, "{failure:?}");
        } else if outcome == Outcome::HandedOver {
            // A phase that is over within the same turn of the main thread.
            assert!(too_late, "{phase:?}");
        } else {
            assert_eq!(failure.as_deref(), Some("Cancelled"));
        }
        println!("{phase:?}: {outcome:?}");
    }
}

#[test]
fn guests_that_do_not_do_as_told() {
    let _serial = serial();
    let try_with = |what: &str, arrange: &dyn Fn(&Shared, &mut Factory)| {
        let guest = running(PAGES);
        let mut factory = Factory::default();
        arrange(&guest, &mut factory);
        let options = (options("xen"), DestinationOptions::default());
        let ends = attempt(&guest, options, tcp(), factory, |_, _| ());
        let failure = ends.source.failure.clone().unwrap_or_default();
        guest.with(|guest| {
            guest.faults.pause.store(false, Ordering::SeqCst);
            guest.faults.export.store(false, Ordering::SeqCst);
        });
        assert_eq!(check(what, &guest, ends), Outcome::SourceKeepsRunning);
        nothing_left(what);
        failure
    };
    let set = |flag: &AtomicBool| flag.store(true, Ordering::SeqCst);
    let failure = try_with("factory", &|_, factory| factory.fail = true);
    assert!(failure.contains("be created, as the test wants it"), "{failure}");
    let failure = try_with("import", &|_, factory| set(&factory.faults.import));
    assert!(failure.contains("import its state, as the test wants it"), "{failure}");
    let failure = try_with("resume", &|_, factory| set(&factory.faults.resume));
    assert!(failure.contains("resume, as the test wants it"), "{failure}");
    let failure = try_with("pause", &|guest, _| guest.with(|g| set(&g.faults.pause)));
    assert!(failure.contains("pause, as the test wants it"), "{failure}");
    let failure = try_with("export", &|guest, _| guest.with(|g| set(&g.faults.export)));
    assert!(failure.contains("export its state, as the test wants it"), "{failure}");
}

/// Commit's answer is lost, and the destination cannot be asked until later.
#[test]
fn in_doubt_until_asked_later() {
    let _serial = serial();
    let guest = running(PAGES);
    let (connector, listener) = tcp();
    let point = FaultPoint::FrameOf(FrameKind::Committed, 0);
    let mut plan = FaultPlan::one(Fault::new(0, Direction::ToSource, point, FaultAction::Reset));
    plan.refused = (1..100).collect();
    let mut connector = FaultyConnector::new(connector, plan);
    let mut receiver = Receiver::bind(listener, DestinationOptions::default()).unwrap();
    let local = receiver.local().to_owned();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut factory = Factory::default();
            let received = receiver.receive(&mut factory, &CancelToken::new(), &mut ());
            (received, receiver)
        });
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let (regions, mut control) = (memory.table().clone(), guest.clone());
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let mut options = options("xen");
        options.query_timeout = Duration::from_millis(1500);
        let id = options.migration_id;
        let report = send(options, &mut connector, parts, &CancelToken::new(), &mut ()).unwrap();
        assert_eq!(report.outcome, Outcome::InDoubt, "{report:#?}");
        assert!(!guest.is_running());
        let (received, receiver) = destination.join().unwrap();
        let received = received.unwrap();
        assert!(received.guest.is_running());
        let mut again = TcpConnector::new(local, TcpOptions::default());
        let limit = Duration::from_secs(60);
        assert_eq!(settle(&mut again, id, limit).unwrap(), Fate::Committed);
        assert_eq!(settle(&mut again, MigrationId::new(7), limit).unwrap(), Fate::Unknown);
        drop(receiver);
        let error = settle(&mut again, id, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.may_run_here(), MayRunHere::Unknown);
        assert!(error.to_string().contains("(Connection refused"), "{error}");
    });
    nothing_left("in doubt");
}

fn destination(
    mut receiver: Receiver,
    cancel: CancelToken,
) -> impl FnOnce() -> (Result<ReceivedGuest, MigrateError>, Receiver) {
    let (done, result) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let received = receiver.receive(&mut Factory::default(), &cancel, &mut ());
        let _ = done.send((received, receiver));
    });
    move || {
        thread.join().unwrap();
        result.recv().unwrap()
    }
}

/// Port scanners, silent clients and a second source change nothing for the first one.
#[test]
fn strangers_on_the_port() {
    use std::io::{Read, Write};
    let _serial = serial();
    let guest = running(PAGES);
    let (mut connector, listener) = tcp();
    let receiver = Receiver::bind(listener, DestinationOptions::default()).unwrap();
    let local = receiver.local().to_owned();
    {
        let join = destination(receiver, CancelToken::new());
        let stranger = |bytes: &[u8]| {
            let mut stream = std::net::TcpStream::connect(&local).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        };
        let silent = stranger(b"");
        let half = stranger(b"PCPY\x01");
        let mut answer = Vec::new();
        let mut scanner = stranger(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n0123456789");
        // Closed, with an error or without, and told nothing.
        let _ = scanner.read_to_end(&mut answer);
        assert!(answer.is_empty());
        let second = std::cell::Cell::new(None);
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let (regions, mut control) = (memory.table().clone(), guest.clone());
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let mut sink = |event: &EngineEvent| {
            if let EngineEvent::Source(SessionEvent::Phase { phase: SourcePhase::Round, .. }) =
                event
                && second.take().is_none()
            {
                let other = running(PAGES);
                let mut again = TcpConnector::new(&*local, TcpOptions::default());
                let (memory, mut tracker) = other.with(|g| (g.memory.clone(), g.tracker()));
                let (regions, mut control) = (memory.table().clone(), other.clone());
                let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
                let quiet = CancelToken::new();
                let report = send(options("xen"), &mut again, parts, &quiet, &mut ()).unwrap();
                assert_eq!(report.outcome, Outcome::SourceKeepsRunning);
                assert!(report.failure.unwrap().contains("busy"));
                assert!(other.is_running());
                second.set(Some(()));
            }
        };
        let report = send(
            options("fixed-rounds:rounds=1"),
            &mut *connector,
            parts,
            &CancelToken::new(),
            &mut sink,
        )
        .unwrap();
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert!(second.take().is_some(), "no second source came");
        let (received, receiver) = join();
        received.unwrap();
        drop((receiver, silent, half));
    }
    nothing_left("strangers");
}

/// A destination that was killed and started again answers from its journal, and a cancelled
/// destination returns.
#[test]
fn a_restarted_destination_answers_from_its_journal() {
    let _serial = serial();
    let path = std::env::temp_dir().join(format!("precopy-it-journal-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut there = DestinationOptions::default();
    there.journal = Some(path.clone());
    let mut ids = Vec::new();
    for commits in [true, false] {
        let guest = running(PAGES);
        let (mut connector, listener) = tcp();
        let receiver = Receiver::bind(listener, there.clone()).unwrap();
        {
            let join = destination(receiver, CancelToken::new());
            let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
            let (regions, mut control) = (memory.table().clone(), guest.clone());
            let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
            let source = options("fixed-rounds:rounds=2");
            ids.push(source.migration_id);
            let cancel = CancelToken::new();
            let mut sink = |event: &EngineEvent| {
                if !commits && matches!(event, EngineEvent::Source(SessionEvent::RoundDone(_))) {
                    cancel.cancel();
                }
            };
            let report = send(source, &mut *connector, parts, &cancel, &mut sink).unwrap();
            assert_eq!(report.outcome == Outcome::HandedOver, commits);
            assert_eq!(join().0.is_ok(), commits);
        }
    }
    let (mut connector, listener) = tcp();
    let receiver = Receiver::bind(listener, there).unwrap();
    let mut fate = |id| settle(&mut *connector, id, Duration::from_secs(60)).unwrap();
    assert_eq!(fate(ids[0]), Fate::Committed);
    assert_eq!(fate(ids[1]), Fate::NeverCommitted);
    assert_eq!(fate(MigrationId::new(1)), Fate::Unknown);
    let cancel = CancelToken::new();
    cancel.cancel();
    let (received, _) = destination(receiver, cancel)();
    assert!(matches!(received, Err(MigrateError::Cancelled)));
    std::fs::remove_file(&path).unwrap();
    nothing_left("journal");
}
