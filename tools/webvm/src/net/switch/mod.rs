// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The switch: one thread that holds the clients' connections and gives their traffic to the
//! guest, wherever that runs.

mod client;
mod guest;
mod peer;
mod run;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::Waker;

use super::files::{FileLimitError, reserve_files};
use super::inprocess::{InProcessPort, Pipe};
use super::port::{Attach, PortError};

/// The most that [`SwitchOptions::window_bytes`] may be.
pub(super) const WINDOW_BYTES_MAX: usize = 4 << 20;
/// Attachments of which the status tells; more are counted but not listed.
const ATTACHMENTS_MAX: usize = 4096;
/// Longest wait for the switch's thread to take an order.
const ORDER_LIMIT: Duration = Duration::from_secs(30);

/// How a switch is set up: addresses and bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SwitchOptions {
    /// Where clients connect; port 0 takes any.
    pub clients: SocketAddr,
    /// Where hosts attach the guest, if they do so over TCP.
    pub uplinks: Option<SocketAddr>,
    /// Most connections at once; more clients wait to be accepted.
    pub connections_max: usize,
    /// Bytes for the guest that may wait for its acknowledgement; while there are more, no
    /// client is read.
    pub kept_bytes_max: usize,
    /// The same for one connection; while there are more, this client is not read.
    pub kept_bytes_client_max: usize,
    /// Bytes that may wait for one client; while there are more, it is not read, so that it
    /// cannot ask for more.
    pub answer_bytes_client_max: usize,
    /// Bytes that may wait for all clients; while there are more, nothing is taken from the
    /// guest.
    pub answer_bytes_max: usize,
    /// Bytes that may be on their way to the guest beyond what it has acknowledged, at most
    /// 4 MiB.
    pub window_bytes: usize,
    /// A client that takes nothing for so long, although something waits for it, is cut off.
    pub client_stall: Duration,
}

impl Default for SwitchOptions {
    fn default() -> Self {
        Self {
            clients: SocketAddr::from(([127, 0, 0, 1], 0)),
            uplinks: None,
            connections_max: 4096,
            kept_bytes_max: 64 << 20,
            kept_bytes_client_max: 256 << 10,
            answer_bytes_client_max: 256 << 10,
            answer_bytes_max: 128 << 20,
            window_bytes: 1 << 20,
            client_stall: Duration::from_secs(30),
        }
    }
}

/// Why there is no switch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// An address cannot be listened at.
    #[error("The switch cannot listen at {address} ({purpose}); is the address taken?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Who would connect there.
        purpose: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The event loop cannot be set up.
    #[error("The switch cannot be started ({doing})")]
    Start {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Too few file descriptors.
    #[error("The switch cannot hold {connections} connections")]
    Files {
        /// As configured.
        connections: usize,
        /// Why.
        #[source]
        source: FileLimitError,
    },
    /// An option out of range.
    #[error("Switch option {field} is {value}; it must be {min} to {max}")]
    Option {
        /// Which.
        field: &'static str,
        /// As given.
        value: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
}

/// One attachment of the guest to the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attachment {
    /// Its number, from 1.
    pub generation: u64,
    /// When the switch accepted it.
    pub at: Instant,
    /// Frames that waited for the guest then, or were on their way to the host before.
    pub waiting_frames: usize,
}

/// What the switch has done. Counts are since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SwitchStatus {
    /// Connections that are held.
    pub connections: usize,
    /// Clients accepted.
    pub accepted: u64,
    /// Clients whose connection broke while the guest had not closed it.
    pub resets: u64,
    /// Clients that were cut off because they took nothing for too long.
    pub stalled: u64,
    /// Bytes of clients given to the guest, repeats not counted.
    pub bytes_to_guest: u64,
    /// Bytes of the guest's taken for clients.
    pub bytes_from_guest: u64,
    /// Number of the last frame of the guest's.
    pub frames_from_guest: u64,
    /// Frames of the guest's that had been seen before, and were dropped.
    pub duplicates: u64,
    /// Frames of the guest's for connections that are over.
    pub late_frames: u64,
    /// Frames that wait for the guest's acknowledgement.
    pub kept_frames: usize,
    /// The current attachment; 0 before the first.
    pub generation: u64,
    /// Whether the current port is connected.
    pub attached: bool,
    /// Attachments that were refused, and ports that broke the numbering.
    pub refused: u64,
    /// All attachments, oldest first, up to 4096.
    pub attachments: Vec<Attachment>,
    /// Why the switch has ended, if that was not asked of it.
    pub failed: Option<String>,
}

