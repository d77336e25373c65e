// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! TCP. Send and receive buffers are left to the kernel's autotuning, which setting them would
//! switch off; only on a capped connection what waits unsent is bounded.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{
    IpAddr, Shutdown, SocketAddr, TcpListener as StdListener, TcpStream, ToSocketAddrs,
};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, sendmsg};

use super::{Connection, Connector, Listener};
use crate::limits;
use crate::sys::socket::{self, Liveness};

/// What a TCP connection is set up with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Silence after which the kernel probes the other end. Whole seconds.
    pub keepalive_idle: Duration,
    /// Time between probes. Whole seconds.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection is broken off.
    pub keepalive_count: u32,
    /// Longest time that sent bytes may go without acknowledgement, 0 for the system's choice.
    pub user_timeout: Duration,
}

impl Default for TcpOptions {
    /// A host that vanished is noticed after 5 + 3 * 2 s when idle, after 15 s when sending.
    fn default() -> Self {
        Self {
            keepalive_idle: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2),
            keepalive_count: 3,
            user_timeout: Duration::from_secs(15),
        }
    }
}

/// Whether an address can be reached from this host only.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// One TCP connection.
pub struct TcpConnection {
    stream: Arc<TcpStream>,
    peer: SocketAddr,
}

impl TcpConnection {
    /// Takes over a connected stream and sets it up.
    ///
    /// # Errors
    /// If the system refuses an option, or if the stream is not connected any more.
    pub fn new(stream: TcpStream, options: &TcpOptions) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        let liveness = Liveness {
            idle: options.keepalive_idle,
            interval: options.keepalive_interval,
            count: options.keepalive_count,
            user_timeout: options.user_timeout,
        };
        socket::set_liveness(&stream, liveness)?;
        Ok(Self { stream: Arc::new(stream), peer })
    }
}

impl fmt::Debug for TcpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection for TcpConnection {
    fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Half(Arc::clone(&self.stream))))
    }

    fn writer(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(Half(Arc::clone(&self.stream))))
    }

    fn set_io_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // The kernel takes 0 for ever, which is the opposite of what a caller with no time means.
        let timeout = timeout.map(|time| time.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }

    fn set_send_rate(&self, bytes_per_s: Option<u64>) -> io::Result<()> {
        // A rate of 0 would stop the connection; 1 is as good as that and can be lifted.
        let rate = bytes_per_s.map_or(u64::MAX, |rate| rate.max(1));
        socket::set_max_pacing_rate(&*self.stream, rate)?;
        // Without it the kernel takes megabytes ahead of the cap, and a round that is cut drains
        // them first: at 50 MB/s that made slices of 50 ms last 125 ms.
        let unsent = bytes_per_s.map_or(u32::MAX, limits::unsent_bytes_max);
        socket::set_unsent_max(&*self.stream, unsent)
    }

    fn shutdown(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Both) {
            tracing::trace!(peer = %self.peer, %error, "Connection was down already");
        }
    }

    fn reset(&self) {
        if let Err(error) = socket::reset(&*self.stream) {
            tracing::debug!(peer = %self.peer, %error, "Could not reset a connection");
        }
        self.shutdown();
    }

    fn peer(&self) -> String {
        self.peer.to_string()
    }
}

/// Either half; they share one descriptor.
struct Half(Arc<TcpStream>);

impl Read for Half {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self.0).read_vectored(into)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    /// As `writev`, but never raises SIGPIPE: a host program may have given that its default
    /// action back.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL;
        Ok(sendmsg::<()>(self.0.as_raw_fd(), slices, &[], flags, None)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to one destination by name or address.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    target: String,
    options: TcpOptions,
}

impl TcpConnector {
    /// For a target `host:port`. The name is looked up at every connection.
    #[must_use]
    pub fn new(target: impl Into<String>, options: TcpOptions) -> Self {
        Self { target: target.into(), options }
    }
}

impl Connector for TcpConnector {
    /// As the trait says; the time is shared out evenly over the addresses that the name has.
    fn connect(&mut self, timeout: Duration) -> io::Result<Box<dyn Connection>> {
        let addresses: Vec<_> = self.target.to_socket_addrs()?.take(8).collect();
        let share = timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        let share = share.max(Duration::from_millis(1));
        let mut last = io::Error::new(io::ErrorKind::NotFound, "The name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, share).and_then(other_than_itself) {
                Ok(stream) => return Ok(Box::new(TcpConnection::new(stream, &self.options)?)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn target(&self) -> String {
        self.target.clone()
    }
}

/// Refuses a stream that is its own peer. Where nobody listens on a port that the system also gives
/// to clients, it may give a client of that very port the port itself; TCP then joins both ends.
pub(super) fn other_than_itself(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? != stream.peer_addr()? {
        return Ok(stream);
    }
    // Without this the port would stay taken for a minute, and who is to listen there could not.
    socket::reset(&stream)?;
    Err(Errno::ECONNREFUSED.into())
}

/// Listens on one address.
#[derive(Debug)]
pub struct TcpListener {
    listener: StdListener,
    local: SocketAddr,
    options: TcpOptions,
}

impl TcpListener {
    /// Binds and listens. Whether an address beyond loopback is wise without TLS is for the
    /// caller to decide; see [`is_loopback`].
    ///
    /// # Errors
    /// If the address cannot be looked up or bound.
    pub fn bind(address: impl ToSocketAddrs, options: TcpOptions) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local, options })
    }

    /// Where it listens; the port is the one that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Listener for TcpListener {
    fn accept(&mut self, timeout: Duration) -> io::Result<Option<Box<dyn Connection>>> {
        let millis = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, millis) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match self.listener.accept() {
            // Gone again between its arrival and here: no reason to stop listening.
            Ok((stream, _)) => Ok(TcpConnection::new(stream, &self.options)
                .ok()
                .map(|connection| Box::new(connection) as Box<dyn Connection>)),
            Err(error) if is_passing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn local(&self) -> String {
        self.local.to_string()
    }
}

/// Errors of one connection that accept(2) reports, and no connection at all.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::WouldBlock | Kind::Interrupted | Kind::ConnectionAborted | Kind::ConnectionReset
    ) || error.raw_os_error() == Some(Errno::EPROTO as i32)
}
