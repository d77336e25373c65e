// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The smallest migration: a guest of one word, between two threads of one process.

use std::sync::Arc;
use std::{error, thread};

use bytes::Bytes;
use precopy::bitmap::AtomicBitmap;
use precopy::dirty::MarkedTracker;
use precopy::engine::{self, CancelToken, CreatedGuest, DestinationOptions, Receiver};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::region::RegionTable;
use precopy::report::Outcome;
use precopy::units::{PageIndex, PageSize, Throttle};
use precopy::wire::Hello;

/// A guest without vCPUs: all it can do is to be running or not.
struct Still {
    running: bool,
}

#[rustfmt::skip]
impl GuestControl for Still {
    fn pause(&mut self) -> Result<(), GuestError> { self.running = false; Ok(()) }
    fn resume(&mut self) -> Result<(), GuestError> { self.running = true; Ok(()) }
    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> { Ok(()) }
    fn export_state(&mut self) -> Result<Bytes, GuestError> { Ok(Bytes::new()) }
    fn import_state(&mut self, _: Bytes) -> Result<(), GuestError> { Ok(()) }
    fn is_running(&self) -> bool { self.running }
}

fn main() -> Result<(), Box<dyn error::Error>> {
    let (mut connector, listener) = precopy::transport::pipe();
    let destination = thread::spawn(move || {
        let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
        let mut factory = |hello: &Hello| {
            let memory = MappedMemory::new(hello.regions.clone(), MapOptions::default())
                .map_err(|error| GuestError::because("get memory", error))?;
            let guest = Box::new(Still { running: false });
            Ok(CreatedGuest { memory: Arc::new(memory), guest })
        };
        receiver.receive(&mut factory, &CancelToken::new(), &mut ())
    });

    let regions = RegionTable::single(PageSize::BASE, 1024)?;
    let memory = MappedMemory::new(regions.clone(), MapOptions::default())?;
    memory.store_u64(PageIndex::new(7), 0, 42)?;
    let dirty = Arc::new(AtomicBitmap::new(regions.pages())); // the VMM marks what it writes
    let (mut tracker, mut guest) = (MarkedTracker::new(dirty), Still { running: true });
    let options = engine::SourceOptions::new(precopy::policy::parse("xen")?);
    let parts = engine::SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut guest);
    let report = engine::send(options, &mut connector, parts, &CancelToken::new(), &mut ())?;

    assert_eq!(report.outcome, Outcome::HandedOver);
    let received = destination.join().expect("the destination's thread does not panic")?;
    assert!(received.guest.is_running() && !guest.running);
    println!("{:?}", report.downtime);
    Ok(())
}
