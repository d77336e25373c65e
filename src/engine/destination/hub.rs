// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds out what each connection wants: to open a migration, to join one, or to ask.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use nix::errno::Errno;

use super::ToDestination;
use crate::engine::journal::FateBook;
use crate::engine::source::Chain;
use crate::limits;
use crate::transport::{Connection, Listener};
use crate::units::{ChannelId, MigrationId};
use crate::wire::{
    Fate, FrameHeader, FrameKind, FrameOrder, HEADER_BYTES, Hello, Message, ReadFrameError,
    RefuseCode, WireError, decode_message, encode_message, read_frame,
};

/// How often the accepting thread looks whether it shall end, and closes who said nothing. Dropping
/// a receiver takes as long.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long it waits after a failure before it tries to accept again.
const ACCEPT_INTERVAL: Duration = Duration::from_millis(100);
/// Failures in a row after which a listener counts as dead.
const ACCEPT_FAILURES_MAX: u32 = 50;
/// Most connections that are being greeted, answered or refused. More than those that may be
/// silent, because whoever was told no lingers for a moment.
const GREETERS_MAX: usize = 2 * limits::PENDING_CONNECTIONS_MAX;
/// How long a source waits for `receive` to be called again.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for a refusal or an answer to be taken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time for a migration in progress to settle itself because somebody asks.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has said what it is.
pub(super) struct Incoming {
    pub(super) connection: Arc<dyn Connection>,
    pub(super) stream: Box<dyn Read + Send>,
    pub(super) order: FrameOrder,
}

/// Who is served.
enum Slot {
    /// Nobody, and nobody is waited for.
    Idle,
    Waiting(Sender<ToDestination>),
    Active(MigrationId, Sender<ToDestination>),
}

struct State {
    slot: Slot,
    /// Connections that have not said what they are, and since when.
    pending: HashMap<u64, (Instant, Arc<dyn Connection>)>,
    next: u64,
    /// Why nothing is accepted any more.
    dead: Option<String>,
}

/// Shared by the receiver, its accepting thread and the greeting threads.
pub(super) struct Hub {
    state: Mutex<State>,
    changed: Condvar,
    book: Mutex<FateBook>,
    stopped: AtomicBool,
}

