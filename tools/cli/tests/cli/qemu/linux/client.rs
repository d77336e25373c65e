// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clients of the Linux guest: they ask over and over, check every answer and note when it came.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use webvm::net::rig::{Rig, Side};

use crate::support::wait_for;

/// Ports of the guest (`tools/qemu/linux/init`).
const ONE_ANSWER: u16 = 80;
const KEPT_ALIVE: u16 = 8080;
/// Time between an answer and the next request.
const THINK: Duration = Duration::from_millis(20);
/// A request without an answer for so long is lost.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer.
const ANSWER_MAX: u64 = 64 << 10;
/// Requests that are noted; whoever asks more has run wild.
const REQUESTS_MAX: usize = 1_000_000;

/// How a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Everything on one connection.
    Kept,
    /// A process of the guest's own for each request, on a connection of its own.
    Counter,
    /// A file, on a connection of its own.
    Page,
}

const CLIENTS: [Kind; 5] = [Kind::Kept, Kind::Kept, Kind::Counter, Kind::Counter, Kind::Page];

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Answered,
    /// The connection was closed without an answer; asked again, there was one.
    Retried(String),
    Lost(String),
    Wrong(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) fate: Fate,
}

impl Request {
    pub(crate) fn is_answered(&self) -> bool {
        matches!(self.fate, Fate::Answered | Fate::Retried(_))
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: [AtomicU64; CLIENTS.len()],
    /// How often the guest has written all of its files, by its own count.
    sweeps: AtomicU64,
    requests: Mutex<Vec<Request>>,
    /// What the guest's counter was in each answer, and how often it was asked.
    counts: Mutex<Vec<u64>>,
    counter_asked: AtomicU64,
}

/// Clients that go on until the end.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts them in the guest's network.
    pub(crate) fn start(rig: &Rig, guest: IpAddr) -> Self {
        let shared = Arc::new(Shared::default());
        let start = || {
            let spawn = |(index, &kind)| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || Client::new(kind, guest).run(index, &shared))
            };
            CLIENTS.iter().enumerate().map(spawn).collect()
        };
        let threads = rig.inside(Side::B, start).unwrap();
        Self { shared, threads }
    }

    /// Waits until every client has had so many more answers.
    pub(crate) fn wait_for(&self, more: u64) {
        let now = |index: usize| self.shared.answered[index].load(Ordering::SeqCst);
        let wanted: Vec<_> = (0..CLIENTS.len()).map(|index| now(index) + more).collect();
        wait_for("answers to every client", || {
            let all = wanted.iter().enumerate().all(|(index, wanted)| now(index) >= *wanted);
            all.then_some(())
        });
    }

    /// Waits until the guest has written and read all of its files again.
    pub(crate) fn wait_for_sweeps(&self, more: u64) {
        let now = || self.shared.sweeps.load(Ordering::SeqCst);
        let wanted = now() + more;
        wait_for("sweeps of the guest", || (now() >= wanted).then_some(()));
    }

    /// Every request that has an end so far, in the order of ends.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let mut all = self.shared.requests.lock().unwrap().clone();
        all.sort_by_key(|request| request.ended);
        all
    }

    /// Ends them; the guest's counter counted each request once.
    pub(crate) fn finish(mut self) -> Vec<Request> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let counts = self.shared.counts.lock().unwrap();
        let distinct: HashSet<_> = counts.iter().collect();
        assert_eq!(distinct.len(), counts.len(), "the guest counted two requests as one");
        let most = counts.iter().max().copied().unwrap_or(0);
        let asked = self.shared.counter_asked.load(Ordering::SeqCst);
        assert!(most <= asked, "the guest counted {most} requests of {asked}");
        drop(counts);
        self.requests()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

/// Why there is no right answer.
enum Failure {
    Closed(io::Error),
    Late,
    Wrong(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            _ => Self::Closed(error),
        }
    }
}

fn cut_short() -> Failure {
    Failure::Closed(ErrorKind::UnexpectedEof.into())
}

struct Client {
    kind: Kind,
    guest: IpAddr,
    kept: Option<BufReader<TcpStream>>,
    /// Requests on the kept connection.
    on_it: u64,
    last_count: u64,
}

impl Client {
    fn new(kind: Kind, guest: IpAddr) -> Self {
        Self { kind, guest, kept: None, on_it: 0, last_count: 0 }
    }

