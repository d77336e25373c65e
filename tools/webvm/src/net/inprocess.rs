// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A port for a guest in the switch's own process.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::frame::Frame;
use super::port::{Full, GuestPort, PortError, PortWaker};

/// Bytes of the guest's frames that may wait for the switch.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Frames of the guest's that may wait for the switch.
const WAITING_FRAMES_MAX: usize = 1024;

/// What both ends share.
pub(super) struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the switch.
    tell: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct State {
    to_guest: VecDeque<(u64, Frame)>,
    from_guest: VecDeque<(u64, Frame)>,
    from_guest_bytes: usize,
    /// The guest has all up to this.
    received: u64,
    /// The switch has all up to this.
    acknowledged: u64,
    /// Something has changed for the guest since its last wait.
    stirred: bool,
    /// The switch has been told since it last looked.
    told: bool,
    was_full: bool,
    closed: Option<PortError>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Pipe {
    pub(super) fn new(tell: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { state, changed, tell: Box::new(tell) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stir(&self, state: &mut State) {
        state.stirred = true;
        self.changed.notify_all();
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let told = std::mem::replace(&mut state.told, true);
        drop(state);
        if !told {
            (self.tell)();
        }
    }

    /// The switch begins to look: what happens from now on it must be told again. Returns how
    /// far the guest has acknowledged.
    pub(super) fn look(&self) -> u64 {
        let mut state = self.state();
        state.told = false;
        state.received
    }

    /// A frame for the guest. The switch bounds how many are on their way.
    pub(super) fn deliver(&self, number: u64, frame: Frame) {
        let mut state = self.state();
        if state.closed.is_none() {
            state.to_guest.push_back((number, frame));
            self.stir(&mut state);
        }
    }

    /// The next frame of the guest's.
    pub(super) fn take(&self) -> Option<(u64, Frame)> {
        let mut state = self.state();
        let (number, frame) = state.from_guest.pop_front()?;
        state.from_guest_bytes -= frame.bytes.len();
        if std::mem::take(&mut state.was_full) {
            self.stir(&mut state);
        }
        Some((number, frame))
    }

    /// The switch has the guest's frames up to `seen`.
    pub(super) fn acknowledge(&self, seen: u64) {
        let mut state = self.state();
        if state.acknowledged < seen {
            state.acknowledged = seen;
            self.stir(&mut state);
        }
    }

    /// Nothing goes through any more, in either direction.
    pub(super) fn close(&self, why: PortError) {
        let mut state = self.state();
        state.to_guest.clear();
        state.from_guest.clear();
        state.from_guest_bytes = 0;
        state.closed.get_or_insert(why);
        self.stir(&mut state);
    }
}

/// A port for a guest in the switch's own process; made by [`Switch::attach`](super::Switch).
#[derive(Debug)]
pub struct InProcessPort {
    pipe: Arc<Pipe>,
}

impl InProcessPort {
    pub(super) fn new(pipe: Arc<Pipe>) -> Self {
        Self { pipe }
    }
}

impl GuestPort for InProcessPort {
    fn receive(&mut self) -> Option<(u64, Frame)> {
        self.pipe.state().to_guest.pop_front()
    }

    fn send(&mut self, number: u64, frame: Frame) -> Result<(), Full> {
        let mut state = self.pipe.state();
        let full = state.from_guest_bytes >= WAITING_BYTES_MAX
            || state.from_guest.len() >= WAITING_FRAMES_MAX;
        if full || state.closed.is_some() {
            state.was_full = true;
            return Err(Full);
        }
        state.from_guest_bytes += frame.bytes.len();
        state.from_guest.push_back((number, frame));
        self.pipe.tell(state);
        Ok(())
    }

    fn acknowledge(&mut self, received: u64) {
        let mut state = self.pipe.state();
        if state.received < received {
            state.received = received;
            self.pipe.tell(state);
        }
    }

    fn acknowledged(&mut self) -> u64 {
        self.pipe.state().acknowledged
    }

    fn wait(&mut self, until: Instant) {
        let mut state = self.pipe.state();
        while !state.stirred {
            let time = until.saturating_duration_since(Instant::now());
            if time.is_zero() {
                break;
            }
            let waited = self.pipe.changed.wait_timeout(state, time);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stirred = false;
    }

    fn waker(&self) -> PortWaker {
        let pipe = Arc::clone(&self.pipe);
        PortWaker::new(move || pipe.stir(&mut pipe.state()))
    }

    fn closed(&self) -> Option<PortError> {
        self.pipe.state().closed.clone()
    }
}

impl Drop for InProcessPort {
    fn drop(&mut self) {
        let state = self.pipe.state();
        self.pipe.tell(state);
    }
}
