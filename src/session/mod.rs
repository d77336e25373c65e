// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Source and destination of a migration as state machines.
//!
//! No clock, no socket, no thread, no page bytes: time is an argument, what happened comes in
//! through `handle`, what shall happen goes out through `poll_action`, and pages are only ever
//! named by [`PageRun`](crate::units::PageRun)s. The engine (real time), the simulator (virtual
//! time), the fuzzers and the exhaustive explorer all drive these same two types.
//!
//! ```text
//!            SourceSession                                   DestinationSession
//!  Negotiating  ── Hello ──────────────────────────────────>  create the guest's memory
//!               <───────────────────────────────── Accept ──
//!  Attaching    ── Attach (channels 1..) ──────────────────>  all channels there?
//!               <────────────────────────── ChannelsReady ──
//!  Arming the tracker; Preflight: watch the guest, if wanted; Scanning: list populated pages
//!  Round r      ── pages, on all channels ─────────────────>  admitted only while r is open
//!               ── RoundEnd r, on each channel ────────────>  counts compared
//!               <───────────────────────────── RoundAck r ──  in memory; r + 1 is open
//!  Harvesting, judge: continue / stop / give up
//!  Pausing, FinalHarvest
//!  FinalRound   ── residual, RoundEnd last, State, Prepare >  import, digest
//!  Preparing    <──────────────────────────────── Ready ────
//!  Committing   ── Commit ─────────────────────────────────>  journal, resume   (no way back)
//!               <──────────────────────────── Committed ────
//! ```
//!
//! R3 (no overtaking) holds because a page of round r + 1 is neither sent before nor admitted
//! until every channel's end of round r was seen; both sides check it on their own.

mod config;
pub mod destination;
mod gate;
mod ledger;
mod meter;
mod shadow;
mod shadows;
pub mod source;

pub use config::{DestinationConfig, Shadow, SourceConfig};
pub use destination::{DestinationAction, DestinationInput, DestinationSession};
pub use gate::{ChannelGate, GateError};
pub(crate) use shadows::own_orders;
pub use source::{
    Batch, BatchCounts, SessionEvent, SourceAction, SourceInput, SourcePhase, SourceSession,
};
