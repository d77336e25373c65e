// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whole migrations inside one process.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use precopy::encode::EncoderKind;
use precopy::engine::{
    CancelToken, DestinationOptions, EngineEvent, EventSink, MigrateError, ReceivedGuest, Receiver,
    SourceOptions, SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::policy::StrategySpec;
use precopy::report::{MayRunHere, Outcome, Report};
use precopy::session::{SessionEvent, SourcePhase};
use precopy::transport::{Connector, Listener, TcpConnector, TcpListener, TcpOptions, pipe};

use crate::support::{Factory, Shared, TestGuest, serial, table};

pub(crate) fn tcp() -> (Box<dyn Connector>, Box<dyn Listener>) {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
    let target = listener.local_addr().to_string();
    (Box::new(TcpConnector::new(target, TcpOptions::default())), Box::new(listener))
}

pub(crate) fn piped() -> (Box<dyn Connector>, Box<dyn Listener>) {
    let (connector, listener) = pipe();
    (Box::new(connector), Box::new(listener))
}

pub(crate) fn options(policy: &str) -> SourceOptions {
    SourceOptions::new(StrategySpec::parse(policy).unwrap().build())
}

/// One migration of a guest that runs, to a destination in another thread.
pub(crate) fn migrate(
    guest: &Shared,
    options: SourceOptions,
    link: (Box<dyn Connector>, Box<dyn Listener>),
) -> (Report, Result<ReceivedGuest, MigrateError>, Option<Shared>) {
    migrate_seen(guest, options, link, &mut ())
}

/// Has the guest write while the end of a round is on its way, so that every harvest finds pages
/// that were sent before, whoever gets a processor when.
pub(crate) fn writing(guest: &Shared) -> impl FnMut(&EngineEvent) {
    move |event| {
        if let EngineEvent::Source(SessionEvent::Phase {
            phase: SourcePhase::AwaitingAck, ..
        }) = event
        {
            guest.go_on(500);
        }
    }
}

/// The same, with somebody who sees what happens at the source.
fn migrate_seen(
    guest: &Shared,
    options: SourceOptions,
    (mut connector, listener): (Box<dyn Connector>, Box<dyn Listener>),
    sink: &mut dyn EventSink,
) -> (Report, Result<ReceivedGuest, MigrateError>, Option<Shared>) {
    let mut receiver = Receiver::bind(listener, DestinationOptions::default()).unwrap();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut factory = Factory::default();
            let received = receiver.receive(&mut factory, &CancelToken::new(), &mut ());
            (received, factory.last)
        });
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let regions = memory.table().clone();
        let mut control = guest.clone();
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let report = send(options, &mut *connector, parts, &CancelToken::new(), sink).unwrap();
        let (received, last) = destination.join().unwrap();
        (report, received, last)
    })
}

pub(crate) fn running(pages: u64) -> Shared {
    let mut guest = TestGuest::new(table(pages));
    guest.resume().unwrap();
    let guest = Shared::new(guest);
    // By then it has written nearly all that it ever writes to.
    guest.go_on(3 * pages.max(1000));
    guest
}

fn check_handed_over(
    source: &Shared,
    report: &Report,
    received: Result<ReceivedGuest, MigrateError>,
    there: Option<Shared>,
) {
    assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
    let received = received.unwrap();
    assert_eq!(received.report.may_run, MayRunHere::Yes);
    assert!(!source.is_running(), "two runners");
    let there = there.unwrap();
    assert!(there.is_running());
    let before = source.with(|guest| {
        guest.check();
        guest.total_steps()
    });
    thread::sleep(Duration::from_millis(5));
    there.with(|guest| {
        guest.pause().unwrap();
        guest.check();
        assert!(guest.total_steps() >= before);
    });
}

#[test]
fn a_running_guest_moves() {
    let _serial = serial();
    for (name, link) in [("pipe", piped()), ("tcp", tcp())] {
        let guest = running(3000);
        let (report, received, there) = migrate(&guest, options("stop-at-once"), link);
        println!("{name}: {:?}", report.downtime);
        check_handed_over(&guest, &report, received, there);
    }
}

#[test]
fn channels_encoders_policies_and_verification() {
    let _serial = serial();
    for (policy, channels, encoder, verify) in [
        ("fixed-rounds:rounds=4", 1, EncoderKind::Raw, true),
        ("xen", 2, EncoderKind::Lz4, false),
        ("xen-legacy", 4, EncoderKind::Raw, true),
        ("qemu:downtime_ms=200", 3, EncoderKind::Raw, true),
        ("fixed-rounds:rounds=2", 64, EncoderKind::Raw, true),
        ("fixed-rounds:rounds=8", 3, EncoderKind::Delta, true),
        ("fixed-rounds:rounds=8+cold-first", 2, EncoderKind::DeltaLz4, true),
    ] {
        let guest = running(4000);
        let mut options = options(policy);
        (options.channels, options.encoder, options.verify) = (channels, encoder, verify);
        let (report, received, there) = migrate_seen(&guest, options, tcp(), &mut writing(&guest));
        println!("{policy}: {:?}, {:?}", report.totals, report.downtime);
        assert_eq!((report.channels, report.verified), (channels, verify), "{report:#?}");
        assert_eq!(report.encoder, encoder.name());
        assert!(!report.rounds.is_empty() && !report.decisions.is_empty());
        check_handed_over(&guest, &report, received, there);
        check_deltas(&report, encoder);
    }
}

fn check_deltas(report: &Report, encoder: EncoderKind) {
    let Some(delta) = report.delta else {
        return assert!(matches!(encoder, EncoderKind::Raw | EncoderKind::Lz4));
    };
    // Two words of a page are counters, in one line; only in the first round are pages news.
    assert!(delta.sent.pages > 100 && delta.sent.bytes < 200 * delta.sent.pages, "{delta:?}");
    assert_eq!(delta.sent, report.totals.delta);
    assert_eq!(
        delta.cache.hits + delta.cache.line_hits,
        delta.sent.pages + delta.cache.overflows,
        "{delta:?}"
    );
    let rounds = || report.rounds.iter();
    assert_eq!(rounds().map(|round| round.delta.pages).sum::<u64>(), delta.sent.pages);
    assert!(rounds().any(|round| round.paused && round.delta.pages > 0), "the residual, too");
}