impl Hub {
    pub(super) fn new(book: FateBook) -> Self {
        let state = State { slot: Slot::Idle, pending: HashMap::new(), next: 0, dead: None };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            book: Mutex::new(book),
            stopped: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn book(&self) -> MutexGuard<'_, FateBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next source goes to `inbox`.
    pub(super) fn wait_with(&self, inbox: Sender<ToDestination>) -> Result<(), String> {
        let mut state = self.state();
        if let Some(why) = &state.dead {
            return Err(why.clone());
        }
        state.slot = Slot::Waiting(inbox);
        self.changed.notify_all();
        Ok(())
    }

    /// Nobody is served any more.
    pub(super) fn vacate(&self) {
        self.state().slot = Slot::Idle;
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let state = self.state();
        state.pending.values().for_each(|(_, connection)| connection.shutdown());
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn listener_failed(&self, why: String) {
        let mut state = self.state();
        if let Slot::Waiting(inbox) = &state.slot {
            let _ = inbox.try_send(ToDestination::ListenerFailed(why.clone()));
        }
        state.dead = Some(why);
    }

    /// A connection could not be accepted: whoever is served may wait for it.
    fn not_accepted(&self, error: &io::Error) {
        if let Slot::Active(_, inbox) = &self.state().slot {
            let reason = format!("Could not accept a connection: {error}");
            let _ = inbox.try_send(ToDestination::NotAccepted(reason));
        }
    }

    /// Closes connections that have not said in time what they are.
    fn reap(&self) {
        for (since, connection) in self.state().pending.values() {
            if since.elapsed() > limits::FIRST_FRAME_TIMEOUT {
                connection.shutdown();
            }
        }
    }

    /// Keeps a connection until it has said what it is; `None` at the end. If there are too many,
    /// the one that has been silent for longest goes: a source says at once what it is, so who
    /// holds the port with idle connections does not keep it out.
    fn admit(&self, connection: &Arc<dyn Connection>) -> Option<u64> {
        let mut state = self.state();
        if self.is_stopped() {
            return None;
        }
        if state.pending.len() >= limits::PENDING_CONNECTIONS_MAX
            && let Some(oldest) = state.pending.keys().min().copied()
            && let Some((_, silent)) = state.pending.remove(&oldest)
        {
            tracing::warn!(peer = silent.peer(), "Too many connections that say nothing");
            silent.shutdown();
        }
        let key = state.next;
        state.next += 1;
        state.pending.insert(key, (Instant::now(), Arc::clone(connection)));
        Some(key)
    }

    fn hello(&self, incoming: Incoming, hello: Hello) {
        let (id, peer) = (hello.migration_id, incoming.connection.peer());
        let busy = |state: &mut State| matches!(state.slot, Slot::Idle) && !self.is_stopped();
        let state = self.state();
        let waited = self.changed.wait_timeout_while(state, SLOT_TIMEOUT, busy);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // Under the lock that makes it active: of two with one name, only one gets in.
        let (code, reason) = if self.book().knows(id) {
            (RefuseCode::Settled, "A migration of this name was settled earlier")
        } else if let Slot::Waiting(inbox) = &state.slot {
            let inbox = inbox.clone();
            state.slot = Slot::Active(id, inbox.clone());
            drop(state);
            // Whoever waited may have stopped waiting: then the connection closes.
            let _ = inbox.send(ToDestination::Hello(incoming, Box::new(hello)));
            return;
        } else {
            (RefuseCode::Busy, "This destination is busy; try again later")
        };
        drop(state);
        tracing::info!(%id, peer, reason, "Refused a source");
        let reason = reason.to_owned();
        reply(&*incoming.connection, &Message::Refuse { code, reason });
        incoming.connection.shutdown();
    }

    fn attach(&self, incoming: Incoming, id: MigrationId, channel: ChannelId) {
        let peer = incoming.connection.peer();
        let inbox = match &self.state().slot {
            Slot::Active(active, inbox) if *active == id => Some(inbox.clone()),
            _ => None,
        };
        match inbox {
            Some(inbox) => {
                let _ = inbox.send(ToDestination::Attach(incoming, channel));
            }
            None => {
                tracing::warn!(%id, %channel, peer, "Closed a channel of no migration");
                incoming.connection.shutdown();
            }
        }
    }

    /// What became of a migration; `None` if that cannot be said now.
    fn query(&self, id: MigrationId) -> Option<Fate> {
        let (sender, answer) = bounded(1);
        let asked = match &self.state().slot {
            // Under the lock: whoever vacates the slot finds every question that was asked.
            Slot::Active(active, inbox) if *active == id => {
                Some(inbox.try_send(ToDestination::Query(sender)))
            }
            _ => None,
        };
        match asked {
            Some(Ok(())) => match answer.recv_timeout(ANSWER_TIMEOUT) {
                Ok(fate) => return Some(fate),
                Err(RecvTimeoutError::Timeout) => return None,
                // It ended meanwhile, and has written down how.
                Err(RecvTimeoutError::Disconnected) => {}
            },
            Some(Err(error)) if error.is_full() => return None,
            Some(Err(_)) | None => {}
        }
        Some(self.book().answer(id))
    }
}

/// Starts the accepting thread.
pub(super) fn start(hub: &Arc<Hub>, mut listener: Box<dyn Listener>) -> io::Result<JoinHandle<()>> {
    let hub = Arc::clone(hub);
    thread::Builder::new().name("precopy-accept".to_owned()).spawn(move || {
        let mut greeters = Vec::new();
        accept(&hub, &mut *listener, &mut greeters);
        drop(listener);
        for greeter in greeters {
            if JoinHandle::join(greeter).is_err() {
                tracing::error!("A greeting thread panicked");
            }
        }
    })
}

fn accept(hub: &Arc<Hub>, listener: &mut dyn Listener, greeters: &mut Vec<JoinHandle<()>>) {
    let (mut failures, mut dead) = (0, false);
    while !hub.is_stopped() {
        let accepted = if dead {
            thread::sleep(ACCEPT_INTERVAL);
            Ok(None)
        } else {
            listener.accept(LOOK_INTERVAL)
        };
        match accepted {
            Ok(None) => {}
            Ok(Some(connection)) => {
                failures = 0;
                greeters.retain(|greeter| !greeter.is_finished());
                if greeters.len() < GREETERS_MAX {
                    greeters.extend(begin_greeting(hub, &Arc::from(connection)));
                } else {
                    tracing::warn!(peer = connection.peer(), "Too many connections at once");
                    connection.shutdown();
                }
            }
            Err(error) => {
                // Want of file descriptors or memory passes, when others give some back.
                failures += u32::from(!is_want(&error));
                tracing::warn!(%error, "Could not accept a connection");
                dead =
                    error.kind() == io::ErrorKind::NotConnected || failures >= ACCEPT_FAILURES_MAX;
                if dead {
                    hub.listener_failed(error.to_string());
                } else {
                    hub.not_accepted(&error);
                    thread::sleep(ACCEPT_INTERVAL);
                }
            }
        }
        hub.reap();
    }
}

/// Whether the system ran out of something: accept(2).
fn is_want(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

fn begin_greeting(hub: &Arc<Hub>, connection: &Arc<dyn Connection>) -> Option<JoinHandle<()>> {
    let peer = connection.peer();
    let Some(key) = hub.admit(connection) else {
        connection.shutdown();
        return None;
    };
    let (held, on) = (Arc::clone(hub), Arc::clone(connection));
    let builder = thread::Builder::new().name("precopy-greet".to_owned());
    let started = builder.spawn(move || {
        let first = first_frame(&*on);
        held.state().pending.remove(&key);
        greet(&held, on, first);
    });
    if let Err(error) = &started {
        tracing::warn!(peer, %error, "No thread for a connection: closed it");
        hub.state().pending.remove(&key);
        connection.shutdown();
    }
    started.ok()
}

fn greet(
    hub: &Hub,
    connection: Arc<dyn Connection>,
    first: Result<(Box<dyn Read + Send>, FrameOrder, Message), ReadFrameError>,
) {
    match first {
        Ok((stream, order, message)) => {
            let incoming = Incoming { connection, stream, order };
            match message {
                Message::Hello(hello) => hub.hello(incoming, hello),
                Message::Attach { migration_id, channel } => {
                    hub.attach(incoming, migration_id, channel);
                }
                Message::Query { migration_id } => {
                    if let Some(fate) = hub.query(migration_id) {
                        tracing::info!(id = %migration_id, ?fate, "Answered a query");
                        let answer = Message::Answer { migration_id, fate };
                        reply(&*incoming.connection, &answer);
                    }
                    incoming.connection.shutdown();
                }
                _ => incoming.connection.shutdown(),
            }
        }
        Err(error) => {
            let (peer, reason) = (connection.peer(), Chain(&error).to_string());
            tracing::info!(peer, reason, "Closed a connection that is no source");
            if let ReadFrameError::Wire(error) = error
                && let Some(code) = refusal(&error)
            {
                reply(&*connection, &Message::Refuse { code, reason });
            }
            connection.shutdown();
        }
    }
}

/// How to refuse a peer that does speak the protocol.
fn refusal(error: &WireError) -> Option<RefuseCode> {
    match error {
        WireError::Version { .. } => Some(RefuseCode::Version),
        WireError::Region(_) | WireError::Unit(_) => Some(RefuseCode::Regions),
        WireError::Magic { .. } | WireError::HeaderCrc { .. } => None,
        _ => Some(RefuseCode::Protocol),
    }
}

/// Reads the first frame of a connection. What cannot be one is not read any further than its
/// header.
fn first_frame(
    connection: &dyn Connection,
) -> Result<(Box<dyn Read + Send>, FrameOrder, Message), ReadFrameError> {
    let io = ReadFrameError::Io;
    connection.set_io_timeout(Some(limits::FIRST_FRAME_TIMEOUT)).map_err(io)?;
    let mut stream = connection.reader().map_err(io)?;
    let mut bytes = [0; HEADER_BYTES];
    stream.read_exact(&mut bytes).map_err(io)?;
    let header = FrameHeader::parse(&bytes)?;
    if !matches!(header.kind, FrameKind::Hello | FrameKind::Attach | FrameKind::Query) {
        return Err(WireError::Unexpected { found: header.kind }.into());
    }
    let (mut body, mut order) = (Vec::new(), FrameOrder::default());
    order.check(&header)?;
    let header = read_frame(&mut (&bytes[..]).chain(&mut *stream), &mut body)?;
    let message = decode_message(&header, &body)?;
    let channel = match &message {
        Message::Attach { channel, .. } => *channel,
        _ => ChannelId::CONTROL,
    };
    if header.channel != channel {
        let (found, expected) = (header.channel.get(), channel.get());
        return Err(WireError::Channel { found, expected }.into());
    }
    Ok((stream, order, message))
}

/// Says one thing on a connection that is closed afterwards.
fn reply(connection: &dyn Connection, message: &Message) {
    let said = || -> io::Result<()> {
        connection.set_io_timeout(Some(REPLY_TIMEOUT))?;
        let frame = encode_message(message, ChannelId::CONTROL, 0).map_err(io::Error::other)?;
        connection.writer()?.write_all(&frame)
    };
    if let Err(error) = said() {
        tracing::debug!(%error, peer = connection.peer(), "A reply was not taken");
    }
}
