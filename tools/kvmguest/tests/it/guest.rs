// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest, not migrated: it runs, stops, and is found out when it is harmed.

use std::time::{Duration, Instant};

use kvmguest::{GuestConfig, KvmGuest, SharedGuest, Tracking};
use precopy::guest::GuestControl;
use precopy::units::{PageIndex, Throttle};

use crate::migrations::{PATIENCE, run_on};

/// Steps of a vCPU between two signs of life.
const CHECKED: u64 = 256;

/// Whether there is KVM; says so if not.
pub(crate) fn has_kvm() -> bool {
    match KvmGuest::new(GuestConfig::new(1, 64), Tracking::Log) {
        Ok(_) => true,
        Err(why) => {
            precopy::skipped(format_args!("no KVM guest can be had here: {why}: {:?}", why.source));
            false
        }
    }
}

#[test]
fn it_writes_what_its_steps_say_and_can_be_stopped_anywhere() {
    if !has_kvm() {
        return;
    }
    let mut guest = SharedGuest::start(GuestConfig::new(2, 1024), Tracking::Log).unwrap();
    for _ in 0..20 {
        guest.resume().unwrap();
        run_on(&guest, 300);
        guest.pause().unwrap();
        guest.pause().unwrap();
        let told = guest.progress();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(guest.progress(), told, "a paused guest goes on");
    }
    // A pause that comes before a vCPU has noticed the start.
    for _ in 0..200 {
        guest.resume().unwrap();
        guest.pause().unwrap();
    }
    let report = guest.audit().unwrap();
    assert!(report.is_clean() && report.total_steps() > 20 * 300, "{report}");
    assert!(report.written_pages > 100 && !guest.is_running(), "{report}");
}

/// A lost page, a stale page and a lost word are found by the audit; what the guest itself can see,
/// by the guest.
#[test]
fn harm_is_found() {
    if !has_kvm() {
        return;
    }
    let mut guest = SharedGuest::start(GuestConfig::new(1, 1024), Tracking::Log).unwrap();
    guest.resume().unwrap();
    run_on(&guest, 2000);
    guest.pause().unwrap();
    let report = guest.audit().unwrap();
    assert!(report.is_clean(), "{report}");
    let (memory, first) = (guest.memory(), PageIndex::new(64));
    // An audit ends on the next step, which may write the page that is harmed: a number that the
    // next steps do not replace is taken, half a round of slots ahead of them.
    let number = 8 + usize::try_from(report.total_steps() + 16).unwrap() % 32;
    for (page, word) in [(0, number), (900, 511), (1023, 300)] {
        let page = first + page;
        let old = memory.load_u64(page, word * 8).unwrap();
        memory.store_u64(page, word * 8, old ^ 1).unwrap();
        let report = guest.audit().unwrap();
        assert_eq!((report.wrong_pages, report.faults.len()), (1, 0), "{page}: {report}");
        memory.store_u64(page, word * 8, old).unwrap();
    }
    // The hottest page loses its count: the guest trips over it.
    let count = memory.load_u64(first, 0).unwrap();
    memory.store_u64(first, 0, count + 1).unwrap();
    guest.resume().unwrap();
    let until = Instant::now() + PATIENCE;
    while guest.fault().is_none() {
        assert!(Instant::now() < until, "it does not notice");
        std::thread::sleep(Duration::from_millis(2));
    }
    let fault = guest.fault().unwrap();
    assert!(fault.contains("check word"), "{fault}");
    guest.pause().unwrap();
    assert!(guest.resume().is_err() && guest.export_state().is_err(), "it is harmed");
}

#[test]
fn throttling_slows_it() {
    if !has_kvm() {
        return;
    }
    let mut guest = SharedGuest::start(GuestConfig::new(1, 256), Tracking::Log).unwrap();
    guest.resume().unwrap();
    run_on(&guest, CHECKED);
    assert_eq!(guest.slowed(), Duration::ZERO, "nobody throttles it");
    guest.throttle(Throttle::percent(99)).unwrap();
    // Two signs of life after that, with a sleep between them.
    run_on(&guest, 2 * CHECKED);
    assert!(guest.slowed() > Duration::ZERO, "it runs as if nobody had throttled it");
    // A vCPU that sleeps can still be paused.
    guest.pause().unwrap();
    assert!(guest.audit().unwrap().is_clean());
}

/// States of others, damaged states, and guests that have run already are refused.
#[test]
fn only_its_own_state_is_taken() {
    if !has_kvm() {
        return;
    }
    let config = GuestConfig::new(2, 64);
    let mut source = SharedGuest::start(config.clone(), Tracking::Log).unwrap();
    let state = source.export_state().unwrap();
    assert!(source.import_state(state.clone()).is_err(), "it has state already");
    let mut other = KvmGuest::new(GuestConfig::new(2, 65), Tracking::Log).unwrap();
    assert!(other.import_state(state.clone()).is_err(), "another guest's");
    let mut guest = KvmGuest::new(config, Tracking::Log).unwrap();
    assert!(guest.resume().is_err(), "it has no state");
    for at in [0, 5, 40, state.len() / 2, state.len() - 1] {
        let mut damaged = state.to_vec();
        damaged[at] ^= 4;
        assert!(guest.import_state(damaged.into()).is_err(), "byte {at}");
        assert!(guest.import_state(state.slice(..at)).is_err(), "{at} bytes");
    }
    guest.import_state(state).unwrap();
    assert!(guest.start().is_err(), "it has state now");
}
