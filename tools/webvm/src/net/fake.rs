// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The least guest that a network can serve: it answers the site's requests at once and other
//! HTTP requests with what they said, and keeps its network card's counters in a plain struct,
//! which moves from port to port. For tests
//! of the network alone, and to measure it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::frame::{FRAME_BYTES_MAX, Frame, FrameKind};
use super::port::{Attach, GuestPort};
use crate::site::{self, Request, RequestKind, Response, http};

/// Bytes of answers that may wait to be sent; no request is taken in meanwhile.
const TRANSMIT_BYTES_MAX: usize = 512 << 10;
/// Longest request head.
const HEAD_MAX: usize = 8 << 10;
/// Longest request body.
const BODY_MAX: usize = 16 << 20;

/// Bytes of the body of each answer of the site.
const SITE_BODY: u32 = 8000;

/// The guest: network card, connections and all. Cloning it is what a memory copy does.
#[derive(Clone, Debug, Default)]
pub struct FakeGuest {
    received: u64,
    acknowledged: u64,
    /// Number of the last frame given to the current port.
    given: u64,
    transmit: VecDeque<Frame>,
    transmit_bytes: usize,
    conns: BTreeMap<u32, Conn>,
    /// Running checksum and last request of each user of the site.
    users: BTreeMap<u32, (u64, u64)>,
    records: u64,
    answered: u64,
    probes: u64,
    faults: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Conn {
    input: BytesMut,
    chain: u32,
    client_closed: bool,
}

impl FakeGuest {
    /// What the switch must know to attach it.
    #[must_use]
    pub fn attach(&self) -> Attach {
        Attach { received: self.received, sent_acknowledged: self.acknowledged }
    }

    /// It has a new port: what was not acknowledged goes out again.
    pub fn attached(&mut self) {
        self.given = self.acknowledged;
    }

    /// Requests answered, probes not counted.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Probes answered.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.probes
    }

    /// Connections that are not over.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// What cannot happen on a network that loses nothing: frames out of order, requests cut.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Takes in, answers and sends what is possible now.
    pub fn step(&mut self, port: &mut dyn GuestPort) {
        self.forget(port.acknowledged());
        // As many frames as one step may take, so that it ends.
        for _ in 0..256 {
            if self.transmit_bytes >= TRANSMIT_BYTES_MAX {
                break;
            }
            let Some((number, frame)) = port.receive() else { break };
            if number == self.received + 1 {
                self.received = number;
                self.take(&frame);
            } else {
                self.fault(format!("frame {number} came after {}", self.received));
            }
        }
        port.acknowledge(self.received);
        self.send(port);
    }

    /// Steps until `stop` says so, at least each 10 ms.
    pub fn run(&mut self, port: &mut dyn GuestPort, stop: impl Fn() -> bool) {
        while !stop() {
            self.step(port);
            port.wait(Instant::now() + Duration::from_millis(10));
        }
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < 100 {
            self.faults.push(what);
        }
    }

    fn forget(&mut self, acknowledged: u64) {
        while self.acknowledged < acknowledged {
            let Some(frame) = self.transmit.pop_front() else {
                self.fault(format!("frame {acknowledged} acknowledged, but never sent"));
                return;
            };
            self.transmit_bytes -= frame.bytes.len();
            self.acknowledged += 1;
        }
        self.given = self.given.max(self.acknowledged);
    }

    fn send(&mut self, port: &mut dyn GuestPort) {
        let waiting = usize::try_from(self.given - self.acknowledged).unwrap_or(usize::MAX);
        for frame in self.transmit.iter().skip(waiting) {
            if port.send(self.given + 1, frame.clone()).is_err() {
                return;
            }
            self.given += 1;
        }
    }

    fn push(&mut self, frame: Frame) {
        self.transmit_bytes += frame.bytes.len();
        self.transmit.push_back(frame);
    }

    fn take(&mut self, frame: &Frame) {
        let conn = frame.conn;
        match frame.kind {
            FrameKind::Open => {
                if self.conns.insert(conn, Conn::default()).is_some() {
                    self.fault(format!("connection {conn} opened twice"));
                }
            }
            FrameKind::Data => {
                let Some(state) = self.conns.get_mut(&conn) else {
                    return self.fault(format!("data of connection {conn}, which is not open"));
                };
                if state.client_closed {
                    return self.fault(format!("data of connection {conn} after its end"));
                }
                state.input.extend_from_slice(&frame.bytes);
                self.answer(conn);
            }
            FrameKind::Close => {
                let Some(state) = self.conns.remove(&conn) else {
                    return self.fault(format!("end of connection {conn}, which is not open"));
                };
                if !state.input.is_empty() {
                    let bytes = state.input.len();
                    self.fault(format!("connection {conn} ended {bytes} bytes into a request"));
                }
                self.push(Frame::close(conn));
            }
        }
    }

