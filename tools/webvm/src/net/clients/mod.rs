// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The users of the site over real TCP: one connection a user, one thread for all of them. What
//! they do and what they measure is [`Users`]' affair.

mod run;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use mio::{Poll, Token, Waker};
use precopy::engine::CancelToken;
use precopy::units::Tick;

use super::exchange::Scratch;
use super::files::{FileLimitError, reserve_files};
use super::timer::Timer;
use crate::site::SessionKnown;
use crate::sla::Sample;
use crate::users::{Acknowledged, Counters, Users};
use run::{Line, Run};

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);
/// Who asks what the users know waits so long for them.
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// How the users connect.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientsOptions {
    /// The switch's address for clients.
    pub address: SocketAddr,
    /// Whether a user keeps its connection; otherwise every request has its own.
    pub keep_alive: bool,
    /// Once asked to stop, answers that are out are waited for so long.
    pub last_wait: Duration,
}

impl ClientsOptions {
    /// With kept connections, and 5 s for the last answers.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, keep_alive: true, last_wait: Duration::from_secs(5) }
    }
}

/// Why there are no clients.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientsError {
    /// The event loop cannot be set up.
    #[error("The clients cannot be started ({doing})")]
    Start {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Too few file descriptors.
    #[error("{users} users cannot have a connection each")]
    Files {
        /// As configured.
        users: usize,
        /// Why.
        #[source]
        source: FileLimitError,
    },
    /// The thread panicked; what it measured until shortly before can still be had from
    /// [`LiveClients::samples_from`].
    #[error("The clients' thread panicked; this is a bug")]
    Panicked,
}

/// How the users are doing.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct ClientsProgress {
    /// What they have seen.
    pub counters: Counters,
    /// Users that wait for an answer.
    pub in_flight: usize,
    /// Connections that they hold.
    pub connections: usize,
    /// Connections begun since the start.
    pub connects: u64,
    /// Requests sent again because the site had closed an idle connection at the same moment.
    pub retries: u64,
    /// Connections that broke, or on which came what is no answer.
    pub broken: u64,
    /// The first such trouble, in words.
    pub first_trouble: Option<String>,
    /// Whether the run is over.
    pub over: bool,
}

/// What was measured.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClientsLog {
    /// The users as they ended: their counters, promises, doubts and violations.
    pub users: Users,
    /// Every action that ended, in the order of their ends.
    pub samples: Vec<Sample>,
    /// Users whose request had no answer when the run was stopped: neither sample nor failure.
    pub unfinished: Vec<u32>,
    /// Whether somebody stopped the run before its time.
    pub stopped: bool,
    /// When it ended.
    pub end: Tick,
    /// The connections.
    pub progress: ClientsProgress,
    /// Why it ended early, if the system failed it.
    pub failed: Option<String>,
}

/// What the users know of the site at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ClientsJournal {
    /// Writes that the site acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Where each user's session is.
    pub sessions: Vec<SessionKnown>,
}

#[derive(Debug, Default)]
struct Board {
    samples: Vec<Sample>,
    progress: ClientsProgress,
}

type SharedBoard = Arc<Mutex<Board>>;

fn board(shared: &Mutex<Board>) -> MutexGuard<'_, Board> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Users at work.
#[derive(Debug)]
pub struct LiveClients {
    board: SharedBoard,
    stop: CancelToken,
    waker: Arc<Waker>,
    asks: Sender<Sender<ClientsJournal>>,
    thread: Option<JoinHandle<ClientsLog>>,
}

impl LiveClients {
    /// Lets the users begin. Their time counts from `origin`; sockets belong to the network
    /// namespace of the calling thread. They end by themselves when their run is over, at
    /// [`stop`](Self::stop), and within 200 ms when `cancel` is cancelled.
    ///
    /// # Errors
    /// [`ClientsError`] if the system refuses something.
    pub fn start(
        users: Users,
        options: ClientsOptions,
        origin: Instant,
        cancel: &CancelToken,
    ) -> Result<Self, ClientsError> {
        let count = users.config().users as usize;
        reserve_files(count).map_err(|source| ClientsError::Files { users: count, source })?;
        let start = |doing| move |source| ClientsError::Start { doing, source };
        let poll = Poll::new().map_err(start("opening the event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(start("making the waker"))?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(start("making the timer"))?;
        let (shared, stop) = (SharedBoard::default(), CancelToken::new());
        let (asks, asked) = bounded(1);
        let run = Run {
            asked,
            lines: (0..count).map(|_| Line::default()).collect(),
            users,
            options,
            poll,
            timer,
            origin,
            again: BTreeSet::new(),
            scratch: Scratch::default(),
            board: Arc::clone(&shared),
            progress: ClientsProgress::default(),
        };
        let cancels = [cancel.clone(), stop.clone()];
        let thread = std::thread::Builder::new()
            .name("clients".into())
            .spawn(move || run.run(&cancels))
            .map_err(start("starting the thread"))?;
        Ok(Self { board: shared, stop, waker: Arc::new(waker), asks, thread: Some(thread) })
    }

    /// How they are doing.
    #[must_use]
    pub fn progress(&self) -> ClientsProgress {
        board(&self.board).progress.clone()
    }

    /// The samples from this number on, for who looks on while they work.
    #[must_use]
    pub fn samples_from(&self, number: usize) -> Vec<Sample> {
        board(&self.board).samples.get(number..).unwrap_or_default().to_vec()
    }

    /// What the users know now. None if the run is over, or if they do not answer within 30 s.
    ///
    /// For an audit of a guest at work, pause the guest first: then its sessions are where the
    /// users know them to be, or one request further.
    #[must_use]
    pub fn journal(&self) -> Option<ClientsJournal> {
        let (answer, answered) = bounded(1);
        self.asks.send_timeout(answer, ASK_LIMIT).ok()?;
        self.wake();
        answered.recv_timeout(ASK_LIMIT).ok()
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "The clients could not be woken; they look by themselves");
        }
    }

    /// No more requests; answers that are out are waited for, as long as the options say.
    pub fn stop(&self) {
        self.stop.cancel();
        self.wake();
    }

    /// Waits for the end of the run, and returns what was measured.
    ///
    /// # Errors
    /// [`ClientsError::Panicked`].
    pub fn finish(mut self) -> Result<ClientsLog, ClientsError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(log)) => Ok(log),
            _ => Err(ClientsError::Panicked),
        }
    }
}

impl Drop for LiveClients {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop();
        if thread.join().is_err() {
            tracing::error!("The clients' thread panicked");
        }
    }
}
