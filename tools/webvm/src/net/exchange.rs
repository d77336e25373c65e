// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client's connection in an event loop: bytes that wait to go, bytes that have come.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;
/// Reads in one go, so that one connection does not keep the others waiting.
const READS_MAX: usize = 16;

/// One connection, from the moment of connecting.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
    out: BytesMut,
    pub(super) input: BytesMut,
    connected: bool,
}

/// How a go at reading ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// Everything that is there has been read.
    All,
    /// There may be more, and no event will say so.
    Some,
    /// The other side has closed.
    End,
}

impl Exchange {
    /// Begins to connect.
    pub(super) fn connect(
        address: SocketAddr,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        stream.set_nodelay(true)?;
        let (out, input) = (BytesMut::new(), BytesMut::new());
        Ok(Self { stream, out, input, connected: false })
    }

    /// Where bytes to send are appended; [`flush`](Self::flush) sends them.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends what the connection takes. Returns whether nothing waits any more.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.out.advance(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads what has come into [`input`](Self::input).
    pub(super) fn fill(&mut self, scratch: &mut Scratch) -> io::Result<Filled> {
        let mut input = std::mem::take(&mut self.input);
        let filled = self.take(scratch, |bytes| {
            input.extend_from_slice(bytes);
            Ok(())
        });
        self.input = input;
        filled
    }

    /// Reads what has come and hands it on; what `sink` does not accept ends the reading.
    pub(super) fn take(
        &mut self,
        scratch: &mut Scratch,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Filled> {
        if !self.connected {
            return Ok(Filled::All);
        }
        for _ in 0..READS_MAX {
            match self.stream.read(&mut scratch.0) {
                Ok(0) => return Ok(Filled::End),
                Ok(bytes) => sink(&scratch.0[..bytes])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Filled::All),
                Err(error) => return Err(error),
            }
        }
        Ok(Filled::Some)
    }
}

/// Where reads go first; one serves all connections of a loop.
#[derive(Debug)]
pub(super) struct Scratch(Box<[u8]>);

impl Default for Scratch {
    fn default() -> Self {
        Self(vec![0; READ_BYTES].into())
    }
}
