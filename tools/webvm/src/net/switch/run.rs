// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The switch's event loop. Sockets report edges, so what could not be read for want of room
//! stays in a set of sockets that may have something, and every turn looks at that set again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::client::{Client, Intake};
use super::peer::Peer;
use super::{Board, Order, SwitchError, SwitchOptions, SwitchStatus};
use crate::net::frame::{FRAME_BYTES_MAX, Frame};
use crate::net::inprocess::Pipe;
use crate::net::link::{GuestLink, cost};
use crate::net::port::PortError;

const WAKER: Token = Token(0);
const CLIENTS: Token = Token(1);
const UPLINKS: Token = Token(2);
const FIRST_PEER: usize = 3;
/// Where the tokens of clients begin; their connection numbers follow.
const FIRST_CLIENT: usize = 1 << 32;

/// Frames taken, given or read in one turn, so that each turn ends.
pub(super) const TURN_FRAMES_MAX: usize = 512;
/// Accepts in one turn.
const ACCEPTS_MAX: usize = 256;
/// How often the clock is looked at when nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// An uplink that has not attached after so long is closed.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);

/// Where the guest is.
#[derive(Clone, Debug)]
pub(super) enum Port {
    None,
    Inside(Arc<Pipe>),
    Peer(usize),
}

/// The state of the event loop.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) options: SwitchOptions,
    pub(super) poll: Poll,
    waker: Arc<Waker>,
    orders: Receiver<Order>,
    board: Arc<Board>,
    pub(super) status: SwitchStatus,
    listener: TcpListener,
    pub(super) uplinks: Option<TcpListener>,
    addresses: (SocketAddr, Option<SocketAddr>),
    /// Listeners at which somebody may wait: of clients, of uplinks.
    pub(super) waiting: (bool, bool),
    pub(super) clients: HashMap<u32, Client>,
    /// Clients whose socket may have bytes.
    readable: BTreeSet<u32>,
    /// The client that was read last, so that all get their turn.
    last_read: u32,
    last_conn: u32,
    pub(super) answer_bytes: usize,
    pub(super) link: GuestLink,
    pub(super) port: Port,
    pub(super) told_seen: u64,
    pub(super) peers: BTreeMap<usize, Peer>,
    pub(super) next_peer: usize,
    scratch: Vec<u8>,
    pub(super) now: Instant,
    ticked: Instant,
    stop: bool,
}

impl Run {
    pub(super) fn new(
        options: SwitchOptions,
        board: Arc<Board>,
        orders: Receiver<Order>,
    ) -> Result<Self, SwitchError> {
        let start = |doing| move |source| SwitchError::Start { doing, source };
        let poll = Poll::new().map_err(start("opening its event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(start("making its waker"))?;
        let (listener, clients) = listen(&poll, options.clients, CLIENTS, "clients")?;
        let (uplinks, uplink) = match options.uplinks {
            Some(address) => {
                let (listener, address) = listen(&poll, address, UPLINKS, "hosts")?;
                (Some(listener), Some(address))
            }
            None => (None, None),
        };
        let now = Instant::now();
        Ok(Self {
            options,
            poll,
            waker: Arc::new(waker),
            orders,
            board,
            status: SwitchStatus::default(),
            listener,
            uplinks,
            addresses: (clients, uplink),
            waiting: (false, false),
            clients: HashMap::new(),
            readable: BTreeSet::new(),
            last_read: 0,
            last_conn: 0,
            answer_bytes: 0,
            link: GuestLink::default(),
            port: Port::None,
            told_seen: 0,
            peers: BTreeMap::new(),
            next_peer: FIRST_PEER,
            scratch: vec![0; FRAME_BYTES_MAX],
            now,
            ticked: now,
            stop: false,
        })
    }

    pub(super) fn client_address(&self) -> SocketAddr {
        self.addresses.0
    }

    pub(super) fn uplink_address(&self) -> Option<SocketAddr> {
        self.addresses.1
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Runs until it is told to stop, or until the system fails it.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        let mut more = false;
        while !self.stop {
            let time = if more { Duration::ZERO } else { TICK };
            if let Err(error) = self.poll.poll(&mut events, Some(time))
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, "The switch's event queue failed");
                self.status.failed = Some(format!("The event queue failed: {error}"));
                break;
            }
            self.now = Instant::now();
            for event in &events {
                self.note(event.token(), event.is_readable(), event.is_writable());
            }
            self.obey();
            more = self.turn();
            self.tick();
            self.publish();
        }
        if let Port::Inside(pipe) = &self.port {
            pipe.close(PortError::SwitchEnded);
        }
        self.publish();
    }

