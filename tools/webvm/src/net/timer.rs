// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A timer in an event queue, because the queue's own time-outs are whole milliseconds.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Reports once, as its token, when its time is over.
#[derive(Debug)]
pub(super) struct Timer(TimerFd);

impl Timer {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let fd = timer.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Reports after `time`, and not when it would have before.
    pub(super) fn set(&self, time: Duration) -> io::Result<()> {
        // Zero would switch it off.
        let time = TimeSpec::from_duration(time.max(Duration::from_nanos(1)));
        Ok(self.0.set(Expiration::OneShot(time), TimerSetTimeFlags::empty())?)
    }
}
