// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The modelled link: one queue that all channels share, with a rate that may change over time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sim::rng::Rng;
use crate::units::Tick;

/// The modelled link.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct Link {
    /// Bytes per second over all channels together.
    pub bandwidth_bytes_per_s: f64,
    /// One-way latency.
    pub latency: Duration,
}

impl Link {
    /// Bytes per second that are left for the migration beside `service_bytes_per_s` of the
    /// guest's own traffic: what that leaves over, and never less than 5 % of the whole.
    #[must_use]
    pub fn beside(&self, service_bytes_per_s: f64) -> f64 {
        let whole = self.bandwidth_bytes_per_s;
        (whole - service_bytes_per_s.max(0.0)).max(whole * LEAST_SHARE)
    }
}

/// Share of the link that the guest's own traffic never takes.
const LEAST_SHARE: f64 = 0.05;
/// A link that is down for a while carries this many bytes per second, so that a plan whose link
/// never comes back ends by the sessions' own time-outs.
const LEAST_BYTES_PER_S: f64 = 1.0;
/// Below this a single frame may take longer than a session waits for progress.
const OUTAGE_BYTES_PER_S: f64 = 65_536.0;

/// A drop or a jump of the link's rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct LinkChange {
    /// When, counted from the start of the migration.
    pub after: Duration,
    /// Bytes per second from then on; 0 is an outage.
    pub bandwidth_bytes_per_s: f64,
}

/// What else a link does.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LinkHabits {
    /// Changes of its rate, by time.
    pub changes: Vec<LinkChange>,
    /// Most time by which an item comes later than the latency says; each one's share of it is
    /// drawn evenly. Items of one channel stay in order.
    pub jitter: Duration,
    /// Decides what is drawn.
    pub seed: u64,
    /// Most bytes per second of a single channel, as one TCP connection may reach; `None` for no
    /// limit.
    pub channel_bytes_per_s: Option<f64>,
}

/// What an item gets of the link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// What the guest's own traffic takes.
    pub(super) service_bytes_per_s: f64,
    /// What the source limits itself to.
    pub(super) cap_bytes_per_s: Option<u64>,
}

impl Share {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn of(self, link: Link) -> f64 {
        let left = link.beside(self.service_bytes_per_s);
        self.cap_bytes_per_s.map_or(left, |cap| left.min(cap as f64)).max(LEAST_BYTES_PER_S)
    }
}

/// The link in use.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) link: Link,
    /// Changes still to come, the next one last.
    changes: Vec<(Tick, f64)>,
    outage: bool,
    jitter: Duration,
    rng: Rng,
    channel_bytes_per_s: Option<f64>,
    /// When everything that was handed over has left.
    free: Tick,
    channel_free: Vec<Tick>,
    /// Newest arrival on each channel, and on the way back.
    arrived: Vec<Tick>,
    arrived_back: Tick,
}

impl Wire {
    pub(super) fn new(now: Tick, link: Link, habits: &LinkHabits, channels: usize) -> Self {
        let changes = habits.changes.iter().map(|c| (now + c.after, c.bandwidth_bytes_per_s));
        let mut changes: Vec<(Tick, f64)> = changes.collect();
        // Stable: of two changes at one time the later in the list is in force.
        changes.sort_by_key(|(at, _)| *at);
        changes.reverse();
        Self {
            link,
            outage: changes.iter().any(|(_, rate)| *rate < OUTAGE_BYTES_PER_S),
            changes,
            jitter: habits.jitter,
            rng: Rng::new(habits.seed ^ 0x6a69_7474_6572),
            channel_bytes_per_s: habits.channel_bytes_per_s,
            free: now,
            channel_free: vec![now; channels],
            arrived: vec![now; channels],
            arrived_back: now,
        }
    }

    /// Whether it is down at some time, or so slow that sessions may give up waiting.
    pub(super) fn has_outage(&self) -> bool {
        self.outage
    }

    /// When everything that was handed over has left.
    pub(super) fn free(&self) -> Tick {
        self.free
    }

    /// Takes an item of `bytes` that is ready at `ready`; says when it has left and arrives.
    pub(super) fn send(
        &mut self,
        ready: Tick,
        channel: usize,
        bytes: u64,
        share: Share,
    ) -> (Tick, Tick) {
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let bytes = bytes as f64;
        let begin = ready.max(self.free).max(self.channel_free[channel]);
        self.free = self.leave(begin, bytes, share);
        let mut gone = self.free;
        if let Some(most) = self.channel_bytes_per_s {
            gone = gone.max(begin + seconds(bytes / most.max(LEAST_BYTES_PER_S)));
            self.channel_free[channel] = gone;
        }
        let arrives = (gone + self.trip()).max(self.arrived[channel]);
        self.arrived[channel] = arrives;
        (gone, arrives)
    }