    fn publish(&mut self) {
        let status = &mut self.status;
        status.connections = self.clients.len();
        status.frames_from_guest = self.link.seen();
        status.kept_frames = self.link.kept();
        status.generation = self.link.generation();
        status.attached = !matches!(self.port, Port::None);
        let mut board = self.board.status();
        if board.attachments.len() == status.attachments.len() {
            // The list is long and seldom changes.
            let attachments = std::mem::take(&mut board.attachments);
            let ours = std::mem::take(&mut status.attachments);
            board.clone_from(status);
            board.attachments = attachments;
            status.attachments = ours;
        } else {
            board.clone_from(status);
        }
    }

    fn note(&mut self, token: Token, readable: bool, writable: bool) {
        match token {
            WAKER => {}
            CLIENTS => self.waiting.0 = true,
            UPLINKS => self.waiting.1 = true,
            Token(number) if number >= FIRST_CLIENT => {
                let Ok(conn) = u32::try_from(number - FIRST_CLIENT) else { return };
                if readable {
                    self.readable.insert(conn);
                }
                if writable {
                    self.flush(conn);
                }
            }
            Token(number) => {
                if let Some(peer) = self.peers.get_mut(&number) {
                    peer.readable |= readable;
                    let flushed = peer.flush();
                    self.judge(number, flushed);
                }
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => self.stop = true,
                Order::Attach { attach, pipe, answer } => {
                    let accepted = self.attach(attach, Port::Inside(Arc::clone(&pipe)));
                    if accepted.is_ok() {
                        pipe.acknowledge(self.link.seen());
                    }
                    // Who has the answer may look at the status.
                    self.publish();
                    // An asker that has given up has dropped its end, and the port with it.
                    answer.send(accepted.map_err(PortError::from)).ok();
                }
            }
        }
    }

