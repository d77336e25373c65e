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

    /// How long so many bytes take at this rate.
    pub(super) fn time_for(self, bytes: u64) -> Duration {
        time(bytes, self.bandwidth_bytes_per_s)
    }
}

/// What a socket takes at a time.
const PACKET_BYTES: f64 = 65_536.0;
/// Rates that differ by less than this part are the same.
const SAME_RATE: f64 = 1e-9;
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
    /// limit. Where the link carries that of all channels at once, they do not wait for each other.
    pub channel_bytes_per_s: Option<f64>,
    /// Bytes of a channel that wait unsent in its socket, so that the sender reads the next pages
    /// before all that it has written have left; 0 for none. As Linux does it
    /// (`TCP_NOTSENT_LOWAT`): a socket takes packets of 64 KiB while it holds less than that, and
    /// wakes a sender that waits when it holds less than half. The engine's own cap sets
    /// [`unsent_bytes_max`](crate::limits::unsent_bytes_max).
    pub held_bytes: u64,
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
    /// Changes of its rate, by time.
    changes: Vec<(Tick, f64)>,
    outage: bool,
    jitter: Duration,
    rng: Rng,
    channel_bytes_per_s: Option<f64>,
    held_bytes: u64,
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
        Self {
            link,
            outage: changes.iter().any(|(_, rate)| *rate < OUTAGE_BYTES_PER_S),
            changes,
            jitter: habits.jitter,
            rng: Rng::new(habits.seed ^ 0x6a69_7474_6572),
            channel_bytes_per_s: habits.channel_bytes_per_s,
            held_bytes: habits.held_bytes,
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

    /// Takes an item of `bytes` that is ready at `ready`; says when its sender has done with it,
    /// and when it arrives.
    pub(super) fn send(
        &mut self,
        ready: Tick,
        channel: usize,
        bytes: u64,
        share: Share,
    ) -> (Tick, Tick) {
        let most = self.channel_most(share);
        let unsent = self.channel_free[channel].since(ready);
        let first = ready + unsent;
        let gone = match most {
            Some(most) if self.carries_all(most, first, share) => {
                let gone = self.leave(first, bytes, share, most);
                self.free = self.free.max(gone);
                gone
            }
            _ => {
                let begin = first.max(self.free);
                self.free = self.leave(begin, bytes, share, f64::INFINITY);
                most.map_or(self.free, |most| self.free.max(begin + time(bytes, most)))
            }
        };
        self.channel_free[channel] = gone;
        let arrives = (gone + self.trip()).max(self.arrived[channel]);
        self.arrived[channel] = arrives;
        if self.held_bytes == 0 {
            return (gone, arrives);
        }
        let rate = share.of(self.at(gone)).min(most.unwrap_or(f64::INFINITY));
        let early = seconds(self.unsent_when_taken(unsent.as_secs_f64() * rate, bytes) / rate);
        ((gone - early).max(ready), arrives)
    }

    /// How many bytes wait in a channel's socket when it takes the last of `bytes`; `unsent` of
    /// those before wait when it is offered the first.
    #[expect(clippy::cast_precision_loss, reason = "a time")]
    fn unsent_when_taken(&self, unsent: f64, bytes: u64) -> f64 {
        let (most, bytes) = (self.held_bytes as f64, bytes as f64);
        let full = (most / PACKET_BYTES).ceil() * PACKET_BYTES;
        let low = ((most / 2.0 / PACKET_BYTES).ceil() - 1.0) * PACKET_BYTES;
        let room = if unsent < most { full - unsent } else { 0.0 };
        if bytes <= room {
            return unsent + bytes;
        }
        // What is left comes in fillings, each when what waits has come down to `low`.
        let last = (bytes - room) % (full - low);
        low + if last > 0.0 { last } else { full - low }
    }

    /// Most bytes per second of a channel: its own limit, and its part of the source's, which
    /// gives each the same.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn channel_most(&self, share: Share) -> Option<f64> {
        let part = |cap: u64| cap as f64 / self.channel_free.len().max(1) as f64;
        let cap = share.cap_bytes_per_s.map(part);
        let least = self.channel_bytes_per_s.into_iter().chain(cap).reduce(f64::min);
        least.map(|most| most.max(LEAST_BYTES_PER_S))
    }

    /// Whether the link, as it is at `at`, carries `most` bytes per second of every channel.
    #[expect(clippy::cast_precision_loss, reason = "a few channels")]
    fn carries_all(&self, most: f64, at: Tick, share: Share) -> bool {
        let all = most * self.channel_free.len() as f64;
        all <= share.of(self.at(at)) * (1.0 + SAME_RATE)
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

    /// The link as it is at that time.
    fn at(&self, at: Tick) -> Link {
        let past = self.changes.partition_point(|(change, _)| *change <= at);
        match past.checked_sub(1).and_then(|last| self.changes.get(last)) {
            Some((_, rate)) => Link { bandwidth_bytes_per_s: *rate, ..self.link },
            None => self.link,
        }
    }

    /// When the last of `bytes` has left, the first of them leaving at `from`, at `most` bytes per
    /// second at most.
    fn leave(&self, from: Tick, bytes: u64, share: Share, most: f64) -> Tick {
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let mut bytes = bytes as f64;
        let mut at = from;
        let next = self.changes.partition_point(|(change, _)| *change <= at);
        let mut to_come = self.changes[next..].iter().map(|(change, _)| *change);
        loop {
            let rate = share.of(self.at(at)).min(most);
            let end = at + seconds(bytes / rate);
            match to_come.next() {
                Some(change) if change < end => {
                    bytes = (bytes - rate * change.since(at).as_secs_f64()).max(0.0);
                    at = change;
                }
                _ => return end,
            }
        }
    }
}

