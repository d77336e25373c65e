// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An open-loop prober: a tiny request every 10 ms on schedule, whatever became of the ones
//! before. What a client sees of a pause is the longest gap between two completions
//! (workload.md, section 6.8).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use mio::{Events, Poll, Token, Waker};
use precopy::engine::CancelToken;
use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use super::exchange::{Exchange, Filled, Scratch};
use super::files::{FileLimitError, reserve_files};
use super::timer::Timer;
use crate::site::PROBE;
use crate::sla::Probe;

const WAKER: Token = Token(0);
const TIMER: Token = Token(1);
const FIRST: usize = 2;
/// Probes that are recorded; a prober that has made so many ends (28 hours at 10 ms).
const PROBES_MAX: usize = 10_000_000;
/// Longest answer to a probe.
const ANSWER_MAX: usize = 4096;

/// How a prober probes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProberOptions {
    /// The switch's address for clients.
    pub address: SocketAddr,
    /// Time between two probes.
    pub interval: Duration,
    /// A probe that is not answered after so long has failed.
    pub limit: Duration,
    /// Most connections at once, 1 to 1000. While one is idle it takes the next probe; when there
    /// is none and no more may be opened, a probe follows others on a busy one.
    pub connections_max: usize,
    /// After the end, unanswered probes are waited for so long.
    pub last_wait: Duration,
}

impl ProberOptions {
    /// Every 10 ms, each for 30 s at most (after the end for 2 s), on up to 16 connections.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let (interval, limit) = (Duration::from_millis(10), Duration::from_secs(30));
        Self { address, interval, limit, connections_max: 16, last_wait: Duration::from_secs(2) }
    }
}

/// Why there is no prober.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProberError {
    /// An interval that makes no sense.
    #[error("The probe interval is {} us; it must be 1000 us to 60 s", interval.as_micros())]
    Interval {
        /// As given.
        interval: Duration,
    },
    /// Too few or too many connections.
    #[error("The prober is to use {connections} connections; it must be 1 to 1000")]
    Connections {
        /// As given.
        connections: usize,
    },
    /// The event loop cannot be set up.
    #[error("The prober cannot be started ({doing})")]
    Start {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Too few file descriptors.
    #[error("The prober cannot hold {connections} connections")]
    Files {
        /// As configured.
        connections: usize,
        /// Why.
        #[source]
        source: FileLimitError,
    },
    /// The event loop failed.
    #[error("The prober ended early, after {probes} probes")]
    Ended {
        /// Probes until then.
        probes: usize,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Its thread panicked.
    #[error("The prober's thread panicked; this is a bug")]
    Panicked,
}

/// What a prober saw, in the order of the probes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProbeLog {
    /// Time between two probes.
    pub interval: Duration,
    /// All of them.
    pub probes: Vec<Probe>,
    /// Probes whose connection broke, could not be made, or gave no answer within the limit.
    pub failed: u64,
    /// Most connections at once.
    pub connections: usize,
}

/// The longest time without a completed probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "three numbers")]
pub struct ProbeGap {
    /// The last completion before.
    pub from: Tick,
    /// The first completion after.
    pub to: Tick,
    /// The downtime that this shows: the gap without the interval in which nothing was due.
    pub downtime: Duration,
}

impl ProbeLog {
    /// The longest gap between two successive completions of which the second lies in
    /// `[from, to)`. None if there are not two.
    #[must_use]
    pub fn longest_gap(&self, from: Tick, to: Tick) -> Option<ProbeGap> {
        let mut completed: Vec<Tick> = self.probes.iter().filter_map(|p| p.completed).collect();
        completed.sort_unstable();
        let gaps = completed.windows(2).filter(|pair| (from..to).contains(&pair[1]));
        // The earliest of equals, because the latest is what `max_by_key` would take.
        let longest = gaps.rev().max_by_key(|pair| pair[1].since(pair[0]))?;
        let downtime = longest[1].since(longest[0]).saturating_sub(self.interval);
        Some(ProbeGap { from: longest[0], to: longest[1], downtime })
    }

    /// Probes without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.probes.iter().filter(|probe| probe.completed.is_none()).count()
    }
}

/// A running prober.
#[derive(Debug)]
pub struct Prober {
    cancel: CancelToken,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<Result<ProbeLog, ProberError>>>,
}

