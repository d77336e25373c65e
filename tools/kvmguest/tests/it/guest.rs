// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest, not migrated.

use std::time::{Duration, Instant};

use kvmguest::{GuestConfig, KvmGuest, Tracking};
use precopy::guest::GuestControl;

#[test]
fn it_does_what_it_must() {
    let mut guest = KvmGuest::new(GuestConfig::new(2, 1024), Tracking::Log).unwrap();
    guest.start().unwrap();
    let began = Instant::now();
    guest.resume().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    guest.pause().unwrap();
    println!("{} in {:?}: {:?}", guest.progress(), began.elapsed(), guest.fault());
    let began = Instant::now();
    println!("{}", guest.audit().unwrap());
    println!("audit {:?}", began.elapsed());
    let began = Instant::now();
    let state = guest.export_state();
    println!("export {:?} {:?}", state.map(|s| s.len()), began.elapsed());
}
