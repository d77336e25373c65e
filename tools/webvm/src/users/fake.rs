// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A site that answers every request after a drawn time: what the users are tested against.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use precopy::sim::Rng;
use precopy::units::Tick;

use crate::site::{LINKS_MAX, Request, RequestKind, Response, chain};

use super::Users;

/// Answers in virtual time: each request after a negative-exponential time, never during a
/// [stall](Self::stall).
#[derive(Debug)]
pub struct FakeSite {
    rng: Rng,
    mean: Duration,
    events: u64,
    chains: Vec<u64>,
    records: u64,
    stall: (Tick, Tick),
    /// What is being worked on: when it is done, in which order it came, and the answer.
    answers: BinaryHeap<Reverse<(Tick, u64, usize)>>,
    slots: Vec<Option<Response>>,
    free: Vec<usize>,
    taken: u64,
}

impl FakeSite {
    /// A site for these users that answers in `mean` on average.
    #[must_use]
    pub fn new(users: &Users, mean: Duration, seed: u64) -> Self {
        let count = users.config().users as usize;
        Self {
            rng: Rng::new(seed),
            mean,
            events: users.config().data().events,
            chains: vec![0; count],
            records: 0,
            stall: (Tick::ZERO, Tick::ZERO),
            answers: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            taken: 0,
        }
    }

    /// Answers nothing from `from` to `to`; what would have been answered then is at `to`.
    pub fn stall(&mut self, from: Tick, to: Tick) {
        self.stall = (from, to);
    }

    /// Takes a request.
    pub fn accept(&mut self, now: Tick, request: &Request) {
        let chain_now = match self.chains.get_mut(request.user as usize) {
            Some(value) => {
                *value = chain(*value, request);
                *value
            }
            None => 0,
        };
        let lists = matches!(request.kind, RequestKind::Home | RequestKind::TagList);
        let mut links = Vec::new();
        if lists {
            let event = || u32::try_from(1 + self.rng.below(self.events)).unwrap_or(1);
            links.extend(std::iter::repeat_with(event).take(LINKS_MAX));
        }
        self.records += u64::from(request.kind.is_write());
        let answer = Response {
            user: request.user,
            seq: request.seq,
            status: 200,
            record: if request.kind.is_write() { self.records } else { 0 },
            chain: chain_now,
            links,
            body_bytes: 8000,
        };
        let took = self.mean.mul_f64(-(1.0 - self.rng.unit()).ln());
        let mut done = now + took;
        if done >= self.stall.0 && done < self.stall.1 {
            done = self.stall.1;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(answer);
        self.answers.push(Reverse((done, self.taken, slot)));
        self.taken += 1;
    }

    /// When the next answer is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.answers.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next answer that is due at `now`.
    pub fn poll_response(&mut self, now: Tick) -> Option<Response> {
        let Reverse((at, _, slot)) = self.answers.peek().copied()?;
        if at > now {
            return None;
        }
        self.answers.pop();
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// Runs the users against this site until `until` or until they are finished. Returns the
    /// last moment at which anything happened.
    pub fn drive(&mut self, users: &mut Users, until: Tick) -> Tick {
        let mut now = Tick::ZERO;
        while let Some(next) =
            [users.poll_timeout(), self.poll_timeout()].into_iter().flatten().min()
        {
            if next > until {
                break;
            }
            now = now.max(next);
            while let Some(answer) = self.poll_response(now) {
                users.handle_response(now, &answer);
            }
            while let Some(_user) = users.poll_expired(now) {}
            while let Some(request) = users.poll_request(now) {
                self.accept(now, &request);
            }
        }
        now
    }
}
