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
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// When, the how manieth, and where it is kept: what is sifted is small.
    heap: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// Places in `events` that hold none.
    free: Vec<usize>,
    planned: u64,
}

impl Queue {
    pub(super) fn plan(&mut self, at: Tick, event: Event) {
        self.planned += 1;
        let place = self.free.pop().unwrap_or(self.events.len());
        match self.events.get_mut(place) {
            Some(free) => *free = Some(event),
            None => self.events.push(Some(event)),
        }
        self.heap.push(Reverse((at, self.planned, place)));
    }

    /// When the next event happens.
    pub(super) fn next_at(&self) -> Option<Tick> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let Reverse((.., place)) = self.heap.pop()?;
        self.free.push(place);
        self.events[place].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// As a sorted map does it, whatever is taken in between.
        #[test]
        fn events_come_by_time_and_then_as_planned(
            steps in prop::collection::vec(prop::option::of(0u64..5), 0..60),
        ) {
            let (mut queue, mut sorted) = (Queue::default(), BTreeMap::new());
            for (number, step) in (0u64..).zip(steps) {
                match step {
                    Some(at) => {
                        let event = Event::Sender(ChannelId::new(u8::try_from(number).unwrap()));
                        queue.plan(Tick::from_nanos(at), event.clone());
                        sorted.insert((at, number), event);
                    }
                    None => {
                        let next = sorted.first_key_value().map(|((at, _), _)| *at);
                        prop_assert_eq!(queue.next_at().map(Tick::as_nanos), next);
                        prop_assert_eq!(queue.pop(), sorted.pop_first().map(|(_, event)| event));
                    }
                }
            }
        }
    }
}
