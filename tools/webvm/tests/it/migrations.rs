// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many migrations in a row of guests that write as fast as they can: no write is lost, none
//! happens twice, whatever the pattern, policy, channels, encoder, tracker and memory.
//!
//! `PRECOPY_MIGRATIONS=200 PRECOPY_SEED=1 cargo test --release -p webvm --test it migrations`
//! A failing migration prints its number; `PRECOPY_ONLY=NUMBER` runs it alone.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use precopy::encode::EncoderKind;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::policy::{self, Guards};
use precopy::region::{Region, RegionTable};
use precopy::report::{Outcome, Report};
use precopy::sim::Rng;
use precopy::sys::Backing;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{GuestAddress, PageSize};
use precopy::wire::Hello;
use webvm::GuestConfig;

use crate::guest::{Shared, memory};

fn pick<'a, T: ?Sized>(rng: &mut Rng, from: &[&'a T]) -> &'a T {
    from[usize::try_from(rng.below(from.len() as u64)).unwrap()]
}

/// One to three regions with holes, 4 to 24 MiB in all.
fn layout(rng: &mut Rng) -> RegionTable {
    let mut at = 0;
    let regions: Vec<Region> = (0..=rng.below(3))
        .map(|_| {
            let pages = 1024 + rng.below(1024);
            let start = GuestAddress::new(at << 12);
            at += pages + rng.below(100);
            Region { start, pages }
        })
        .collect();
    RegionTable::new(PageSize::BASE, &regions).unwrap()
}

fn options(rng: &mut Rng) -> SourceOptions {
    let policy = pick(
        rng,
        &["fixed-rounds:rounds=4", "xen", "xen-legacy", "qemu", "cloud-hypervisor", "stop-at-once"],
    );
    // Writers at full speed never converge; the guard stops them.
    let guards = Guards::parse("max_rounds=12,action=stop").unwrap();
    let mut options = SourceOptions::new(Box::new(guards.guard(policy::parse(policy).unwrap())));
    policy.clone_into(&mut options.policy_text);
    options.channels = u8::try_from(1 + rng.below(8)).unwrap();
    options.encoder = match rng.below(6) {
        0 => EncoderKind::Delta,
        1 => EncoderKind::DeltaLz4,
        2 => EncoderKind::Lz4,
        _ => EncoderKind::Raw,
    };
    // Too little for the hot set, now and then.
    options.delta_cache_bytes = rng.one_in(2).then_some(256 << 10);
    options.verify = true;
    options.downtime_limit = Duration::from_millis(30);
    options
}

/// Moves a guest to fresh memory behind a loopback connection.
fn migrate(
    from: &Shared,
    options: SourceOptions,
    tracker: &str,
    backing: Backing,
) -> (Report, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
    let target = listener.local_addr().to_string();
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default()).unwrap();
    let config = from.vm.config();
    let stop = CancelToken::new();
    let stopped = stop.clone();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut there = None;
            let mut factory = |hello: &Hello| {
                let shared = Shared::new(&config, memory(hello.regions.clone(), backing));
                there = Some(shared.clone());
                let memory = Arc::new(shared.memory.clone());
                Ok(CreatedGuest { memory, guest: Box::new(shared.vm) })
            };
            let received = receiver.receive(&mut factory, &stopped, &mut ());
            (received.map(drop), there)
        });
        let mut tracker = from.tracker(tracker);
        let mut control = from.vm.clone();
        let regions = from.memory.table().clone();
        let parts =
            SourceParts::new(Arc::new(from.memory.clone()), regions, &mut *tracker, &mut control);
        let mut connector = TcpConnector::new(target, TcpOptions::default());
        let sent = send(options, &mut connector, parts, &CancelToken::new(), &mut ());
        if sent.as_ref().map_or(true, |report| report.outcome != Outcome::HandedOver) {
            // It would wait for another source.
            stop.cancel();
        }
        let (received, there) = destination.join().unwrap();
        let report = sent.unwrap();
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert!(received.is_ok(), "{received:?}");
        (report, there.unwrap())
    })
}

fn check(report: &Report, from: &Shared, to: &Shared) -> u64 {
    assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
    assert!(report.verified, "digests were compared");
    assert!(!from.vm.is_running(), "two runners");
    assert!(to.vm.is_running(), "no runner");
    let before = from.vm.ops();
    while to.vm.ops() < before + 50 && from.vm.config().pages_per_s != 1 {
        thread::yield_now();
    }
    let after = to.audit();
    assert!(after >= before, "{after} ops at the destination, {before} at the source");
    after
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn many_migrations_lose_nothing() {
    let seed = number("PRECOPY_SEED", 1);
    let only = std::env::var("PRECOPY_ONLY").ok().and_then(|text| text.parse::<u64>().ok());
    let (mut ops, mut rounds) = (0, 0);
    for migration in 0..number("PRECOPY_MIGRATIONS", 20) {
        if only.is_some_and(|only| only != migration) {
            continue;
        }
        let mut rng = Rng::new(seed * 1_000_003 + migration);
        let pattern = pick(&mut rng, &["sequential", "uniform", "zipf", "log", "uniform"]);
        let vcpus = 1 + rng.below(3);
        let text =
            format!("pattern={pattern},vcpus={vcpus},pages_per_s=0,fill=60%,seed={migration}");
        let config: GuestConfig = text.parse().unwrap();
        let backing = if rng.one_in(2) { Backing::Anonymous } else { Backing::Memfd };
        let to_backing = if rng.one_in(2) { Backing::Anonymous } else { Backing::Memfd };
        let tracker = pick(&mut rng, &["marked", "pagemap", "pagemap-user", "mprotect", "union"]);
        let from = Shared::new(&config, memory(layout(&mut rng), backing));
        from.vm.fill().unwrap();
        from.vm.clone().resume().unwrap();
        thread::sleep(Duration::from_millis(rng.below(10)));
        let options = options(&mut rng);
        println!(
            "migration {migration}: {pattern}, {vcpus} vCPUs, {} pages, {tracker}, {}, {} \
             channels, {:?}, {backing:?} to {to_backing:?}",
            from.memory.table().pages(),
            options.policy_text,
            options.channels,
            options.encoder
        );
        let (report, to) = migrate(&from, options, tracker, to_backing);
        ops += check(&report, &from, &to);
        rounds += report.totals.rounds;
    }
    println!("{ops} ops audited, {rounds} rounds");
}

#[test]
fn one_guest_moves_back_and_forth() {
    let config: GuestConfig = "pattern=zipf,vcpus=2,pages_per_s=0,fill=50%,seed=9".parse().unwrap();
    let mut rng = Rng::new(5);
    let mut here = Shared::new(&config, memory(layout(&mut rng), Backing::Anonymous));
    here.vm.fill().unwrap();
    here.vm.clone().resume().unwrap();
    let mut ops = 0;
    // From A to B and back, ten times.
    for hop in 0..20 {
        let tracker = ["pagemap", "marked", "mprotect"][hop % 3];
        let backing = if hop % 2 == 0 { Backing::Memfd } else { Backing::Anonymous };
        let (report, there) = migrate(&here, options(&mut rng), tracker, backing);
        let now = check(&report, &here, &there);
        assert!(now > ops, "hop {hop}: the guest stands still");
        ops = now;
        here = there;
        here.vm.clone().resume().unwrap();
    }
    println!("{ops} ops after 20 hops");
}
