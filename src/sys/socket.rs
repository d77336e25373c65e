// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Socket options and calls that neither the standard library nor nix has in a safe form.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

/// How a TCP connection notices that the other end is gone. The kernel counts keepalive in
/// seconds and the user timeout in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Liveness {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) count: u32,
    pub(crate) user_timeout: Duration,
}

/// Sets keepalive and the user timeout: tcp(7), `TCP_KEEPIDLE` and following.
pub(crate) fn set_liveness(socket: &impl AsFd, liveness: Liveness) -> io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
    let millis = u32::try_from(liveness.user_timeout.as_millis()).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &seconds(liveness.idle))?;
    setsockopt(socket, sockopt::TcpKeepInterval, &seconds(liveness.interval))?;
    setsockopt(socket, sockopt::TcpKeepCount, &liveness.count)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &millis)?;
    Ok(())
}

/// Caps the rate at which the kernel sends, by `SO_MAX_PACING_RATE` (socket(7)); needs no
/// privilege and no fq queue, as TCP paces by itself where there is none. `u64::MAX` lifts the cap.
pub(crate) fn set_max_pacing_rate(socket: &impl AsFd, bytes_per_s: u64) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the descriptor is borrowed and thus open; the pointer is to a live u64 of the given
    // length, which the kernel (4.20 and later) reads as an unsigned long and does not keep.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_s).cast(),
            length,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Bounds what the kernel takes from a writer ahead of what it has sent, by `TCP_NOTSENT_LOWAT`
/// (tcp(7)); a writer that would go past it waits. `u32::MAX` lifts the bound.
pub(crate) fn set_unsent_max(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the descriptor is borrowed and thus open; the pointer is to a live u32 of the given
    // length, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Breaks a TCP connection off with a reset (RST) at once, whoever else holds the descriptor.
/// Connecting to the address family `AF_UNSPEC` does that: connect(2).
pub(crate) fn reset(socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: sockaddr is plain old data for which all zeros is a valid value.
    let mut address: libc::sockaddr = unsafe { mem::zeroed() };
    address.sa_family = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or(0);
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).unwrap_or(16);
    // SAFETY: the descriptor is borrowed and thus open; the pointer is to a live sockaddr of the
    // given length, which the kernel only reads.
    let result = unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const address, length) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// The cap that [`set_max_pacing_rate`] set.
#[cfg(test)]
pub(crate) fn max_pacing_rate(socket: &impl AsFd) -> io::Result<u64> {
    let mut rate = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the descriptor is borrowed and thus open; both pointers are to live locals, and the
    // kernel writes at most `length` bytes, the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw mut rate).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).map(|_| rate).map_err(io::Error::from)
}
