// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest moves from VM to VM, again and again, and is compared with what it must hold each time.
//!
//! `PRECOPY_KVM_MIGRATIONS=20 cargo test --release -p kvmguest --test it -- --nocapture`

use std::thread;
use std::time::{Duration, Instant};

use kvmguest::{GuestConfig, SharedGuest, Tracking};
use precopy::encode::EncoderKind;
use precopy::engine::{
    CancelToken, DestinationOptions, EngineEvent, EventSink, Receiver, SourceOptions,
};
use precopy::guest::GuestControl;
use precopy::policy::{Guards, StrategySpec};
use precopy::report::{Outcome, Report};
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::wire::Hello;

use crate::guest::has_kvm;

const PAGES_MAX: u64 = 1 << 16;
/// Longest wait for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

fn options(policy: &str) -> SourceOptions {
    let guards = Guards::parse("max_rounds=12,action=stop").unwrap();
    let mut options =
        SourceOptions::new(StrategySpec::parse(policy).unwrap().build().guarded(&guards));
    policy.clone_into(&mut options.policy_text);
    options.verify = true;
    options.downtime_limit = Duration::from_millis(50);
    // No peer is lost here; whoever gets no processor for a while is not to be taken for one.
    options.negotiate_timeout = PATIENCE;
    options.stall_timeout = PATIENCE;
    options.ready_timeout = PATIENCE;
    options.commit_timeout = PATIENCE;
    options
}

/// Moves a guest to a VM of its own behind a loopback connection.
fn migrate(
    from: &SharedGuest,
    options: SourceOptions,
    tracking: Tracking,
) -> (Report, Option<SharedGuest>) {
    migrate_until(from, options, tracking, &CancelToken::new(), &mut ())
}

fn migrate_until(
    from: &SharedGuest,
    options: SourceOptions,
    tracking: Tracking,
    cancel: &CancelToken,
    sink: &mut dyn EventSink,
) -> (Report, Option<SharedGuest>) {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
    let target = listener.local_addr().to_string();
    let mut patient = DestinationOptions::default();
    patient.session.stall_timeout = PATIENCE;
    patient.session.commit_timeout = PATIENCE;
    let mut receiver = Receiver::bind(Box::new(listener), patient).unwrap();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut there = None;
            let mut factory = |hello: &Hello| {
                let (created, guest) = SharedGuest::create(hello, tracking, PAGES_MAX)?;
                there = Some(guest);
                Ok(created)
            };
            let received = receiver.receive(&mut factory, &CancelToken::new(), &mut ());
            if let Err(why) = &received {
                println!("not taken over: {why:?}");
            }
            received.ok().and(there)
        });
        let mut connector = TcpConnector::new(target, TcpOptions::default());
        let report = from.send(options, &mut connector, cancel, sink).unwrap();
        (report, destination.join().unwrap())
    })
}

