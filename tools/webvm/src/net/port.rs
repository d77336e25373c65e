// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's side of the network: what its host offers to its network card.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frame::Frame;
use super::link::LinkError;
use super::wire::WireError;

/// How far the guest's memory has come, by which the switch knows what to send again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a message between host and switch")]
pub struct Attach {
    /// Number of the last frame that the guest took in; 0 for a guest that never ran.
    pub received: u64,
    /// Number of the last frame of the guest's of which it knows that the switch has it.
    pub sent_acknowledged: u64,
}

/// The port takes no more frames now; after [`GuestPort::wait`] it may.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::exhaustive_structs, reason = "says all that there is to say")]
pub struct Full;

/// The network card's way to the switch, on the host that runs the guest. One thread at a time
/// uses it, and none of its calls blocks but [`wait`](Self::wait).
///
/// After an attach the guest sends what it has kept and [`acknowledged`](Self::acknowledged) does
/// not cover, in order and without gaps. It acknowledges a frame when the frame lies in its
/// memory, and drops one of its own from its memory when that is acknowledged. What the guest
/// has not acknowledged arrives again after the next attach.
pub trait GuestPort: Send + fmt::Debug {
    /// The next frame for the guest and its number; numbers have no gaps.
    fn receive(&mut self) -> Option<(u64, Frame)>;

    /// Takes a frame of the guest's. Numbers start at 1 and have no gaps; after an attach
    /// they may start again anywhere up to one past the acknowledged one.
    ///
    /// # Errors
    /// [`Full`] if the port cannot take it now, or never again because it is closed.
    fn send(&mut self, number: u64, frame: Frame) -> Result<(), Full>;

    /// Says that the guest has all frames up to `received`.
    fn acknowledge(&mut self, received: u64);

    /// The number up to which the switch has the guest's frames.
    fn acknowledged(&mut self) -> u64;

    /// Sleeps until something arrives (a frame or an acknowledgement), until the port can take
    /// frames again after it was full, until somebody wakes it, or until the time has come.
    fn wait(&mut self, until: Instant);

    /// A handle by which another thread ends a [`wait`](Self::wait).
    fn waker(&self) -> PortWaker;

    /// Why the port is closed, if it is: it delivers nothing then, and takes nothing.
    fn closed(&self) -> Option<PortError>;
}

/// Wakes a port's [`wait`](GuestPort::wait) from another thread. A wake that comes while nobody
/// waits ends the next wait.
#[derive(Clone)]
pub struct PortWaker(Arc<dyn Fn() + Send + Sync>);

impl PortWaker {
    pub(super) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes it.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for PortWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortWaker").finish_non_exhaustive()
    }
}

/// Why a port is not, or no longer, attached.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// A newer attachment has taken its place.
    #[error("Port closed: the guest has been attached anew, perhaps by another host")]
    Superseded,
    /// The switch is gone.
    #[error("Port closed: the switch has ended")]
    SwitchEnded,
    /// The switch does not accept the attachment.
    #[error("The switch refused the port: {reason}")]
    Refused {
        /// The switch's words.
        reason: String,
    },
    /// One side broke the numbering.
    #[error("Port closed: the frames are out of order")]
    Link(#[from] LinkError),
    /// The switch sent nonsense.
    #[error("Port closed: the switch sent something that is no message")]
    Wire(#[from] WireError),
    /// The connection to the switch broke or could not be made.
    #[error("No connection to the switch at {peer} ({doing})")]
    Connection {
        /// Where the switch is.
        peer: String,
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
    /// The switch did not answer.
    #[error("The switch did not answer within {} ms; is it overloaded?", limit.as_millis())]
    NoAnswer {
        /// How long it was waited for.
        limit: Duration,
    },
}

impl PortError {
    pub(super) fn connection(
        peer: impl fmt::Display,
        doing: &'static str,
        source: io::Error,
    ) -> Self {
        Self::Connection { peer: peer.to_string(), doing, source: Arc::new(source) }
    }
}