    fn run(mut self, index: usize, shared: &Shared) {
        for number in 0.. {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let began = Instant::now();
            let fate = match self.ask(number, shared) {
                Ok(()) => Fate::Answered,
                Err(Failure::Closed(why)) => match self.ask(number, shared) {
                    Ok(()) => Fate::Retried(why.to_string()),
                    Err(Failure::Closed(again)) => Fate::Lost(format!("{why}, then {again}")),
                    Err(Failure::Late) => Fate::Lost(format!("{why}, then no answer")),
                    Err(Failure::Wrong(what)) => Fate::Wrong(what),
                },
                Err(Failure::Late) => Fate::Lost("no answer".to_owned()),
                Err(Failure::Wrong(what)) => Fate::Wrong(what),
            };
            let request = Request { kind: self.kind, began, ended: Instant::now(), fate };
            if request.is_answered() {
                shared.answered[index].fetch_add(1, Ordering::SeqCst);
            } else {
                self.kept = None;
            }
            let mut requests = shared.requests.lock().unwrap();
            assert!(requests.len() < REQUESTS_MAX, "too many requests");
            requests.push(request);
            drop(requests);
            thread::sleep(THINK);
        }
    }

    fn ask(&mut self, number: u64, shared: &Shared) -> Result<(), Failure> {
        match self.kind {
            Kind::Kept => {
                let asked = self.ask_on_kept(number, shared);
                if asked.is_err() {
                    self.kept = None;
                }
                asked
            }
            Kind::Counter => {
                shared.counter_asked.fetch_add(1, Ordering::SeqCst);
                let body = self.ask_once(&format!("/cgi-bin/count?{number}"))?;
                self.check_counter(number, &body, shared)
            }
            Kind::Page => {
                let body = self.ask_once("/numbers")?;
                let right: String = (1..=2000).map(|line| format!("{line}\n")).collect();
                match body {
                    body if body == right => Ok(()),
                    body if right.starts_with(&body) => Err(cut_short()),
                    body => Err(Failure::Wrong(format!("{} other bytes", body.len()))),
                }
            }
        }
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(self.guest, port), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The body of an answer that ends with its connection.
    fn ask_once(&self, path: &str) -> Result<String, Failure> {
        let mut stream = self.connect(ONE_ANSWER)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut_short)?;
        if !head.starts_with("HTTP/1.") || head.split(' ').nth(1) != Some("200") {
            return Err(Failure::Wrong(head.to_owned()));
        }
        Ok(body.to_owned())
    }

    fn check_counter(&mut self, number: u64, body: &str, shared: &Shared) -> Result<(), Failure> {
        let line = body.strip_suffix('\n').ok_or_else(cut_short)?;
        let count = field(line, " count=").unwrap_or(0);
        let right = format!("{number} count={count} faults=0");
        if line != right || count <= self.last_count {
            return Err(Failure::Wrong(format!("{line:?} after {}", self.last_count)));
        }
        self.last_count = count;
        shared.counts.lock().unwrap().push(count);
        Ok(())
    }

    fn ask_on_kept(&mut self, number: u64, shared: &Shared) -> Result<(), Failure> {
        let stream = match self.kept.take() {
            Some(stream) => stream,
            None => {
                self.on_it = 0;
                BufReader::new(self.connect(KEPT_ALIVE)?)
            }
        };
        let stream = self.kept.insert(stream);
        write!(stream.get_mut(), "GET /{number} HTTP/1.1\r\nHost: guest\r\n\r\n")?;
        self.on_it += 1;
        let mut answer = stream.take(ANSWER_MAX);
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if answer.read_line(&mut line)? == 0 {
                return Err(cut_short());
            }
            match line.trim_end() {
                "" => break,
                head => length = field(head, "Content-Length: ").unwrap_or(length),
            }
        }
        let mut body = String::new();
        answer.take(length).read_to_string(&mut body)?;
        if body.len() as u64 != length {
            return Err(cut_short());
        }
        let sweeps = field(&body, " sweeps=").unwrap_or(0);
        // The count of this very connection: no answer came twice, none is missing.
        let right = format!("/{number} count={} sweeps={sweeps} faults=0", self.on_it);
        if body != right {
            return Err(Failure::Wrong(format!("{body:?} is not {right:?}")));
        }
        shared.sweeps.fetch_max(sweeps, Ordering::SeqCst);
        Ok(())
    }
}

/// The number behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.split_once(name)?.1;
    rest.split(' ').next()?.parse().ok()
}
