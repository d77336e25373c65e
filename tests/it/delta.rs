// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deltas in whole migrations: a destination whose page changed behind its back, a second attempt,
//! a destination that knows no deltas, and a cache too small for the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use precopy::bitmap::DenseBitmap;
use precopy::encode::EncoderKind;
use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, MigrateError, ReceivedGuest, Receiver,
    SourceOptions, SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::memory::{MappedMemory, MemoryError, PageReader, PageWriter};
use precopy::report::{Outcome, Report};
use precopy::units::{PageIndex, PageRun};
use precopy::wire::{Capabilities, Hello};

use crate::loopback::{options, running, tcp, writing};
use crate::support::{Shared, TestGuest, serial};

const PAGES: u64 = 3000;

/// Memory that loses pages: once they are read again, they are gone.
struct Losing {
    inner: MappedMemory,
    loses: Arc<AtomicBool>,
}

impl PageReader for Losing {
    fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), MemoryError> {
        if self.loses.load(Ordering::SeqCst) {
            self.inner.zero_run(run)?;
        }
        self.inner.read_run(run, into)
    }

    fn is_zero(&self, page: PageIndex) -> Result<bool, MemoryError> {
        self.inner.is_zero(page)
    }

    fn populated(&self, into: &mut DenseBitmap) -> Result<(), MemoryError> {
        self.inner.populated(into)
    }
}

impl PageWriter for Losing {
    fn write_run(&self, run: PageRun, bytes: &[u8]) -> Result<(), MemoryError> {
        self.inner.write_run(run, bytes)
    }

    fn zero_run(&self, run: PageRun) -> Result<(), MemoryError> {
        self.inner.zero_run(run)
    }

    fn prefault(&self, run: PageRun) -> Result<(), MemoryError> {
        self.inner.prefault(run)
    }
}

type Received = (Result<ReceivedGuest, MigrateError>, Option<Shared>);

fn migrate(
    guest: &Shared,
    options: SourceOptions,
    receives: DestinationOptions,
    loses: &Arc<AtomicBool>,
) -> (Report, Received) {
    let (mut connector, listener) = tcp();
    let mut receiver = Receiver::bind(listener, receives).unwrap();
    thread::scope(|scope| {
        let destination = scope.spawn(move || {
            let mut there = None;
            let mut factory = |hello: &Hello| {
                let guest = Shared::new(TestGuest::new(hello.regions.clone()));
                let inner = guest.with(|guest| guest.memory.clone());
                there = Some(guest.clone());
                let memory = Arc::new(Losing { inner, loses: Arc::clone(loses) });
                Ok(CreatedGuest { memory, guest: Box::new(guest) })
            };
            let received = receiver.receive(&mut factory, &CancelToken::new(), &mut ());
            (received, there)
        });
        let (memory, mut tracker) = guest.with(|g| (g.memory.clone(), g.tracker()));
        let regions = memory.table().clone();
        let mut control = guest.clone();
        let parts = SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut control);
        let (cancel, mut sink) = (CancelToken::new(), writing(guest));
        let report = send(options, &mut *connector, parts, &cancel, &mut sink).unwrap();
        (report, destination.join().unwrap())
    })
}

fn deltas(rounds: u32) -> SourceOptions {
    let mut options = options(&format!("fixed-rounds:rounds={rounds}"));
    (options.encoder, options.channels) = (EncoderKind::Delta, 3);
    options
}

fn check(guest: &Shared, received: Received) {
    received.0.unwrap();
    guest.with(|guest| guest.check());
    let mut there = received.1.unwrap();
    there.pause().unwrap();
    there.with(|guest| guest.check());
}

/// A page that is lost at the destination is noticed, the guest goes on at the source, and the
/// next attempt begins without a memory of what the first one sent.
#[test]
fn a_lost_page_is_refused_and_a_second_attempt_is_cold() {
    let _serial = serial();
    let (guest, loses) = (running(PAGES), Arc::new(AtomicBool::new(true)));
    let (report, received) = migrate(&guest, deltas(8), DestinationOptions::default(), &loses);
    assert_eq!(report.outcome, Outcome::SourceKeepsRunning, "{report:#?}");
    let failure = report.failure.unwrap();
    assert!(failure.contains("discarded here") && failure.contains("page "), "{failure}");
    assert!(received.0.is_err() && guest.is_running());

    loses.store(false, Ordering::SeqCst);
    let (report, received) = migrate(&guest, deltas(8), DestinationOptions::default(), &loses);
    assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
    let (rounds, delta) = (&report.rounds, report.delta.unwrap());
    assert_eq!(rounds[0].delta.pages, 0, "cold: {rounds:#?}");
    assert!(delta.sent.pages > 0 && delta.saved_bytes > 1000 * delta.sent.pages, "{delta:?}");
    check(&guest, received);
}

#[test]
fn a_destination_without_deltas_gets_none() {
    let _serial = serial();
    let (guest, loses) = (running(PAGES), Arc::default());
    let mut receives = DestinationOptions::default();
    receives.session.capabilities = Capabilities::ANNOUNCE;
    let (report, received) = migrate(&guest, deltas(5), receives, &loses);
    assert_eq!((report.outcome, report.encoder.as_str()), (Outcome::HandedOver, "raw"));
    assert_eq!((report.delta, report.totals.delta.pages), (None, 0));
    check(&guest, received);
}

#[test]
fn a_cache_that_is_too_small_still_serves() {
    let _serial = serial();
    let (guest, loses) = (running(PAGES), Arc::default());
    let mut options = deltas(12);
    options.delta_cache_bytes = Some(50 << 12);
    options.verify = true;
    let (report, received) = migrate(&guest, options, DestinationOptions::default(), &loses);
    assert_eq!(report.outcome, Outcome::HandedOver, "{report:#?}");
    let delta = report.delta.unwrap();
    println!("{delta:?}");
    let cache = delta.cache;
    assert!(cache.cache_bytes <= 50 << 12 && cache.cache_limit_bytes <= 50 << 12, "{delta:?}");
    assert!(delta.sent.pages > 0 && cache.misses > 0 && cache.declined > 0, "{delta:?}");
    check(&guest, received);
}