    /// Moves what can be moved. Returns whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut more = self.accept_clients();
        self.accept_peers();
        self.hear_strangers();
        more |= self.hear_guest();
        more |= self.read_clients();
        more |= self.give_guest();
        more | (self.waiting.0 && self.clients.len() < self.options.connections_max)
    }

    fn accept_clients(&mut self) -> bool {
        for _ in 0..ACCEPTS_MAX {
            if !self.waiting.0 || self.clients.len() >= self.options.connections_max {
                return false;
            }
            let Some(stream) = accept(&self.listener, &mut self.waiting.0) else { continue };
            self.open(stream);
        }
        true
    }

    fn open(&mut self, mut stream: TcpStream) {
        let Some(conn) = self.last_conn.checked_add(1) else {
            tracing::error!("The switch has used up its connection numbers");
            return;
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(FIRST_CLIENT + conn as usize);
        let prepared = stream
            .set_nodelay(true)
            .and_then(|()| self.poll.registry().register(&mut stream, token, interest));
        if let Err(error) = prepared {
            tracing::warn!(%error, "A client's connection could not be set up");
            return;
        }
        self.last_conn = conn;
        self.status.accepted += 1;
        self.clients.insert(conn, Client::new(stream, self.now));
        self.readable.insert(conn);
        self.link.push(Frame::open(conn));
    }

    pub(super) fn flush(&mut self, conn: u32) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let before = client.answer_bytes();
        client.flush(self.now);
        self.answer_bytes -= before - client.answer_bytes();
        if client.is_cut() && !client.client_closed {
            // The guest must learn of it; reading finds the end at once.
            self.readable.insert(conn);
        }
        if client.is_over() {
            self.forget(conn);
        }
    }

    fn forget(&mut self, conn: u32) {
        self.clients.remove(&conn);
        self.readable.remove(&conn);
    }

    /// Reads each client that has something and may be read, once, beginning after the one that
    /// was last when a turn ended early.
    fn read_clients(&mut self) -> bool {
        let after = (Bound::Excluded(self.last_read), Bound::Unbounded);
        let (later, sooner) = (self.readable.range(after), self.readable.range(..=self.last_read));
        let conns: Vec<u32> = later.chain(sooner).copied().collect();
        let mut read = 0;
        for conn in conns {
            if self.link.kept_bytes() >= self.options.kept_bytes_max {
                return false;
            }
            if read == TURN_FRAMES_MAX {
                return true;
            }
            if self.may_read(conn) {
                self.last_read = conn;
                self.read(conn);
                read += 1;
            }
        }
        read > 0
    }

    fn may_read(&self, conn: u32) -> bool {
        self.clients.get(&conn).is_none_or(|client| {
            client.is_cut()
                || (client.kept_bytes < self.options.kept_bytes_client_max
                    && client.answer_bytes() < self.options.answer_bytes_client_max)
        })
    }

    fn read(&mut self, conn: u32) {
        let Some(client) = self.clients.get_mut(&conn) else {
            self.readable.remove(&conn);
            return;
        };
        let before = client.answer_bytes();
        let intake = client.read(&mut self.scratch);
        self.answer_bytes -= before - client.answer_bytes();
        match intake {
            Intake::Later => {
                self.readable.remove(&conn);
            }
            // The guest has closed, so nobody would read it.
            Intake::Bytes(_) if client.guest_closed() => {}
            Intake::Bytes(bytes) => {
                self.status.bytes_to_guest += bytes.len() as u64;
                let frame = Frame::data(conn, bytes);
                client.kept_bytes += cost(&frame);
                self.link.push(frame);
            }
            Intake::End => {
                self.readable.remove(&conn);
                if !std::mem::replace(&mut client.client_closed, true) {
                    self.link.push(Frame::close(conn));
                    let broke = client.is_cut() && !client.guest_closed();
                    self.status.resets += u64::from(broke);
                }
                if client.is_over() {
                    self.forget(conn);
                }
            }
        }
    }

    /// What only time brings about.
    fn tick(&mut self) {
        if self.now < self.ticked + TICK {
            return;
        }
        self.ticked = self.now;
        // Accepting may have failed for want of something that is there again.
        self.waiting = (true, true);
        let limit = self.options.client_stall;
        let stalled: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| client.stalled_since().is_some_and(|t| t + limit <= self.now))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in stalled {
            let Some(client) = self.clients.get_mut(&conn) else { continue };
            tracing::debug!(conn, "A client is cut off: it took nothing for too long");
            self.answer_bytes -= client.answer_bytes();
            client.cut();
            self.status.stalled += 1;
            self.readable.insert(conn);
        }
        let current = match self.port {
            Port::Peer(number) => Some(number),
            _ => None,
        };
        let now = self.now;
        self.peers
            .retain(|number, peer| Some(*number) == current || peer.since + ATTACH_LIMIT > now);
    }
}

fn listen(
    poll: &Poll,
    address: SocketAddr,
    token: Token,
    purpose: &'static str,
) -> Result<(TcpListener, SocketAddr), SwitchError> {
    let failed = |source| SwitchError::Listen { address, purpose, source };
    let mut listener = TcpListener::bind(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    poll.registry().register(&mut listener, token, Interest::READABLE).map_err(failed)?;
    Ok((listener, bound))
}

/// Accepts once; `waiting` becomes false when nobody waits.
pub(super) fn accept(listener: &TcpListener, waiting: &mut bool) -> Option<TcpStream> {
    match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            let kind = error.kind();
            if kind != ErrorKind::Interrupted && kind != ErrorKind::ConnectionAborted {
                *waiting = false;
            }
            if kind != ErrorKind::WouldBlock {
                tracing::warn!(%error, "A connection could not be accepted");
            }
            None
        }
    }
}