/// How long so many bytes take.
#[expect(clippy::cast_precision_loss, reason = "a time")]
fn time(bytes: u64, bytes_per_s: f64) -> Duration {
    seconds(bytes as f64 / bytes_per_s.max(LEAST_BYTES_PER_S))
}

/// A time of that many seconds, at most a century.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

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
        let share = Share { service_bytes_per_s: 1e6, cap_bytes_per_s: Some(2_000_000) };
        assert_eq!(wire.send(next, 1, 20_000, share).0.since(next), ms(20));
    }

    #[test]
    fn channels_whose_limits_the_link_carries_do_not_wait_for_each_other() {
        let habits = LinkHabits { channel_bytes_per_s: Some(5e5), ..LinkHabits::default() };
        let mut wire = wire(&habits);
        let sent = [0, 1, 0].map(|c| wire.send(Tick::ZERO, c, 1000, Share::default()).0);
        assert_eq!(sent, [2, 2, 4].map(|at| Tick::ZERO + ms(at)));
        assert_eq!(wire.free(), Tick::ZERO + ms(4));
    }

    #[test]
    fn a_channel_has_a_rate_of_its_own_and_others_fill_the_link() {
        let habits = LinkHabits { channel_bytes_per_s: Some(8e5), ..LinkHabits::default() };
        let mut wire = wire(&habits);
        let sent = [0, 1, 0].map(|c| wire.send(Tick::ZERO, c, 1000, Share::default()).0);
        let micros = |us| Tick::ZERO + Duration::from_micros(us);
        assert_eq!(sent, [1250, 2250, 3250].map(micros));
    }

    #[test]
    fn the_sources_cap_is_shared_out_evenly() {
        let mut wire = wire(&LinkHabits::default());
        let share = Share { service_bytes_per_s: 0.0, cap_bytes_per_s: Some(500_000) };
        let sent = [0, 1, 0].map(|c| wire.send(Tick::ZERO, c, 1000, share).0);
        assert_eq!(sent, [4, 4, 8].map(|at| Tick::ZERO + ms(at)));
        // No more than the link carries.
        let share = Share { service_bytes_per_s: 0.0, cap_bytes_per_s: Some(5_000_000) };
        let sent = [0, 1].map(|c| wire.send(Tick::ZERO + ms(8), c, 1000, share).0);
        assert_eq!(sent, [9, 10].map(|at| Tick::ZERO + ms(at)));
    }

    #[test]
    fn channels_of_their_own_meet_a_change_each_at_its_time() {
        let habits = LinkHabits {
            changes: vec![change(10, 2e5)],
            channel_bytes_per_s: Some(1e5),
            ..LinkHabits::default()
        };
        let mut wire = wire(&habits);
        // The first looks far past the change, the second still leaves before it.
        let sent =
            [(0, 2000), (1, 500)].map(|(c, b)| wire.send(Tick::ZERO, c, b, Share::default()));
        assert_eq!(sent.map(|(gone, _)| gone), [20, 5].map(|at| Tick::ZERO + ms(at)));
    }

    #[test]
    fn a_sender_has_done_when_the_socket_has_the_rest() {
        const KIB: u64 = 1 << 10;
        let link = Link { bandwidth_bytes_per_s: 1_024_000.0, latency: ms(1) };
        let habits = LinkHabits { held_bytes: 160 * KIB, ..LinkHabits::default() };
        let mut wire = Wire::new(Tick::ZERO, link, &habits, 2);
        let mut send = |ready, kib| {
            let (taken, arrives) =
                wire.send(Tick::ZERO + ms(ready), 0, kib * KIB, Share::default());
            [taken, arrives].map(|at| at.as_nanos() / 1_000_000)
        };
        // It takes 192 KiB, and 128 more when 64 are left, at 1 KiB a millisecond. Arrivals are
        // those of a link on which nothing is held.
        assert_eq!(send(0, 192), [0, 193]);
        assert_eq!(send(0, 100), [128, 293]);
        // 152 wait, so that another 40 are taken at once; then 128, then what is left.
        assert_eq!(send(140, 200), [396, 493]);
        // There is room for it.
        assert_eq!(send(492, 10), [492, 503]);
    }

    proptest! {
        /// Whatever limits there are: the link never carries more than its rate, channels keep
        /// their order, and none sends faster than it may.
        #[test]
        fn no_limit_is_broken(
            items in prop::collection::vec((0..3usize, 0..5u64, 1..5000u64), 1..60),
            most in prop::option::of(1e5..2e6f64),
            cap in prop::option::of(100_000..2_000_000u64),
            held_bytes in prop_oneof![Just(0), 1..8000u64],
        ) {
            let habits = LinkHabits { channel_bytes_per_s: most, held_bytes, ..Default::default() };
            let link = Link { bandwidth_bytes_per_s: 1e6, latency: Duration::ZERO };
            let mut wire = Wire::new(Tick::ZERO, link, &habits, 3);
            let share = Share { service_bytes_per_s: 0.0, cap_bytes_per_s: cap };
            let (mut now, mut sent, mut of_channel) = (Tick::ZERO, 0.0, [(0.0, Tick::ZERO); 3]);
            for (channel, pause, bytes) in items {
                now += ms(pause);
                let (taken, arrives) = wire.send(now, channel, bytes, share);
                prop_assert!(taken >= now && taken <= arrives);
                let (before, last) = of_channel[channel];
                prop_assert!(arrives >= last);
                let all = before + bytes as f64;
                of_channel[channel] = (all, arrives);
                sent += bytes as f64;
                let rate = cap.map_or(1e6, |cap| (cap as f64).min(1e6));
                let least = sent / rate - 1e-6;
                prop_assert!(wire.free().as_nanos() as f64 / 1e9 >= least, "the link");
                let own = most.into_iter().chain(cap.map(|cap| cap as f64 / 3.0)).reduce(f64::min);
                if let Some(own) = own {
                    prop_assert!(arrives.as_nanos() as f64 / 1e9 >= all / own - 1e-6, "a channel");
                }
            }
        }
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
