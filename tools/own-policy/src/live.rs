// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live guest moves to another memory of this process over TCP, by any strategy.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use precopy::dirty;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, Receiver, SourceOptions, SourceParts, send,
};
use precopy::guest::{GuestControl, GuestError};
use precopy::memory::{MapOptions, MappedMemory};
use precopy::policy::Strategy;
use precopy::region::RegionTable;
use precopy::report::Report;
use precopy::session::Shadow;
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::PageSize;
use precopy::wire::Hello;
use webvm::{GuestConfig, SharedVm};

/// Pages of the guest: 32 MiB.
const PAGES: u64 = 8192;

/// Migrates by `strategy`, with others in its shadow. The guest writes 4,000 pages a second over
/// a link of 40 MB/s.
///
/// # Errors
/// If the guest or the connection cannot be had.
pub fn migrate(strategy: Strategy, shadows: Vec<Shadow>) -> anyhow::Result<Report> {
    let config: GuestConfig = "vcpus=1,pattern=zipf,pages_per_s=4000,fill=100%".parse()?;
    let table = RegionTable::single(PageSize::BASE, PAGES)?;
    let memory = Arc::new(MappedMemory::new(table.clone(), MapOptions::default())?);
    let mut vm = SharedVm::new(config.clone(), Arc::clone(&memory) as _, None)?;
    vm.fill()?;
    let mut tracker = dirty::probe(memory.host())?.tracker;
    vm.resume()?;

    let listener = TcpListener::bind("127.0.0.1:0", TcpOptions::default())?;
    let mut connector = TcpConnector::new(listener.local_addr().to_string(), TcpOptions::default());
    let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
    let destination = thread::spawn(move || {
        let mut factory = |hello: &Hello| -> Result<CreatedGuest, GuestError> {
            let memory = MappedMemory::new(hello.regions.clone(), MapOptions::default())
                .map_err(|error| GuestError::because("get its memory", error))?;
            let memory = Arc::new(memory);
            let guest = SharedVm::new(config.clone(), Arc::clone(&memory) as _, None)?;
            Ok(CreatedGuest { memory, guest: Box::new(guest) })
        };
        receiver.receive(&mut factory, &CancelToken::new(), &mut ()).map(drop)
    });
    let mut options = SourceOptions::new(strategy);
    options.shadows = shadows;
    options.downtime_limit = Duration::from_millis(10);
    options.bandwidth_cap_bytes_per_s = Some(40_000_000);
    let parts = SourceParts::new(memory, table, &mut *tracker, &mut vm);
    let report = send(options, &mut connector, parts, &CancelToken::new(), &mut ())?;
    destination.join().map_err(|_| anyhow::anyhow!("The destination panicked"))??;
    Ok(report)
}
