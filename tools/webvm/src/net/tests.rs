// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The network against a guest that is moved about: nothing is lost, doubled or changed.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use precopy::engine::CancelToken;
use precopy::sim::Rng;
use precopy::units::Tick;

use super::fake::{FakeGuest, chain};
use super::*;
use crate::sla::{Probe, Status};
use crate::users::{Users, UsersConfig};

mod users;

/// Only reached when something hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// Moves of the guest without which a test says little.
const MOVES: u64 = 6;

/// A host that runs the guest.
struct Host {
    stop: Arc<AtomicBool>,
    waker: PortWaker,
    thread: JoinHandle<(FakeGuest, Box<dyn GuestPort>)>,
}

impl Host {
    fn run(mut guest: FakeGuest, mut port: Box<dyn GuestPort>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, waker) = (Arc::clone(&stop), port.waker());
        let thread = thread::spawn(move || {
            guest.attached();
            guest.run(&mut *port, || stopped.load(Ordering::SeqCst));
            (guest, port)
        });
        Self { stop, waker, thread }
    }

    fn pause(self) -> (FakeGuest, Box<dyn GuestPort>) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.thread.join().unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Inside,
    Uplink,
}

fn attach(switch: &Switch, guest: &FakeGuest, kind: Kind) -> Box<dyn GuestPort> {
    match kind {
        Kind::Inside => Box::new(switch.attach(guest.attach()).unwrap()),
        Kind::Uplink => {
            let uplink = Uplink::connect(switch.uplink_address().unwrap(), LIMIT).unwrap();
            Box::new(uplink.attach(guest.attach(), LIMIT).unwrap())
        }
    }
}

fn switch(change: impl FnOnce(&mut SwitchOptions)) -> Switch {
    let any = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut options = SwitchOptions { uplinks: any, ..SwitchOptions::default() };
    change(&mut options);
    Switch::start(options).unwrap()
}

/// A client that checks every answer.
struct Checker {
    stream: BufReader<TcpStream>,
    chain: u32,
    asked: Vec<(usize, u32, u32)>,
}

impl Checker {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self { stream: BufReader::new(stream), chain: 0, asked: Vec::new() }
    }

    fn ask(&mut self, body: &[u8]) {
        self.chain = chain(self.chain, body);
        let head = format!("POST /echo HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        self.asked.push((body.len(), crc32fast::hash(body), self.chain));
    }

    /// Reads and checks the answers to all that was asked.
    fn check(&mut self, mut slow: impl FnMut()) {
        for (bytes, hash, chain) in std::mem::take(&mut self.asked) {
            let expected =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nx-chain: {chain}\r\n\r\n");
            let mut head = vec![0; expected.len()];
            self.stream.read_exact(&mut head).unwrap();
            assert_eq!(String::from_utf8_lossy(&head), expected);
            slow();
            let mut body = vec![0; bytes];
            self.stream.read_exact(&mut body).unwrap();
            assert_eq!(crc32fast::hash(&body), hash, "an answer's body has changed");
        }
    }

    fn end(mut self) {
        self.stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes nobody asked for", rest.len());
    }
}

/// Asks so many requests, and more until the guest has moved often enough.
fn client(address: SocketAddr, seed: u64, requests: u64, moves: &AtomicU64) -> u64 {
    let mut rng = Rng::new(seed);
    let (mut checker, mut asked) = (Checker::connect(address), 0);
    while asked < requests || moves.load(Ordering::Relaxed) < MOVES {
        // Few enough that their answers fit what client, switch and kernel hold.
        let at_once = 1 + rng.below(4);
        for _ in 0..at_once {
            let bytes = if rng.one_in(8) { rng.below(150_000) } else { rng.below(3_000) };
            let fill = rng.next_u64().to_le_bytes();
            let body: Vec<u8> = (0..bytes as usize).map(|i| fill[i % 8] ^ (i >> 8) as u8).collect();
            checker.ask(&body);
        }
        asked += at_once;
        let nap = rng.below(3);
        let slow = rng.one_in(6);
        checker.check(|| {
            if slow {
                thread::sleep(Duration::from_millis(nap));
            }
        });
        if rng.one_in(10) {
            std::mem::replace(&mut checker, Checker::connect(address)).end();
        }
    }
    checker.end();
    asked
}