    /// When a message that leaves the destination at `leaves` is back.
    pub(super) fn send_back(&mut self, leaves: Tick) -> Tick {
        self.arrived_back = (leaves + self.trip()).max(self.arrived_back);
        self.arrived_back
    }

    fn trip(&mut self) -> Duration {
        if self.jitter.is_zero() {
            return self.link.latency;
        }
        self.link.latency + self.jitter.mul_f64(self.rng.unit())
    }

    /// When the last of `bytes` has left, the first of them leaving at `from`.
    fn leave(&mut self, from: Tick, mut bytes: f64, share: Share) -> Tick {
        let mut at = from;
        loop {
            while let Some((_, rate)) = self.changes.pop_if(|(change, _)| *change <= at) {
                self.link.bandwidth_bytes_per_s = rate;
            }
            let rate = share.of(self.link);
            let end = at + seconds(bytes / rate);
            match self.changes.last() {
                Some((change, _)) if *change < end => {
                    bytes = (bytes - rate * change.since(at).as_secs_f64()).max(0.0);
                    at = *change;
                }
                _ => return end,
            }
        }
    }
}

/// A time of that many seconds, at most a century.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn wire(habits: &LinkHabits) -> Wire {
        let link = Link { bandwidth_bytes_per_s: 1e6, latency: ms(1) };
        Wire::new(Tick::ZERO, link, habits, 2)
    }

    fn change(after_ms: u64, bandwidth_bytes_per_s: f64) -> LinkChange {
        LinkChange { after: ms(after_ms), bandwidth_bytes_per_s }
    }

    #[test]
    fn changes_take_hold_in_the_middle_of_an_item() {
        // 10 kB before the drop, nothing for 20 ms, the other 90 kB at twice the rate.
        let changes = vec![change(30, 2e6), change(10, 0.0)];
        let mut wire = wire(&LinkHabits { changes, ..LinkHabits::default() });
        let (gone, arrives) = wire.send(Tick::ZERO, 0, 100_000, Share::default());
        let expected = Tick::ZERO + ms(75);
        assert!(expected.since(gone) < Duration::from_micros(20), "{gone:?}");
        assert!(gone <= expected && arrives == gone + ms(1), "{gone:?}");
        // After the last change the rate stays.
        let (next, _) = wire.send(gone, 1, 20_000, Share::default());
        assert_eq!(next.since(gone), ms(10));
        let share = Share { service_bytes_per_s: 5e5, cap_bytes_per_s: Some(1_000_000) };
        assert_eq!(wire.send(next, 1, 20_000, share).0.since(next), ms(20));
    }

    #[test]
    fn a_channel_has_a_rate_of_its_own_and_others_fill_the_link() {
        let habits = LinkHabits { channel_bytes_per_s: Some(5e5), ..LinkHabits::default() };
        let mut wire = wire(&habits);
        let (first, _) = wire.send(Tick::ZERO, 0, 1000, Share::default());
        let (other, _) = wire.send(Tick::ZERO, 1, 1000, Share::default());
        let (again, _) = wire.send(Tick::ZERO, 0, 1000, Share::default());
        assert_eq!([first, other, again], [2, 3, 4].map(|at| Tick::ZERO + ms(at)));
    }

    #[test]
    fn jitter_delays_and_keeps_the_order_of_a_channel() {
        let habits = LinkHabits { jitter: ms(50), seed: 3, ..LinkHabits::default() };
        let (mut wire, mut same) = (wire(&habits), wire(&habits));
        let mut last = Tick::ZERO;
        let mut delays = Vec::new();
        for _ in 0..200 {
            let (gone, arrives) = wire.send(Tick::ZERO, 0, 1000, Share::default());
            assert_eq!(same.send(Tick::ZERO, 0, 1000, Share::default()), (gone, arrives));
            assert!(arrives >= last && arrives >= gone + ms(1));
            assert!(arrives <= gone + ms(51));
            delays.push(arrives.since(gone));
            last = arrives;
        }
        delays.sort_unstable();
        delays.dedup();
        assert!(delays.len() > 20, "it varies");
    }
}
