// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The destination: from the VMM's options to a guest that was taken over.

use std::ffi::CString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, TryLockError};

use precopy::engine::{CreatedGuest, DestinationOptions, MigrateError, Receiver};
use precopy::guest::GuestError;
use precopy::limits::{CHANNELS_MAX, STATE_BYTES_MAX};
use precopy::transport::{TcpListener, TcpOptions, is_loopback};
use precopy::wire::Hello;

use crate::cancel::{Cancel, watched};
use crate::failure::{Failure, c_text};
use crate::guest::CallbackGuest;
use crate::memory::{InUse, MEMORIES};
use crate::observe::{Account, Observer};
use crate::registry::Registry;
use crate::source::millis;
use crate::sys::calls::DestinationCalls;
use crate::sys::types::{
    PRECOPY_LISTEN_FRESH_MEMORY, PRECOPY_LISTEN_JOURNAL_SYNC, PRECOPY_LISTEN_REMOTE_WITHOUT_TLS,
    precopy_receiver_options as RawOptions, precopy_runs_here as RunsHere,
    precopy_status as Status,
};

/// All receivers.
pub(crate) static RECEIVERS: Registry<Listening> = Registry::new();

/// A destination that listens.
#[derive(Debug)]
pub(crate) struct Listening {
    receiver: Mutex<Receiver>,
    pub(crate) address: CString,
    fresh_memory: bool,
}

/// What `precopy_receiver_run` was handed, without pointers.
pub(crate) struct Run {
    pub(crate) calls: DestinationCalls,
    pub(crate) cancel: Option<Arc<Cancel>>,
    pub(crate) observer: Observer,
}

/// At a destination the guest may not run unless it was taken over.
pub(crate) fn not_here(failure: Failure) -> Failure {
    failure.at(RunsHere::PRECOPY_RUNS_HERE_NO)
}

impl Listening {
    /// Starts to listen.
    pub(crate) fn new(
        numbers: &RawOptions,
        listen: &str,
        journal: Option<String>,
    ) -> Result<Self, Failure> {
        let known = PRECOPY_LISTEN_REMOTE_WITHOUT_TLS
            | PRECOPY_LISTEN_JOURNAL_SYNC
            | PRECOPY_LISTEN_FRESH_MEMORY;
        if numbers.flags & !known != 0 {
            return Err(Failure::argument(format!("Unknown flags {:#x}", numbers.flags & !known)));
        }
        let has = |flag| numbers.flags & flag != 0;
        let address = address(listen, has(PRECOPY_LISTEN_REMOTE_WITHOUT_TLS))?;
        let listener = TcpListener::bind(address, TcpOptions::default())
            .map_err(|error| Failure::system(&format!("listen on {address}"), &error))?;
        let mut options = DestinationOptions::default();
        options.journal = journal.map(PathBuf::from);
        options.journal_sync = has(PRECOPY_LISTEN_JOURNAL_SYNC);
        let session = &mut options.session;
        match u8::try_from(numbers.channels_max) {
            Ok(0) => {}
            Ok(most) if most <= CHANNELS_MAX => session.channels_max = most,
            _ => return Err(Failure::argument(format!("channels_max: 1 to {CHANNELS_MAX}"))),
        }
        if numbers.memory_bytes_max != 0 {
            session.memory_bytes_max = numbers.memory_bytes_max;
        }
        if numbers.state_bytes_max != 0 {
            session.state_bytes_max = numbers.state_bytes_max.min(STATE_BYTES_MAX);
        }
        session.stall_timeout = millis(numbers.stall_timeout_ms).unwrap_or(session.stall_timeout);
        session.commit_timeout =
            millis(numbers.commit_timeout_ms).unwrap_or(session.commit_timeout);
        let receiver = Receiver::bind(Box::new(listener), options)?;
        Ok(Self {
            address: c_text(receiver.local()),
            receiver: Mutex::new(receiver),
            fresh_memory: has(PRECOPY_LISTEN_FRESH_MEMORY),
        })
    }

    /// Waits for a source and takes its guest over. A report comes if a source came.
    pub(crate) fn run(&self, mut run: Run) -> (Option<Account>, Result<(), Failure>) {
        let mut receiver = match self.receiver.try_lock() {
            Ok(receiver) => receiver,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let why = "Another thread runs this receiver";
                return (None, Err(Failure::new(Status::PRECOPY_ERROR_BUSY, why)));
            }
        };
        let mut in_use = None;
        let cancel = run.cancel.clone();
        let received = watched(cancel.as_deref(), |token| {
            let mut create = |hello: &Hello| self.create(&run.calls, hello, &mut in_use);
            receiver.receive(&mut create, token, &mut run.observer)
        });
        match received {
            Ok(Ok(received)) => (Some(Account::destination(received.report)), Ok(())),
            Ok(Err(MigrateError::NotTakenOver { report })) => {
                let cancelled = cancel.is_some_and(|cancel| cancel.is_cancelled());
                let account = Account::destination((*report).clone());
                let mut failure = Failure::from(MigrateError::NotTakenOver { report });
                if cancelled {
                    failure.status = Status::PRECOPY_ERROR_CANCELLED;
                }
                (Some(account), Err(failure.at(RunsHere::PRECOPY_RUNS_HERE_NO)))
            }
            Ok(Err(error)) => (None, Err(error.into())),
            Err(failure) => (None, Err(failure)),
        }
    }

    fn create(
        &self,
        calls: &DestinationCalls,
        hello: &Hello,
        in_use: &mut Option<InUse>,
    ) -> Result<CreatedGuest, GuestError> {
        let refuse = |why: String| GuestError::because("be created", why);
        let (handle, guest) = calls.create(hello).map_err(refuse)?;
        let memory = MEMORIES.get(handle).ok_or_else(|| {
            refuse("`create` gave a memory handle that is none, or was freed before".to_owned())
        })?;
        if memory.table != hello.regions {
            let (ours, theirs) = (memory.table.regions().len(), hello.regions.regions().len());
            return Err(refuse(format!(
                "`create` gave memory with another map than the source's: {ours} regions, {} \
                 bytes here, {theirs} regions, {} bytes there",
                memory.table.bytes(),
                hello.regions.bytes()
            )));
        }
        if !memory.writable {
            return Err(refuse("`create` gave memory that cannot be written".to_owned()));
        }
        *in_use = Some(
            Arc::clone(&memory)
                .take()
                .map_err(|failure| refuse(failure.message.to_string_lossy().into_owned()))?,
        );
        if !self.fresh_memory {
            memory.clear().map_err(|error| GuestError::because("clear its memory", error))?;
        }
        Ok(CreatedGuest {
            memory: Arc::new(memory.mapped.clone()),
            guest: Box::new(CallbackGuest::new(guest, false)),
        })
    }
}

fn address(listen: &str, remote: bool) -> Result<SocketAddr, Failure> {
    let found = listen.to_socket_addrs();
    let mut found = found.map_err(|error| {
        Failure::argument(format!("listen {listen:?}: {error}; give an address and a port"))
    })?;
    let none = || Failure::argument(format!("listen {listen:?}: the name has no address"));
    let address = found.next().ok_or_else(none)?;
    if !remote && !is_loopback(address.ip()) {
        return Err(Failure::argument(format!(
            "{address} can be reached from other hosts, and nothing is encrypted: a guest's memory \
             could be read on its way, and anybody could start a guest here. Listen on 127.0.0.1, \
             or set PRECOPY_LISTEN_REMOTE_WITHOUT_TLS"
        )));
    }
    Ok(address)
}