/// Moves the guest until all clients are done, with everything that may go wrong at a handover.
fn hand_over_under_load(clients: u64, requests: u64, seed: u64) {
    let switch = switch(|options| {
        // Small enough to be reached.
        options.kept_bytes_client_max = 100_000;
        options.kept_bytes_max = 300_000;
        options.answer_bytes_max = 400_000;
        options.window_bytes = 70_000;
    });
    let address = switch.client_address();
    let moves = Arc::new(AtomicU64::new(1));
    let start = |n| {
        let moves = Arc::clone(&moves);
        thread::spawn(move || client(address, seed ^ (n << 32), requests, &moves))
    };
    let threads: Vec<_> = (0..clients).map(start).collect();

    let mut rng = Rng::new(seed);
    let guest = FakeGuest::default();
    let port = attach(&switch, &guest, Kind::Inside);
    let mut host = Host::run(guest, port);
    while !threads.iter().all(JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(rng.below(12)));
        let (guest, mut old) = host.pause();
        let kind = if rng.one_in(2) { Kind::Inside } else { Kind::Uplink };
        match rng.below(4) {
            // The source's process is gone before the destination attaches.
            0 => drop(old),
            // It goes away some time after.
            1 => {
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(2));
                    drop(old);
                });
            }
            // It does not know that it lost the guest, and goes on with its copy.
            2 => {
                let mut copy = guest.clone();
                let port = attach(&switch, &guest, kind);
                moves.fetch_add(1, Ordering::Relaxed);
                for _ in 0..3 {
                    copy.step(&mut *old);
                }
                host = Host::run(guest, port);
                continue;
            }
            // The migration failed, and the guest goes on where it was.
            _ => {
                host = Host::run(guest, old);
                continue;
            }
        }
        thread::sleep(Duration::from_millis(rng.below(3)));
        let port = attach(&switch, &guest, kind);
        moves.fetch_add(1, Ordering::Relaxed);
        host = Host::run(guest, port);
    }
    let asked: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    until(|| switch.status().connections == 0 && switch.status().kept_frames == 0);
    let (guest, _) = host.pause();
    let status = switch.status();
    assert_eq!(guest.faults(), [] as [&str; 0]);
    assert_eq!(guest.answered(), asked);
    assert_eq!(guest.connections(), 0);
    assert_eq!((status.resets, status.stalled, status.refused), (0, 0, 0), "{status:?}");
    assert_eq!(status.generation, moves.load(Ordering::Relaxed));
    assert!(status.generation >= MOVES);
}

fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "this does not come true");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn nothing_is_lost_while_the_guest_moves_about() {
    for seed in 1..=3 {
        hand_over_under_load(24, 60, seed);
    }
}

#[test]
fn traffic_waits_for_a_guest_that_is_nowhere() {
    let switch = switch(|_| {});
    let mut clients: Vec<_> = (0..5).map(|_| Checker::connect(switch.client_address())).collect();
    for client in &mut clients {
        client.ask(b"is anybody there?");
    }
    // A connection and a request each; a request may come in two pieces.
    until(|| switch.status().kept_frames >= 10);
    let guest = FakeGuest::default();
    let port = attach(&switch, &guest, Kind::Uplink);
    let host = Host::run(guest, port);
    for mut client in clients {
        client.check(|| ());
        client.end();
    }
    assert_eq!(host.pause().0.faults(), [] as [&str; 0]);
    assert_eq!(switch.status().attachments.len(), 1);
}

#[test]
fn an_older_copy_of_the_guest_is_refused() {
    let switch = switch(|_| {});
    let old = FakeGuest::default();
    let mut guest = old.clone();
    let mut port = attach(&switch, &guest, Kind::Inside);
    let mut client = Checker::connect(switch.client_address());
    client.ask(b"first");
    until(|| {
        guest_step(&mut guest, &mut *port);
        let status = switch.status();
        // It has the answer, and knows that the guest has the request.
        (guest.answered(), status.frames_from_guest, status.kept_frames) == (1, 1, 0)
    });
    let refused = switch.attach(old.attach()).unwrap_err();
    assert!(matches!(refused, PortError::Link(LinkError::OldMemory { .. })), "{refused}");
    let uplink = Uplink::connect(switch.uplink_address().unwrap(), LIMIT).unwrap();
    let refused = uplink.attach(old.attach(), LIMIT).unwrap_err();
    assert!(refused.to_string().contains("older copy"), "{refused}");
    // The one that was attached did not notice.
    client.ask(b"second");
    let host = Host::run(guest, port);
    client.check(|| ());
    client.end();
    assert_eq!(host.pause().0.faults(), [] as [&str; 0]);
    until(|| switch.status().refused == 2);
}

fn guest_step(guest: &mut FakeGuest, port: &mut dyn GuestPort) {
    guest.step(port);
    port.wait(Instant::now() + Duration::from_millis(1));
}

#[test]
fn a_superseded_port_says_so() {
    let switch = switch(|_| {});
    let guest = FakeGuest::default();
    for kind in [Kind::Inside, Kind::Uplink] {
        let mut old = attach(&switch, &guest, kind);
        let _new = attach(&switch, &guest, Kind::Inside);
        until_closed(&mut *old);
        assert!(matches!(old.closed(), Some(PortError::Superseded)), "{:?}", old.closed());
        assert_eq!(old.send(1, Frame::data(1, Bytes::from_static(b"x"))), Err(Full));
    }
    let mut last = attach(&switch, &guest, Kind::Inside);
    drop(switch);
    until_closed(&mut *last);
    assert!(matches!(last.closed(), Some(PortError::SwitchEnded)));
}

