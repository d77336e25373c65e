// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A live-migration engine in user space: it moves a running guest's memory and state to another
//! process or host, and takes care that exactly one side runs it.
//!
//! ```text
//!  guest writes ──mark──> [dirty tracker] ──harvest──> bitmap ──or──> [ledger: pages owed]
//!                                                                        │ runs
//!      [policy] <──observation── [planner] ──────────────────────────────┘──> channel i:
//!         │ continue / harvest / stop / give up            re-arm, read, encode, frame ──TCP──>
//!         └──> pause ─> last harvest ─> residual ─> state ─> Prepare ─ Ready ─ Commit ─ Committed
//! ```
//!
//! A VMM brings guest memory ([`memory`], for rust-vmm's model `memory::vm_memory`), something that
//! knows what the guest writes ([`dirty`]), and pause, resume and state ([`guest::GuestControl`]);
//! [`engine::send`] and [`engine::Receiver`] do the rest:
//!
//! ```
//! # use std::sync::Arc;
//! # use bytes::Bytes;
//! # use precopy::bitmap::AtomicBitmap;
//! # use precopy::dirty::MarkedTracker;
//! # use precopy::engine::{self, CancelToken, CreatedGuest, DestinationOptions, Receiver};
//! # use precopy::guest::{GuestControl, GuestError};
//! # use precopy::memory::{MapOptions, MappedMemory};
//! # use precopy::region::RegionTable;
//! # use precopy::report::Outcome;
//! # use precopy::units::{PageIndex, PageSize, Throttle};
//! # use precopy::wire::Hello;
//! #[derive(Default)]
//! struct Vm { running: bool } // a guest without vCPUs: all it can do is to run or not
//!
//! impl GuestControl for Vm {
//!     fn pause(&mut self) -> Result<(), GuestError> { self.running = false; Ok(()) }
//!     fn resume(&mut self) -> Result<(), GuestError> { self.running = true; Ok(()) }
//!     fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> { Ok(()) }
//!     fn export_state(&mut self) -> Result<Bytes, GuestError> { Ok(Bytes::new()) }
//!     fn import_state(&mut self, _: Bytes) -> Result<(), GuestError> { Ok(()) }
//!     fn is_running(&self) -> bool { self.running }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut connector, listener) = precopy::transport::pipe(); // or TcpConnector, TcpListener
//! let destination = std::thread::spawn(move || {
//!     let mut receiver = Receiver::bind(Box::new(listener), DestinationOptions::default())?;
//!     let mut create = |hello: &Hello| {
//!         let memory = MappedMemory::new(hello.regions.clone(), MapOptions::default())
//!             .map_err(|error| GuestError::because("get memory", error))?;
//!         Ok(CreatedGuest { memory: Arc::new(memory), guest: Box::new(Vm::default()) })
//!     };
//!     receiver.receive(&mut create, &CancelToken::new(), &mut ())
//! });
//!
//! let regions = RegionTable::single(PageSize::BASE, 1024)?;
//! let memory = MappedMemory::new(regions.clone(), MapOptions::default())?;
//! memory.store_u64(PageIndex::new(7), 0, 42)?;
//! let dirty = Arc::new(AtomicBitmap::new(regions.pages())); // the VMM marks what it writes
//! let (mut tracker, mut guest) = (MarkedTracker::new(dirty), Vm { running: true });
//! let options = engine::SourceOptions::new(precopy::policy::parse("xen")?);
//! let parts = engine::SourceParts::new(Arc::new(memory), regions, &mut tracker, &mut guest);
//! let report = engine::send(options, &mut connector, parts, &CancelToken::new(), &mut ())?;
//!
//! assert_eq!(report.outcome, Outcome::HandedOver);
//! let received = destination.join().expect("it does not panic")?;
//! assert!(received.guest.is_running() && !guest.running);
//! # let mut page = [0; 4096];
//! # let run = precopy::units::PageRun::new(PageIndex::new(7), 1);
//! # received.memory.read_run(run, &mut page)?;
//! # assert_eq!(page[0], 42);
//! # Ok(())
//! # }
//! ```
//!
//! A longer one is `examples/vmm_vm_memory.rs`.
//!
//! | Feature | Default | What it adds |
//! |---|---|---|
//! | `lz4` | yes | pages may travel as LZ4 blocks, if a migration asks for it |
//! | `kvm` | no | dirty tracking by KVM's logs and rings: `dirty::kvm` |
//! | `vm-memory` | no | guest memory and bitmaps of VMMs built on the rust-vmm model |
//! | `test-util` | no | faulty connections and conformance suites for trackers and transports |
//!
//! To add a policy ([`policy::StopPolicy`]), a tracker ([`dirty::DirtyTracker`]), an encoder
//! ([`encode::PageEncoder`]) or a transport ([`transport::Connection`]), see "Where to add things"
//! in `ARCHITECTURE.md`; what goes over the wire is in `PROTOCOL.md`.

#![cfg_attr(
    test,
    allow(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::too_many_lines,
        clippy::unwrap_used
    )
)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("precopy supports 64-bit targets only: guests are larger than 4 GiB");

pub mod bitmap;
pub mod dirty;
pub mod encode;
pub mod engine;
#[cfg(any(test, feature = "test-util"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
pub mod limits;
pub mod memory;
pub mod policy;
pub mod region;
pub mod report;
mod rng;
pub mod session;
pub mod sim;
#[cfg(any(test, feature = "test-util"))]
mod skipped;
mod sync;
pub mod sys;
pub mod trace;
pub mod transport;
pub mod units;
pub mod wire;

#[cfg(any(test, feature = "test-util"))]
#[doc(hidden)]
pub use skipped::skipped;
