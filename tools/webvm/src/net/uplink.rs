// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A port over TCP: the host's connection to the switch, which crosses the same link as the
//! migration does.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::frame::{FRAME_BYTES_MAX, Frame};
use super::port::{Attach, Full, GuestPort, PortError, PortWaker};
use super::wire::{self, Decoder, Message};

/// Bytes of the guest's frames that may wait for the connection.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// Bytes of frames that may wait for the guest: the switch's largest window and some.
const ARRIVED_BYTES_MAX: usize = 2 * super::switch::WINDOW_BYTES_MAX;
/// Bytes read from the connection at once.
const READ_BYTES: usize = 128 << 10;
/// Reads in one go, so that a call ends however fast the switch sends.
const READS_MAX: usize = 16;
/// Silence after which the kernel asks whether the switch's host still lives, in seconds; it
/// asks 3 times, 2 s apart.
const KEEPALIVE_IDLE_S: u32 = 5;

/// A connection to the switch, not yet attached: made early, so that the handover does not wait
/// for it.
#[derive(Debug)]
pub struct Uplink {
    stream: TcpStream,
    peer: SocketAddr,
    woken: Arc<EventFd>,
}

impl Uplink {
    /// Connects to the switch's address for uplinks, within `limit`.
    ///
    /// # Errors
    /// [`PortError::Connection`] if that fails.
    pub fn connect(switch: SocketAddr, limit: Duration) -> Result<Self, PortError> {
        let failed = |doing| move |error| PortError::connection(switch, doing, error);
        let stream = TcpStream::connect_timeout(&switch, limit).map_err(failed("connecting"))?;
        configure(&stream).map_err(failed("setting the connection up"))?;
        let woken =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
                .map_err(io::Error::from)
                .map_err(failed("making a waker"))?;
        Ok(Self { stream, peer: switch, woken: Arc::new(woken) })
    }

    /// Takes the guest's traffic over from whoever has it. Waits up to `limit` for the switch's
    /// consent, one round trip.
    ///
    /// # Errors
    /// [`PortError::Refused`] if the guest's memory does not fit what the switch has seen,
    /// [`PortError::NoAnswer`], or what went wrong with the connection.
    pub fn attach(self, attach: Attach, limit: Duration) -> Result<UplinkPort, PortError> {
        let mut port = UplinkPort {
            stream: self.stream,
            peer: self.peer,
            woken: self.woken,
            decoder: Decoder::default(),
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            out: BytesMut::new(),
            scratch: vec![0; READ_BYTES],
            received: attach.received,
            received_told: attach.received,
            acknowledged: attach.sent_acknowledged,
            generation: None,
            was_full: false,
            stirred: false,
            closed: None,
        };
        wire::encode(&Message::Attach(attach), &mut port.out);
        let end = Instant::now() + limit;
        loop {
            if let Some(error) = port.closed.take() {
                return Err(error);
            }
            if port.generation.is_some() {
                return Ok(port);
            }
            if Instant::now() >= end {
                return Err(PortError::NoAnswer { limit });
            }
            port.wait(end);
        }
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &2)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    Ok(())
}

/// A port over TCP.
#[derive(Debug)]
pub struct UplinkPort {
    stream: TcpStream,
    peer: SocketAddr,
    woken: Arc<EventFd>,
    decoder: Decoder,
    arrived: VecDeque<(u64, Frame)>,
    arrived_bytes: usize,
    out: BytesMut,
    scratch: Vec<u8>,
    received: u64,
    received_told: u64,
    acknowledged: u64,
    generation: Option<u64>,
    was_full: bool,
    /// Something has arrived, or there is room again, since the last wait.
    stirred: bool,
    closed: Option<PortError>,
}

