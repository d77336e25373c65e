// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One client's connection, as the switch sees it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use bytes::{Buf, Bytes};
use mio::net::TcpStream;

/// A connection, until both the client and the guest are done with it.
#[derive(Debug)]
pub(super) struct Client {
    /// None once the connection is down.
    stream: Option<TcpStream>,
    answers: VecDeque<Bytes>,
    answer_bytes: usize,
    /// What the guest has not acknowledged of the client's counts.
    pub(super) kept_bytes: usize,
    /// The guest has been told that nothing more comes from the client.
    pub(super) client_closed: bool,
    /// The guest has said that nothing more comes from it.
    guest_closed: bool,
    /// Everything of the guest's has been sent, and the end as well.
    finished: bool,
    /// Last time when the client took something, or when nothing waited for it.
    moved: Instant,
}

/// What reading a client gave.
#[derive(Debug)]
pub(super) enum Intake {
    /// Bytes.
    Bytes(Bytes),
    /// Nothing now.
    Later,
    /// Nothing more, ever.
    End,
}

impl Client {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            stream: Some(stream),
            answers: VecDeque::new(),
            answer_bytes: 0,
            kept_bytes: 0,
            client_closed: false,
            guest_closed: false,
            finished: false,
            moved: now,
        }
    }

    pub(super) fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Reads once.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> Intake {
        let Some(stream) = &mut self.stream else { return Intake::End };
        loop {
            match stream.read(scratch) {
                Ok(0) => return Intake::End,
                Ok(bytes) => return Intake::Bytes(Bytes::copy_from_slice(&scratch[..bytes])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Intake::Later,
                Err(error) => {
                    tracing::debug!(%error, "A client's connection broke");
                    self.cut();
                    return Intake::End;
                }
            }
        }
    }

    /// Bytes of the guest's for the client. Returns whether they can still reach it.
    pub(super) fn answer(&mut self, bytes: Bytes, now: Instant) -> bool {
        if self.stream.is_none() || self.guest_closed {
            return false;
        }
        if bytes.is_empty() {
            return true;
        }
        if self.answers.is_empty() {
            self.moved = now;
        }
        self.answer_bytes += bytes.len();
        self.answers.push_back(bytes);
        true
    }

    /// The guest will send nothing more.
    pub(super) fn close(&mut self) {
        self.guest_closed = true;
    }

    /// Sends what the connection takes.
    pub(super) fn flush(&mut self, now: Instant) {
        let Some(stream) = &mut self.stream else { return };
        while let Some(front) = self.answers.front_mut() {
            match stream.write(front) {
                Ok(bytes) if bytes > 0 => {
                    self.moved = now;
                    self.answer_bytes -= bytes;
                    front.advance(bytes);
                    if front.is_empty() {
                        self.answers.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => return self.cut(),
            }
        }
        if self.guest_closed && !self.finished {
            self.finished = true;
            self.moved = now;
            if stream.shutdown(Shutdown::Write).is_err() {
                self.cut();
            }
        }
    }

    /// The connection is down: what waits for the client cannot reach it any more.
    pub(super) fn cut(&mut self) {
        self.stream = None;
        self.answers.clear();
        self.answer_bytes = 0;
    }

    pub(super) fn is_cut(&self) -> bool {
        self.stream.is_none()
    }

    /// Since when the client has owed a move: taking what waits for it, or closing its side.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        let owes = !self.answers.is_empty() || (self.finished && !self.client_closed);
        (owes && self.stream.is_some()).then_some(self.moved)
    }

    /// Whether the guest has closed the connection.
    pub(super) fn guest_closed(&self) -> bool {
        self.guest_closed
    }

    /// Whether nothing can happen on the connection any more.
    pub(super) fn is_over(&self) -> bool {
        self.client_closed && self.guest_closed && (self.finished || self.stream.is_none())
    }
}
