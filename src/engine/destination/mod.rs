// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination in real time.
//!
//! Threads of a [`Receiver`], from [`Receiver::bind`] to its drop:
//! - `precopy-accept` accepts connections;
//! - `precopy-greet` (one for each connection that has not yet said what it is, bounded in number
//!   and time) reads the first frame, and answers queries about past migrations.
//!
//! Threads of one [`Receiver::receive`], all of which end before it returns:
//! - the caller's own runs the session and the guest's controls, and writes on channel 0;
//! - `precopy-recv-N` reads channel N, checks and decodes pages and writes them to memory;
//! - `precopy-prefault` makes announced pages resident ahead of their arrival;
//! - `precopy-digest` hashes memory in verify mode, with helpers.

mod hub;
mod intake;
mod prefault;
mod received;
mod run;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use super::journal::FateBook;
use super::{CancelToken, EventSink, MigrateError};
use crate::guest::{GuestControl, GuestError};
use crate::memory::GuestMemory;
use crate::report::DestinationReport;
use crate::session::{DestinationConfig, DestinationInput};
use crate::transport::Listener;
use crate::units::ChannelId;
use crate::wire::{Fate, Hello};
use hub::{Hub, Incoming};

/// How to receive.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DestinationOptions {
    /// Limits and timeouts of the session.
    pub session: DestinationConfig,
    /// Where outcomes are written down, so that a destination that is started again can say what
    /// became of a Commit in doubt. Without one, it answers "unknown" after a restart.
    pub journal: Option<PathBuf>,
    /// Wait until the disk has each record. Without it outcomes outlive this process, but perhaps
    /// not a loss of power; with it the downtime grows by what the disk takes.
    pub journal_sync: bool,
}

/// A guest that was just created, with its memory, all zeros, not running.
#[expect(clippy::exhaustive_structs, reason = "a plain pair that factories build")]
pub struct CreatedGuest {
    /// Its memory; must read as zeros.
    pub memory: Arc<dyn GuestMemory>,
    /// Its controls.
    pub guest: Box<dyn GuestControl>,
}

impl std::fmt::Debug for CreatedGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedGuest").finish_non_exhaustive()
    }
}

/// Creates guests for sources that come.
pub trait GuestFactory {
    /// Creates the guest that a source describes ([`Hello::regions`], [`Hello::guest`]).
    ///
    /// # Errors
    /// [`GuestError`] if this host cannot or will not run it; the source is told why.
    fn create(&mut self, hello: &Hello) -> Result<CreatedGuest, GuestError>;
}

impl<F: FnMut(&Hello) -> Result<CreatedGuest, GuestError>> GuestFactory for F {
    fn create(&mut self, hello: &Hello) -> Result<CreatedGuest, GuestError> {
        self(hello)
    }
}

/// A guest that was taken over. It runs here, unless it was paused at the source.
#[non_exhaustive]
pub struct ReceivedGuest {
    /// Its controls.
    pub guest: Box<dyn GuestControl>,
    /// Its memory.
    pub memory: Arc<dyn GuestMemory>,
    /// What happened.
    pub report: DestinationReport,
}

impl std::fmt::Debug for ReceivedGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedGuest").field("report", &self.report).finish_non_exhaustive()
    }
}

/// Listens for sources. As long as it lives, it also answers what became of past migrations:
/// keep it for a while after a takeover, in case the source missed the answer to its Commit.
pub struct Receiver {
    hub: Arc<Hub>,
    local: String,
    acceptor: Option<JoinHandle<()>>,
    options: DestinationOptions,
}

impl Receiver {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`MigrateError::Journal`], or [`MigrateError::Listener`] if there is no thread for it.
    pub fn bind(
        listener: Box<dyn Listener>,
        options: DestinationOptions,
    ) -> Result<Self, MigrateError> {
        let book = match &options.journal {
            Some(path) => FateBook::with_journal(path, options.journal_sync)?,
            None => FateBook::default(),
        };
        let local = listener.local();
        let hub = Arc::new(Hub::new(book));
        let acceptor = hub::start(&hub, listener).map_err(|error| MigrateError::Listener {
            local: local.clone(),
            why: format!("Could not start the accepting thread: {error}"),
        })?;
        Ok(Self { hub, local, acceptor: Some(acceptor), options })
    }

    /// Where it listens.
    #[must_use]
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Waits for a source and takes its guest over. After an error, and after a takeover, it may
    /// be called again for the next one. Sources that come while one is being served are told
    /// that this destination is busy.
    ///
    /// # Errors
    /// [`MigrateError::NotTakenOver`] if a source came and its guest is not to run here, with the
    /// reason; [`MigrateError::Cancelled`] or [`MigrateError::Listener`] if none came.
    pub fn receive(
        &mut self,
        factory: &mut dyn GuestFactory,
        cancel: &CancelToken,
        sink: &mut dyn EventSink,
    ) -> Result<ReceivedGuest, MigrateError> {
        run::receive(&self.hub, &self.local, &self.options.session, factory, cancel, sink)
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.hub.stop();
        if let Some(acceptor) = self.acceptor.take()
            && acceptor.join().is_err()
        {
            tracing::error!("The accepting thread panicked");
        }
    }
}

/// What happened, told to the main thread.
enum ToDestination {
    Hello(Incoming, Box<Hello>),
    Attach(Incoming, ChannelId),
    Query(Sender<Fate>),
    Session(DestinationInput),
    /// A connection is at its end; nothing more comes on it.
    Closed(ChannelId),
    ListenerFailed(String),
    /// A connection that somebody opened could not be accepted. It may be a channel.
    NotAccepted(String),
    /// Somebody cancelled: look at the token.
    Wake,
}

/// Shared by the threads of one attempt.
struct Shared {
    /// The only round whose pages may come in; [`NO_ROUND`] if none may.
    open_round: std::sync::atomic::AtomicU64,
    quit: AtomicBool,
    pages: std::sync::atomic::AtomicU64,
    /// Pages among them that were not zero.
    contents: std::sync::atomic::AtomicU64,
    wire_bytes: std::sync::atomic::AtomicU64,
}

/// No page may come in.
const NO_ROUND: u64 = u64::MAX;

impl Shared {
    fn new() -> Self {
        Self {
            open_round: NO_ROUND.into(),
            quit: AtomicBool::new(false),
            pages: 0.into(),
            contents: 0.into(),
            wire_bytes: 0.into(),
        }
    }

    fn quits(&self) -> bool {
        self.quit.load(Ordering::Relaxed)
    }
}