fn until_closed(port: &mut dyn GuestPort) {
    let end = Instant::now() + LIMIT;
    while port.closed().is_none() {
        assert!(Instant::now() < end, "the port does not close");
        port.wait(Instant::now() + Duration::from_millis(2));
    }
}

#[test]
fn a_client_that_takes_nothing_is_not_read_and_then_cut_off() {
    let switch = switch(|options| {
        options.client_stall = Duration::from_secs(1);
        options.answer_bytes_client_max = 50_000;
    });
    let guest = FakeGuest::default();
    let port = attach(&switch, &guest, Kind::Uplink);
    let host = Host::run(guest, port);
    let mut greedy = TcpStream::connect(switch.client_address()).unwrap();
    greedy.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let request = [b"POST / HTTP/1.1\r\ncontent-length: 99000\r\n\r\n".as_slice(), &[7; 99_000]];
    let request = request.concat();
    let mut other = Checker::connect(switch.client_address());
    let mut sent = 0;
    let end = Instant::now() + LIMIT;
    // Kernel and switch hold some megabytes; then the connection takes nothing more. A wait for
    // it may also end because the switch stood still.
    while switch.status().stalled == 0 {
        assert!(Instant::now() < end, "it is not cut off");
        match greedy.write(&request[sent % request.len()..]) {
            Ok(bytes) => sent += bytes,
            Err(_) => {
                other.ask(b"others are served");
                other.check(|| ());
            }
        }
    }
    assert!(sent < 64 << 20, "the switch read {sent} bytes of a client that reads nothing");
    other.ask(b"still");
    other.check(|| ());
    other.end();
    assert_eq!(switch.status().stalled, 1);
    host.pause();
}

#[test]
fn a_port_that_breaks_the_numbering_is_closed() {
    let switch = switch(|_| {});
    for (kind, refused) in [(Kind::Inside, 1), (Kind::Uplink, 2)] {
        let mut port = attach(&switch, &FakeGuest::default(), kind);
        port.send(2, Frame::close(1)).unwrap();
        until_closed(&mut *port);
        until(|| switch.status().refused == refused);
        assert!(!switch.status().attached);
    }
    let mut port = attach(&switch, &FakeGuest::default(), Kind::Uplink);
    port.acknowledge(1);
    until_closed(&mut *port);
    until(|| switch.status().refused == 3);
}

#[test]
fn options_out_of_range_are_named() {
    let options = SwitchOptions { window_bytes: 5 << 20, ..SwitchOptions::default() };
    let error = Switch::start(options).unwrap_err().to_string();
    assert_eq!(error, "Switch option window_bytes is 5242880; it must be 1 to 4194304");
}

#[test]
fn the_prober_sees_a_pause_and_every_probe_is_answered() {
    let switch = switch(|_| {});
    let guest = FakeGuest::default();
    let host = Host::run(guest.clone(), attach(&switch, &guest, Kind::Uplink));
    let mut options = ProberOptions::new(switch.client_address());
    options.last_wait = LIMIT;
    let (origin, cancel) = (Instant::now(), CancelToken::new());
    let tick = |at: Instant| Tick::ZERO + (at - origin);
    let prober = Prober::start(options, origin, &cancel).unwrap();
    let answers = || switch.status().frames_from_guest;
    until(|| answers() >= 10);
    let (guest, _) = host.pause();
    let (paused, kept) = (tick(Instant::now()), switch.status().kept_frames);
    // More than every connection's opening and all that may have been on its way.
    until(|| switch.status().kept_frames >= kept + 40);
    let resumed = tick(Instant::now());
    let host = Host::run(guest.clone(), attach(&switch, &guest, Kind::Inside));
    let before = answers();
    until(|| answers() >= before + 10);
    let log = prober.finish().unwrap();
    let (guest, _) = host.pause();
    assert_eq!(guest.faults(), [] as [&str; 0]);
    assert_eq!((log.failed, log.unanswered()), (0, 0));
    assert_eq!(guest.probes(), log.probes.len() as u64);
    // Probes go out on schedule, whatever became of those before.
    let late = |pair: &[Probe]| pair[1].intended.since(pair[0].intended) != log.interval;
    assert!(!log.probes.windows(2).any(late));
    assert!(log.connections > 1);
    // What was sent to a guest that was nowhere is answered where it goes on.
    let away = log.probes.iter().filter(|p| (paused..resumed).contains(&p.sent.unwrap()));
    assert!(away.clone().all(|probe| probe.completed.unwrap() >= resumed));
    assert!(away.count() > 1);
    // The machine may have stood still for longer than the guest did, but not for less.
    let completed = || log.probes.iter().filter_map(|probe| probe.completed);
    let last = completed().filter(|at| *at < resumed).max();
    let first = completed().filter(|at| *at >= resumed).min();
    let gap = log.longest_gap(Tick::ZERO, Tick::from_nanos(u64::MAX)).unwrap();
    let around = last.map_or(Duration::ZERO, |last| first.unwrap().since(last));
    assert!(gap.downtime + log.interval >= around, "{gap:?}, {around:?}");
}