impl UplinkPort {
    /// Number of this attachment at the switch, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.unwrap_or(0)
    }

    fn fail(&mut self, error: PortError) {
        tracing::debug!(peer = %self.peer, %error, "Uplink closed");
        if let Err(error) = self.stream.shutdown(Shutdown::Both) {
            tracing::trace!(%error, "Uplink was down already");
        }
        self.arrived.clear();
        self.out.clear();
        self.closed.get_or_insert(error);
        self.stirred = true;
    }

    fn tell_received(&mut self) {
        if self.received_told < self.received {
            self.received_told = self.received;
            wire::encode(&Message::Acknowledge(self.received), &mut self.out);
        }
    }

    fn flush(&mut self) {
        self.tell_received();
        while self.closed.is_none() && !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => self.fail(self.broke("sending", ErrorKind::WriteZero.into())),
                Ok(bytes) => self.out.advance(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    // The switch may have said why it hung up.
                    self.fill();
                    self.fail(self.broke("sending", error));
                }
            }
        }
        if self.was_full && self.closed.is_none() && self.out.len() < WAITING_BYTES_MAX {
            self.was_full = false;
            self.stirred = true;
        }
    }

    fn broke(&self, doing: &'static str, error: io::Error) -> PortError {
        PortError::connection(self.peer, doing, error)
    }

    fn fill(&mut self) {
        for _ in 0..READS_MAX {
            if self.closed.is_some() {
                return;
            }
            match self.stream.read(&mut self.scratch) {
                Ok(0) => self.fail(self.broke("receiving", ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => {
                    self.decoder.feed(&self.scratch[..bytes]);
                    if let Err(error) = self.decode() {
                        self.fail(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => self.fail(self.broke("receiving", error)),
            }
        }
    }

    fn decode(&mut self) -> Result<(), PortError> {
        while let Some(message) = self.decoder.next()? {
            self.stirred = true;
            match message {
                Message::Frame(number, frame) if self.generation.is_some() => {
                    self.arrived_bytes += frame.bytes.len();
                    if self.arrived_bytes > ARRIVED_BYTES_MAX + FRAME_BYTES_MAX {
                        let error = io::Error::other("more than the largest window arrived");
                        return Err(self.broke("receiving", error));
                    }
                    self.arrived.push_back((number, frame));
                }
                Message::Acknowledge(seen) if self.generation.is_some() => {
                    self.acknowledged = self.acknowledged.max(seen);
                }
                Message::Attached { acknowledged, generation } if self.generation.is_none() => {
                    self.acknowledged = self.acknowledged.max(acknowledged);
                    self.generation = Some(generation);
                }
                Message::Refused(_) if self.generation.is_some() => {
                    return Err(PortError::Superseded);
                }
                Message::Refused(reason) => return Err(PortError::Refused { reason }),
                _ => return Err(wire::WireError::Unexpected.into()),
            }
        }
        Ok(())
    }

    /// Sleeps until the connection or a waker wants something, or for `time`.
    fn sleep(&mut self, time: Duration) {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.out.is_empty());
        let mut fds = [
            PollFd::new(self.woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.as_fd(), wanted),
        ];
        // Without a connection there are only wakers and the time.
        let count = if self.closed.is_some() { 1 } else { 2 };
        let polled = ppoll(&mut fds[..count], Some(TimeSpec::from_duration(time)), None);
        if polled.is_ok() && fds[0].any().unwrap_or(false) {
            // Nobody else reads it; should it be empty, the wake was spurious.
            self.woken.read().ok();
            self.stirred = true;
        }
    }
}

impl GuestPort for UplinkPort {
    fn receive(&mut self) -> Option<(u64, Frame)> {
        if self.arrived.is_empty() {
            self.fill();
        }
        let (number, frame) = self.arrived.pop_front()?;
        self.arrived_bytes -= frame.bytes.len();
        Some((number, frame))
    }

    fn send(&mut self, number: u64, frame: Frame) -> Result<(), Full> {
        if self.out.len() >= WAITING_BYTES_MAX {
            self.flush();
        }
        if self.closed.is_some() || self.out.len() >= WAITING_BYTES_MAX {
            self.was_full = true;
            return Err(Full);
        }
        wire::encode(&Message::Frame(number, frame), &mut self.out);
        self.flush();
        Ok(())
    }

    fn acknowledge(&mut self, received: u64) {
        self.received = self.received.max(received);
    }

    fn acknowledged(&mut self) -> u64 {
        self.fill();
        self.acknowledged
    }

    fn wait(&mut self, until: Instant) {
        loop {
            self.flush();
            self.fill();
            if std::mem::take(&mut self.stirred) {
                return;
            }
            let time = until.saturating_duration_since(Instant::now());
            if time.is_zero() {
                return;
            }
            self.sleep(time);
        }
    }

    fn waker(&self) -> PortWaker {
        let woken = Arc::clone(&self.woken);
        PortWaker::new(move || {
            // It fails only when the counter is full, and then the port is awake.
            woken.write(1).ok();
        })
    }

    fn closed(&self) -> Option<PortError> {
        self.closed.clone()
    }
}