enum Order {
    Attach { attach: Attach, pipe: Arc<Pipe>, answer: Sender<Result<u64, PortError>> },
    Stop,
}

/// What handle and thread share.
#[derive(Debug, Default)]
struct Board(Mutex<SwitchStatus>);

impl Board {
    fn status(&self) -> MutexGuard<'_, SwitchStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running switch; it ends when this is dropped.
#[derive(Debug)]
pub struct Switch {
    clients: SocketAddr,
    uplinks: Option<SocketAddr>,
    board: Arc<Board>,
    orders: Sender<Order>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch. Its sockets belong to the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`SwitchError`] if an option is out of range or the system refuses something.
    pub fn start(options: SwitchOptions) -> Result<Self, SwitchError> {
        check(&options)?;
        let connections = options.connections_max;
        reserve_files(connections).map_err(|source| SwitchError::Files { connections, source })?;
        let (orders, receiver): (_, Receiver<Order>) = bounded(16);
        let board = Arc::new(Board::default());
        let mut run = run::Run::new(options, Arc::clone(&board), receiver)?;
        let (clients, uplinks, waker) = (run.client_address(), run.uplink_address(), run.waker());
        let thread = std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || run.run())
            .map_err(|source| SwitchError::Start { doing: "starting its thread", source })?;
        Ok(Self { clients, uplinks, board, orders, waker, thread: Some(thread) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.clients
    }

    /// Where hosts attach the guest over TCP.
    #[must_use]
    pub fn uplink_address(&self) -> Option<SocketAddr> {
        self.uplinks
    }

    /// What it has done until now.
    #[must_use]
    pub fn status(&self) -> SwitchStatus {
        self.board.status().clone()
    }

    /// Attaches a guest of this process, in place of whatever was attached.
    ///
    /// # Errors
    /// [`PortError`] if the guest's memory does not fit what the switch has seen, or if the
    /// switch has ended.
    pub fn attach(&self, attach: Attach) -> Result<InProcessPort, PortError> {
        let (answer, answered) = bounded(1);
        let waker = Arc::clone(&self.waker);
        let pipe = Pipe::new(move || wake(&waker));
        let order = Order::Attach { attach, pipe: Arc::clone(&pipe), answer };
        if self.orders.send_timeout(order, ORDER_LIMIT).is_err() {
            return Err(self.ended());
        }
        wake(&self.waker);
        match answered.recv_timeout(ORDER_LIMIT) {
            Ok(accepted) => accepted.map(|_| InProcessPort::new(pipe)),
            Err(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> PortError {
        match &self.thread {
            Some(thread) if !thread.is_finished() => PortError::NoAnswer { limit: ORDER_LIMIT },
            _ => PortError::SwitchEnded,
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // If the order does not get through, the thread is gone or going.
        let told = self.orders.send_timeout(Order::Stop, ORDER_LIMIT).is_ok();
        wake(&self.waker);
        if let Some(thread) = self.thread.take()
            && told
            && thread.join().is_err()
        {
            tracing::error!("The switch's thread panicked");
        }
    }
}

fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        tracing::warn!(%error, "The switch could not be woken; it looks by itself within a second");
    }
}

fn check(options: &SwitchOptions) -> Result<(), SwitchError> {
    let o = options;
    for (field, value, min, max) in [
        ("connections_max", o.connections_max, 1, 60_000),
        ("kept_bytes_max", o.kept_bytes_max, 64 << 10, 1 << 32),
        ("kept_bytes_client_max", o.kept_bytes_client_max, 1, 1 << 32),
        ("answer_bytes_client_max", o.answer_bytes_client_max, 1, 1 << 32),
        ("answer_bytes_max", o.answer_bytes_max, 1, 1 << 32),
        ("window_bytes", o.window_bytes, 1, WINDOW_BYTES_MAX),
    ] {
        if !(min..=max).contains(&value) {
            return Err(SwitchError::Option { field, value, min, max });
        }
    }
    Ok(())
}