impl Prober {
    /// Starts probing. Times count from `origin`; sockets belong to the network namespace of the
    /// calling thread. It ends at [`finish`](Self::finish) or when `cancel` is cancelled, at
    /// which it looks once an interval.
    ///
    /// # Errors
    /// [`ProberError`] if an option is out of range or the system refuses something.
    pub fn start(
        options: ProberOptions,
        origin: Instant,
        cancel: &CancelToken,
    ) -> Result<Self, ProberError> {
        let interval = options.interval;
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&interval) {
            return Err(ProberError::Interval { interval });
        }
        let connections = options.connections_max;
        if !(1..=1000).contains(&connections) {
            return Err(ProberError::Connections { connections });
        }
        reserve_files(connections).map_err(|source| ProberError::Files { connections, source })?;
        let start = |doing| move |source| ProberError::Start { doing, source };
        let poll = Poll::new().map_err(start("opening its event queue"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(start("making its waker"))?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(start("making its timer"))?;
        let own = CancelToken::new();
        let cancels = [cancel.clone(), own.clone()];
        let run = move || Run::new(options, poll, timer, origin).run(&cancels);
        let thread = std::thread::Builder::new()
            .name("prober".into())
            .spawn(run)
            .map_err(start("starting its thread"))?;
        Ok(Self { cancel: own, waker: Arc::new(waker), thread: Some(thread) })
    }

    /// Ends the probing, waits for the answers that are out, and returns the log.
    ///
    /// # Errors
    /// [`ProberError::Ended`] if it could not go on to the end.
    pub fn finish(mut self) -> Result<ProbeLog, ProberError> {
        self.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(ProberError::Panicked),
        }
    }

    fn stop(&self) {
        self.cancel.cancel();
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "The prober could not be woken; it looks by itself");
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The prober's thread panicked");
        }
    }
}

/// A connection and the probes that it carries, oldest first.
struct Line {
    exchange: Exchange,
    out: VecDeque<usize>,
}

/// The state of the event loop.
struct Run {
    options: ProberOptions,
    poll: Poll,
    timer: Timer,
    origin: Instant,
    lines: BTreeMap<usize, Line>,
    next_token: usize,
    scratch: Scratch,
    log: ProbeLog,
}

impl Run {
    fn new(options: ProberOptions, poll: Poll, timer: Timer, origin: Instant) -> Self {
        let log = ProbeLog { interval: options.interval, ..ProbeLog::default() };
        let (lines, scratch) = (BTreeMap::new(), Scratch::default());
        Self { options, poll, timer, origin, lines, next_token: FIRST, scratch, log }
    }

