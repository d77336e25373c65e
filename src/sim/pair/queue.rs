// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens next: events by time, then by the order in which they were planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Disturbance;
use crate::session::BatchCounts;
use crate::sim::source::WireItem;
use crate::units::{ChannelId, Tick};
use crate::wire::{Fate, Message};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    Sender(ChannelId),
    Sent(ChannelId, BatchCounts),
    Arrive(ChannelId, WireItem),
    Back(Message),
    Digested,
    QueryArrives,
    Answer(Option<Fate>),
    SourceNotices(ChannelId),
    DestinationNotices(ChannelId),
    Disturb(Disturbance),
    Sample,
}

/// Events are taken by time, then by the order in which they were planned.
#[derive(PartialEq, Eq, Debug)]
struct Planned {
    at: Tick,
    number: u64,
    event: Event,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Planned>>,
    planned: u64,
}

impl Queue {
    pub(super) fn plan(&mut self, at: Tick, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse(Planned { at, number: self.planned, event }));
    }

    /// When the next event happens.
    pub(super) fn next_at(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse(planned)| planned.at)
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(planned)| planned.event)
    }
}
