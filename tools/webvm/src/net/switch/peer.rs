// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host's uplink, as the switch sees it.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use mio::net::TcpStream;

use crate::net::port::PortError;
use crate::net::wire::{self, Decoder, Message};

/// Bytes that may wait for the connection before no more frames are given to it.
const OUT_BYTES_MAX: usize = 256 << 10;
const READ_BYTES: usize = 128 << 10;

/// A connection to a host.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    out: BytesMut,
    scratch: Vec<u8>,
    /// The socket may have bytes.
    pub(super) readable: bool,
    /// When it connected.
    pub(super) since: Instant,
}

impl Peer {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        let (decoder, out) = (Decoder::default(), BytesMut::new());
        Self { stream, decoder, out, scratch: vec![0; READ_BYTES], readable: true, since: now }
    }

    /// The next message; none if there is no complete one.
    pub(super) fn next(&mut self) -> Result<Option<Message>, PortError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            if !self.readable {
                return Ok(None);
            }
            match self.stream.read(&mut self.scratch) {
                Ok(0) => return Err(self.broke(ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => self.decoder.feed(&self.scratch[..bytes]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(self.broke(error)),
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    pub(super) fn push(&mut self, message: &Message) {
        wire::encode(message, &mut self.out);
    }

    /// Sends what the connection takes.
    pub(super) fn flush(&mut self) -> Result<(), PortError> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err(self.broke(ErrorKind::WriteZero.into())),
                Ok(bytes) => self.out.advance(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.broke(error)),
            }
        }
        Ok(())
    }

    /// Says why the connection ends, if the other side still listens.
    pub(super) fn part(mut self, reason: String) {
        self.push(&Message::Refused(reason));
        if let Err(error) = self.flush() {
            tracing::trace!(%error, "A host left before it was told");
        }
    }

    fn broke(&self, source: io::Error) -> PortError {
        match self.stream.peer_addr() {
            Ok(peer) => PortError::connection(peer, "as an uplink", source),
            Err(_) => PortError::connection("a host", "as an uplink", source),
        }
    }
}