    fn run(mut self, cancels: &[CancelToken]) -> Result<ProbeLog, ProberError> {
        let mut events = Events::with_capacity(256);
        let mut due = Instant::now();
        let mut end: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if end.is_none() && cancels.iter().any(CancelToken::is_cancelled) {
                end = Some(now + self.options.last_wait);
            }
            let wake = match end {
                None => {
                    while due <= now && self.log.probes.len() < PROBES_MAX {
                        self.probe(due, now);
                        due += self.options.interval;
                    }
                    due
                }
                Some(end) if now >= end || self.is_quiet() => return Ok(self.log),
                Some(end) => end,
            };
            self.expire(now);
            let waited = self
                .timer
                .set(wake.saturating_duration_since(Instant::now()))
                .and_then(|()| self.poll.poll(&mut events, Some(Duration::from_secs(1))));
            match waited {
                Err(source) if source.kind() != ErrorKind::Interrupted => {
                    return Err(ProberError::Ended { probes: self.log.probes.len(), source });
                }
                _ => {}
            }
            for event in &events {
                self.go_on(event.token().0);
            }
        }
    }

    fn tick(&self, at: Instant) -> Tick {
        Tick::ZERO + at.saturating_duration_since(self.origin)
    }

    fn is_quiet(&self) -> bool {
        self.lines.values().all(|line| line.out.is_empty())
    }

    fn probe(&mut self, due: Instant, now: Instant) {
        let number = self.log.probes.len();
        let intended = self.tick(due);
        self.log.probes.push(Probe { intended, sent: None, completed: None });
        let token = match self.line() {
            Ok(token) => token,
            Err(error) => return self.fail(1, &error),
        };
        if let Some(line) = self.lines.get_mut(&token) {
            line.exchange.out().extend_from_slice(PROBE);
            line.out.push_back(number);
            self.send(token, now);
        }
    }

    /// The connection for the next probe.
    fn line(&mut self) -> io::Result<usize> {
        let least = self.lines.iter().min_by_key(|(_, line)| line.out.len());
        let least = least.map(|(token, line)| (*token, line.out.len()));
        match least {
            Some((token, out)) if out == 0 || self.lines.len() >= self.options.connections_max => {
                Ok(token)
            }
            _ => {
                let token = self.next_token;
                self.next_token += 1;
                let (address, registry) = (self.options.address, self.poll.registry());
                let exchange = Exchange::connect(address, registry, Token(token))?;
                self.lines.insert(token, Line { exchange, out: VecDeque::new() });
                self.log.connections = self.log.connections.max(self.lines.len());
                Ok(token)
            }
        }
    }

    fn fail(&mut self, probes: usize, error: &io::Error) {
        tracing::debug!(probes, %error, "Probes failed");
        self.log.failed += probes as u64;
    }

    /// A connection is over, and its probes with it.
    fn drop_line(&mut self, token: usize, error: &io::Error) {
        if let Some(line) = self.lines.remove(&token) {
            self.fail(line.out.len(), error);
        }
    }

    fn send(&mut self, token: usize, now: Instant) {
        let tick = self.tick(now);
        let Some(line) = self.lines.get_mut(&token) else { return };
        match line.exchange.flush() {
            Ok(false) => {}
            Ok(true) => {
                for number in line.out.iter().rev() {
                    let probe = &mut self.log.probes[*number];
                    if probe.sent.replace(probe.sent.unwrap_or(tick)).is_some() {
                        break;
                    }
                }
            }
            Err(error) => self.drop_line(token, &error),
        }
    }

    fn go_on(&mut self, token: usize) {
        if token < FIRST {
            return;
        }
        let now = Instant::now();
        self.send(token, now);
        let tick = self.tick(now);
        let Some(line) = self.lines.get_mut(&token) else { return };
        let outcome = line.exchange.fill(&mut self.scratch).and_then(|filled| {
            while take_answer(&mut line.exchange.input)? {
                let number = line.out.pop_front();
                let number =
                    number.ok_or_else(|| io::Error::other("an answer that nobody asked for"))?;
                self.log.probes[number].completed = Some(tick);
            }
            // The guest may close what is idle; the next probe opens another.
            if filled == Filled::End { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        });
        if let Err(error) = outcome {
            self.drop_line(token, &error);
        }
    }

    fn expire(&mut self, now: Instant) {
        let Some(last) = self.tick(now).as_nanos().checked_sub(nanos(self.options.limit)) else {
            return;
        };
        let log = &self.log;
        let late = |line: &Line| {
            line.out.front().is_some_and(|number| log.probes[*number].intended.as_nanos() < last)
        };
        let late: Vec<usize> =
            self.lines.iter().filter(|(_, line)| late(line)).map(|(token, _)| *token).collect();
        for token in late {
            self.drop_line(token, &ErrorKind::TimedOut.into());
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Removes a complete answer from the front, if there is one.
fn take_answer(input: &mut BytesMut) -> io::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let head = match answer.parse(input).map_err(io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial if input.len() > ANSWER_MAX => {
            return Err(io::Error::other("an answer to a probe of over 4096 bytes"));
        }
        httparse::Status::Partial => return Ok(false),
    };
    let length = answer.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
    let body = length
        .and_then(|header| str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok())
        .filter(|bytes| *bytes <= ANSWER_MAX)
        .ok_or_else(|| io::Error::other("an answer to a probe without a small content-length"))?;
    if answer.code != Some(200) {
        return Err(io::Error::other("an answer to a probe that is not 200"));
    }
    if input.len() < head + body {
        return Ok(false);
    }
    input.advance(head + body);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Tick {
        Tick::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn the_longest_gap_counts_without_the_interval() {
        let probe = |intended, completed: Option<u64>| Probe {
            intended: ms(intended),
            sent: Some(ms(intended)),
            completed: completed.map(ms),
        };
        // 20 and 30 wait for the end of a pause at 47; 40 fails; 60 overtakes 50.
        let probes = vec![
            probe(0, Some(1)),
            probe(10, Some(11)),
            probe(20, Some(47)),
            probe(30, Some(48)),
            probe(40, None),
            probe(50, Some(62)),
            probe(60, Some(61)),
        ];
        let interval = Duration::from_millis(10);
        let log = ProbeLog { interval, probes, ..ProbeLog::default() };
        let gap = log.longest_gap(Tick::ZERO, ms(1000)).unwrap();
        let expected = ProbeGap { from: ms(11), to: ms(47), downtime: Duration::from_millis(26) };
        assert_eq!(gap, expected);
        let later = log.longest_gap(ms(48), ms(1000)).unwrap();
        assert_eq!((later.from, later.to), (ms(48), ms(61)));
        assert_eq!(log.longest_gap(ms(63), ms(1000)), None);
        assert_eq!(log.unanswered(), 1);
    }

    #[test]
    fn answers_are_taken_whole_and_one_by_one() {
        let mut input = BytesMut::new();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for byte in &answer[..answer.len() - 1] {
            input.extend_from_slice(&[*byte]);
            assert!(!take_answer(&mut input).unwrap());
        }
        input.extend_from_slice(b"kHTTP");
        assert!(take_answer(&mut input).unwrap());
        assert_eq!(input, b"HTTP"[..]);
        let mut input = BytesMut::from(&b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"[..]);
        assert!(take_answer(&mut input).is_err());
    }
}