/// Lets a guest do more steps than it had done.
pub(crate) fn run_on(guest: &SharedGuest, steps: u64) {
    let (target, until) = (guest.progress() + steps, Instant::now() + PATIENCE);
    while guest.progress() < target {
        assert_eq!(guest.fault(), None);
        assert!(Instant::now() < until, "it stands still");
        thread::sleep(Duration::from_millis(5));
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One guest, from host to host. At each it must hold exactly what its steps have written, and run
/// on.
fn chain(config: GuestConfig, migrations: u64, tracking: Tracking) {
    let policies = ["xen", "qemu", "fixed-rounds:rounds=3", "stop-at-once", "cloud-hypervisor"];
    let mut guest = SharedGuest::start(config, tracking).unwrap();
    println!("{}: {}", guest.config(), guest.tracker_why());
    guest.resume().unwrap();
    run_on(&guest, 1000);
    for (at, policy) in (0..migrations).zip(policies.into_iter().cycle()) {
        let mut options = options(policy);
        options.channels = if at % 2 == 0 { 1 } else { 4 };
        options.encoder = if at % 3 == 2 { EncoderKind::Lz4 } else { EncoderKind::Raw };
        // A slow link keeps the guest writing for some rounds.
        options.bandwidth_cap_bytes_per_s = (at % 2 == 0).then_some(20_000_000);
        let (report, there) = migrate(&guest, options, tracking);
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert!(report.verified && !guest.is_running(), "migration {at}");
        let there = there.expect("it was handed over");
        let before = guest.audit().unwrap().total_steps();
        let arrived = there.audit().unwrap();
        println!(
            "{at:>3} {policy}: {} rounds, {} pages, downtime {:.1?}; {arrived}",
            report.totals.rounds,
            report.totals.sent_pages,
            report.downtime.unwrap_or_default().source_total,
        );
        assert!(arrived.is_clean(), "migration {at}: {arrived}");
        // An older guest would be whole, too.
        assert!(arrived.total_steps() >= before, "migration {at}: it went back");
        assert!(there.is_running() && there.fault().is_none());
        run_on(&there, 1000);
        let after = there.audit().unwrap();
        assert!(after.is_clean(), "migration {at}, running on: {after}");
        guest = there;
    }
}

#[test]
fn two_vcpus_move_and_lose_nothing() {
    if has_kvm() {
        let migrations = number("PRECOPY_KVM_MIGRATIONS", 2);
        chain(GuestConfig::new(2, 2048), migrations, Tracking::Log);
    }
}

#[test]
fn four_vcpus_move_with_another_log() {
    if has_kvm() {
        let migrations = number("PRECOPY_KVM_MIGRATIONS", 1);
        chain(GuestConfig::new(4, 2048), migrations, Tracking::LogAtHarvest);
    }
}

/// With rings where they pass their self-test, and with the log and a reason where they do not.
#[test]
fn rings_are_used_or_refused_with_a_reason() {
    if !has_kvm() {
        return;
    }
    let guest = SharedGuest::start(GuestConfig::new(1, 64), Tracking::Ring).unwrap();
    let why = guest.tracker_why();
    println!("{why}");
    assert!(why.contains("lost none of") || why.contains("not its rings: "), "{why}");
    drop(guest);
    chain(GuestConfig::new(2, 1024), 1, Tracking::Ring);
}

/// An attempt that fails leaves the guest where it is, and the next one moves it whole (R5).
#[test]
fn a_refused_guest_goes_on_and_moves_later() {
    if !has_kvm() {
        return;
    }
    let mut guest = SharedGuest::start(GuestConfig::new(2, PAGES_MAX + 1), Tracking::Log).unwrap();
    guest.resume().unwrap();
    run_on(&guest, 500);
    let (report, there) = migrate(&guest, options("xen"), Tracking::Log);
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning);
    assert!(report.failure.is_some_and(|why| why.contains("at most 65536 may run")));
    assert!(there.is_none() && guest.is_running());
    run_on(&guest, 500);
    assert!(guest.audit().unwrap().is_clean());

    // Cancelled in the middle: what was sent must be sent again.
    let mut guest = SharedGuest::start(GuestConfig::new(2, 2048), Tracking::Log).unwrap();
    guest.resume().unwrap();
    run_on(&guest, 500);
    let cancel = CancelToken::new();
    let mut slow = options("fixed-rounds:rounds=20");
    slow.bandwidth_cap_bytes_per_s = Some(4_000_000);
    let mut when_sent = |event: &EngineEvent| {
        if matches!(event, EngineEvent::SourceProgress(progress) if progress.sent_pages >= 500) {
            cancel.cancel();
        }
    };
    let (report, there) = migrate_until(&guest, slow, Tracking::Log, &cancel, &mut when_sent);
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning, "{:?}", report.failure);
    assert!(there.is_none() && guest.is_running() && report.totals.sent_pages >= 500);
    let (report, there) = migrate(&guest, options("xen"), Tracking::Log);
    assert_eq!(report.outcome, Outcome::HandedOver);
    let arrived = there.unwrap().audit().unwrap();
    assert!(report.verified && arrived.is_clean(), "{arrived}");
}
