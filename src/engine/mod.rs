// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine: sessions, memory, dirty tracking, encoders and transport in real time.
//!
//! A source calls [`send`]; a destination keeps a [`Receiver`] and calls
//! [`Receiver::receive`]. Both block until the outcome is decided and leave no thread behind but
//! the receiver's own.

mod cancel;
mod clock;
mod destination;
mod digest;
mod error;
mod event;
mod journal;
mod source;

pub use cancel::CancelToken;
pub use destination::{CreatedGuest, DestinationOptions, GuestFactory, ReceivedGuest, Receiver};
pub use error::MigrateError;
pub use event::{EngineEvent, EventSink, Progress, Received};
pub use journal::JournalError;
pub use source::{SourceOptions, SourceParts, send, settle};