    fn answer(&mut self, conn: u32) {
        loop {
            let Some(state) = self.conns.get_mut(&conn) else { return };
            let answer = match next_request(&mut state.input) {
                Ok(None) => return,
                Ok(Some(Asked::Probe)) => {
                    self.probes += 1;
                    Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                }
                Ok(Some(Asked::Echo(body))) => {
                    self.answered += 1;
                    state.chain = chain(state.chain, &body);
                    echo(&body, state.chain)
                }
                Ok(Some(Asked::Site(request))) => {
                    self.answered += 1;
                    self.serve(&request)
                }
                Err(fault) => {
                    state.client_closed = true;
                    state.input.clear();
                    self.fault(format!("connection {conn}: {fault}"));
                    return self.push(Frame::close(conn));
                }
            };
            self.push_all(conn, answer);
        }
    }

    fn serve(&mut self, request: &Request) -> Bytes {
        let (before, last) = self.users.get(&request.user).copied().unwrap_or_default();
        if request.seq != last + 1 {
            let Request { user, seq, .. } = request;
            self.fault(format!("user {user} asks {seq} after {last}"));
        }
        let chain = site::chain(before, request);
        self.users.insert(request.user, (chain, request.seq));
        let lists = matches!(request.kind, RequestKind::Home | RequestKind::TagList);
        self.records += u64::from(request.kind.is_write());
        let response = Response {
            user: request.user,
            seq: request.seq,
            status: 200,
            record: if request.kind.is_write() { self.records } else { 0 },
            chain,
            links: if lists { (1..=10).collect() } else { Vec::new() },
            body_bytes: SITE_BODY,
        };
        let mut answer = Vec::new();
        http::encode_response_head(&response, &mut answer);
        answer.resize(answer.len() + SITE_BODY as usize, b'.');
        answer.into()
    }

    fn push_all(&mut self, conn: u32, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX));
            self.push(Frame::data(conn, piece));
        }
    }
}

/// The running checksum of a connection's request bodies, in order.
#[must_use]
pub fn chain(before: u32, body: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new_with_initial(before.rotate_left(1) ^ 1);
    hash.update(body);
    hash.finalize()
}

fn echo(body: &[u8], chain: u32) -> Bytes {
    let bytes = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nx-chain: {chain}\r\n\r\n");
    let mut answer = BytesMut::from(head.as_bytes());
    answer.extend_from_slice(body);
    answer.freeze()
}

enum Asked {
    Probe,
    Echo(Bytes),
    Site(Request),
}

fn next_request(input: &mut BytesMut) -> Result<Option<Asked>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(input) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if input.len() > HEAD_MAX => {
            return Err(format!("a request head of over {HEAD_MAX} bytes"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not a request: {error}")),
    };
    let find = |name: &str| request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    let length = find("content-length").map(|h| str::from_utf8(h.value).unwrap_or("").trim());
    let length = match length.map(str::parse) {
        None => 0,
        Some(Ok(bytes)) if bytes <= BODY_MAX => bytes,
        Some(_) => return Err(format!("a body that is not of 0 to {BODY_MAX} bytes")),
    };
    let (probe, of_site) = (request.path == Some("/probe"), find("x-user").is_some());
    if input.len() < head + length {
        return Ok(None);
    }
    let head = input.split_to(head);
    let body = input.split_to(length).freeze();
    Ok(Some(match (probe, of_site) {
        (true, _) => Asked::Probe,
        (false, false) => Asked::Echo(body),
        (false, true) => Asked::Site(site_request(&head, &body)?),
    }))
}

fn site_request(head: &[u8], body: &[u8]) -> Result<Request, String> {
    let parsed = http::parse_request_head(head).map_err(|error| error.to_string())?;
    let (request, _) = parsed.ok_or("a head that is not whole")?;
    let announced = http::parse_body_crc32(head).unwrap_or(0);
    if crc32fast::hash(body) != announced {
        return Err("an upload whose checksum is wrong".into());
    }
    Ok(request)
}
