// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tiers behind the site as guests of the engine: live over a connection, and in virtual time.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use precopy::dirty::tracker_by_name;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::memory::MappedMemory;
use precopy::policy::{self, Guards};
use precopy::region::RegionTable;
use precopy::report::Outcome;
use precopy::session::SourceConfig;
use precopy::sim::pair::{PairPlan, PairResult, run_guest};
use precopy::sys::Backing;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::{MigrationId, PageSize};
use precopy::wire::Hello;
use webvm::tiers::{MemcachedConfig, Tier, TierConfig, TierVm};

use crate::guest::memory;

fn table(config: &TierConfig) -> RegionTable {
    let pages = Tier::new(config.clone()).unwrap().pages();
    RegionTable::single(PageSize::BASE, pages).unwrap()
}

fn vm(config: &TierConfig, memory: &MappedMemory) -> TierVm {
    TierVm::new(config.clone(), Arc::new(memory.clone()), None).unwrap()
}

fn wait_for_ops(vm: &TierVm, ops: u64) {
    let begun = Instant::now();
    while vm.ops() < ops {
        assert!(begun.elapsed() < Duration::from_secs(60), "the tier stands still");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Moves a tier to fresh memory; returns it with that memory.
fn migrate(from: &TierVm, memory_there: &MappedMemory) -> (TierVm, MappedMemory) {
    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default()).unwrap();
    let target = listener.local_addr().to_string();
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default()).unwrap();
    let config = from.config().clone();
    let guards = Guards::parse("max_rounds=10,action=stop").unwrap();
    let policy = guards.guard(policy::parse("qemu").unwrap());
    let mut options = SourceOptions::new(Box::new(policy));
    options.verify = true;
    options.downtime_limit = Duration::from_millis(50);
    let stop = CancelToken::new();
    let stopped = stop.clone();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut there = None;
            let mut factory = |hello: &Hello| {
                let memory = memory(hello.regions.clone(), Backing::Memfd);
                let guest = vm(&config, &memory);
                there = Some((guest.clone(), memory.clone()));
                Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(guest) })
            };
            let received = receiver.receive(&mut factory, &stopped, &mut ());
            (received.map(drop), there)
        });
        let mut tracker = tracker_by_name(memory_there.host(), "pagemap").unwrap().tracker;
        let mut control = from.clone();
        let regions = memory_there.table().clone();
        let read = Arc::new(memory_there.clone());
        let parts = SourceParts::new(read, regions, &mut *tracker, &mut control);
        let mut connector = TcpConnector::new(target, TcpOptions::default());
        let sent = send(options, &mut connector, parts, &CancelToken::new(), &mut ());
        // After a failure it would wait for another source.
        stop.cancel();
        let report = sent.unwrap();
        assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
        assert!(report.verified, "digests were compared");
        let (received, there) = destination.join().unwrap();
        assert!(received.is_ok(), "{received:?}");
        there.unwrap()
    })
}

/// Over and over, at full load: every value that was ever set is there, with its last version.
#[test]
fn tiers_move_live_and_lose_nothing() {
    for line in [
        "tier=memcached,items=20000,ops_per_s=50000,set_share=0.5,bump_s=1",
        "tier=database,pool_mib=16,log_mib=4,ops_per_s=10000,matrix=write20,cleaner_s=1,\
         kernel_writes=20",
    ] {
        let config: TierConfig = line.parse().unwrap();
        let mut memory_here = memory(table(&config), Backing::Anonymous);
        let mut here = vm(&config, &memory_here);
        here.fill().unwrap();
        here.resume().unwrap();
        for hop in 1..=5 {
            wait_for_ops(&here, here.ops() + 500);
            let (mut there, memory_there) = migrate(&here, &memory_here);
            assert!(!here.is_running() && there.is_running(), "exactly one runs");
            let moved = here.ops();
            wait_for_ops(&there, moved + 500);
            there.pause().unwrap();
            let audit = there.audit().unwrap();
            assert!(audit.is_clean() && there.bad_reads() == 0, "hop {hop}: {audit}");
            println!("hop {hop}: {audit}, {:?} stood still", there.blackout());
            there.resume().unwrap();
            (here, memory_here) = (there, memory_there);
        }
    }
}

/// The production session in virtual time, over a gigabit link.
fn virtually(config: TierConfig) -> PairResult {
    let source = SourceConfig::new(MigrationId::new(7), table(&config));
    let guards = Guards::parse("max_rounds=12,action=stop").unwrap();
    let policy = guards.guard(policy::parse("qemu").unwrap());
    let mut tier = Tier::new(config).unwrap();
    let result = run_guest(PairPlan::for_guest(source, Box::new(policy)), &mut tier);
    assert_eq!(result.outcome, Some(Outcome::HandedOver), "{:?}", result.failure);
    assert_eq!(result.violations, []);
    result
}

#[test]
fn tiers_move_in_virtual_time() {
    let usual = virtually(TierConfig::Memcached(MemcachedConfig::default()));
    let database = virtually("tier=database,pool_mib=64,log_mib=64".parse().unwrap());
    let heavy = virtually(TierConfig::Memcached(MemcachedConfig {
        items: 200_000,
        ..MemcachedConfig::write_heavy()
    }));
    for (name, result) in [("cache", &usual), ("database", &database), ("write-heavy", &heavy)] {
        println!("{name}: {} rounds, down {:?}", result.totals.rounds, result.downtime);
    }
    let down = |result: &PairResult| result.downtime.unwrap();
    assert!(down(&usual) < Duration::from_millis(350), "{:?}", usual.downtime);
    assert!(down(&database) < Duration::from_millis(350), "{:?}", database.downtime);
    assert!(down(&heavy) > Duration::from_millis(500), "{:?}", heavy.downtime);
}
