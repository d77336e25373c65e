// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All users together: who is due, who waits for what, and what they measured.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use precopy::sim::Rng;
use precopy::units::Tick;
use serde::{Deserialize, Serialize};

use crate::site::{Action, Request, Response, SessionKnown, chain};
use crate::sla::{Sample, Status};

use super::burst::Envelope;
use super::config::{Arrival, Timing, UsersConfig, UsersError, seconds};
use super::journal::{Acknowledged, Chain, Violation, ViolationKind};
use super::session::{Session, World};

/// Violations that are kept in full; all are counted.
const VIOLATIONS_MAX: usize = 1000;

/// What the users have seen so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counters {
    /// Actions begun.
    pub actions: u64,
    /// Actions that ended well.
    pub completed: u64,
    /// Requests sent.
    pub requests: u64,
    /// Answers taken, errors included.
    pub responses: u64,
    /// Actions that the site answered with an error.
    pub refused: u64,
    /// Actions that ended with a broken connection.
    pub resets: u64,
    /// Actions that ended without an answer in time.
    pub timed_out: u64,
    /// Bytes of uploads sent.
    pub sent_bytes: u64,
    /// Bytes of bodies received.
    pub received_bytes: u64,
    /// Answers that must not be.
    pub violations: u64,
}

/// An action under way.
#[derive(Clone, Copy, Debug)]
struct Doing {
    action: Action,
    intended_start: Tick,
    start: Tick,
}

#[derive(Debug)]
struct User {
    session: Session,
    last_action: Action,
    doing: Option<Doing>,
    waiting_for: Option<Request>,
    seq: u64,
    chain: Chain,
}

/// The users of a site. See the [module](super).
#[derive(Debug)]
pub struct Users {
    config: UsersConfig,
    world: World,
    envelope: Envelope,
    mean_s: f64,
    end: Tick,
    time_out: Duration,
    users: Vec<User>,
    /// When each user that is idle begins its next action.
    due: BinaryHeap<Reverse<(Tick, u32)>>,
    /// Users that go on with an action now.
    ready: VecDeque<(Tick, u32)>,
    /// Requests in the order of their time-outs; those that were answered are skipped.
    deadlines: VecDeque<(Tick, u32, u64)>,
    in_flight: usize,
    samples: Vec<Sample>,
    acknowledged: Vec<Acknowledged>,
    in_doubt: Vec<Request>,
    violations: Vec<Violation>,
    counters: Counters,
}

impl Users {
    /// Users that come in from [`Tick::ZERO`] on.
    ///
    /// # Errors
    /// [`UsersError`] names the field that is out of bounds.
    pub fn new(config: UsersConfig) -> Result<Self, UsersError> {
        config.check()?;
        let world = World::new(&config)?;
        // Streams hang on the user's number alone, so one user more changes no other.
        let mut seeds = Rng::new(config.seed);
        let key = seeds.next_u64();
        let envelope = Envelope::new(&config, &mut seeds);
        let mut users = Vec::with_capacity(config.users as usize);
        let mut due = BinaryHeap::with_capacity(config.users as usize);
        for number in 0..config.users {
            let seed = Rng::new(key ^ u64::from(number).wrapping_mul(0xd6e8_feb8_6659_fd93));
            let mut rng = Rng::new(seed.clone().next_u64());
            due.push(Reverse((arrives(&config, number, &mut rng), number)));
            users.push(User {
                session: Session::new(&world, number, rng),
                last_action: Action::HomePage,
                doing: None,
                waiting_for: None,
                seq: 0,
                chain: Chain::Known(0),
            });
        }
        Ok(Self {
            world,
            envelope,
            mean_s: config.mean_s,
            end: config.end(),
            time_out: seconds(config.time_out_s),
            config,
            users,
            due,
            ready: VecDeque::new(),
            deadlines: VecDeque::new(),
            in_flight: 0,
            samples: Vec::new(),
            acknowledged: Vec::new(),
            in_doubt: Vec::new(),
            violations: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// What the users do.
    #[must_use]
    pub fn config(&self) -> &UsersConfig {
        &self.config
    }

    /// When something is due next: a request to send, or a time-out. `None` once the run is over
    /// and every answer is in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let due = self.due.peek().map(|Reverse((at, _))| *at).filter(|at| *at < self.end);
        let ready = self.ready.front().map(|(at, _)| *at);
        let late = self.deadlines.front().map(|(at, ..)| *at);
        [due, ready, late].into_iter().flatten().min()
    }

    /// The next request to send now; to be called until there is none.
    pub fn poll_request(&mut self, now: Tick) -> Option<Request> {
        if let Some((_, number)) = self.ready.pop_front() {
            return self.send(now, number);
        }
        let Reverse((at, number)) = self.due.peek().copied()?;
        if at > now || at >= self.end {
            return None;
        }
        self.due.pop();
        let user = self.users.get_mut(number as usize)?;
        let action = match user.seq {
            0 => Action::HomePage,
            _ => self.config.matrix.next(user.last_action, &mut user.session.rng),
        };
        user.doing = Some(Doing { action, intended_start: at, start: now });
        user.last_action = action;
        user.session.begin(&self.world, action);
        self.counters.actions += 1;
        self.send(now, number)
    }

    fn send(&mut self, now: Tick, number: u32) -> Option<Request> {
        let user = self.users.get_mut(number as usize)?;
        let (step, doing) = (user.session.next_step()?, user.doing?);
        user.seq += 1;
        let request = Request {
            user: number,
            seq: user.seq,
            action: doing.action,
            kind: step.kind,
            argument: step.argument,
            body_bytes: step.body_bytes,
        };
        user.waiting_for = Some(request);
        self.in_flight += 1;
        self.deadlines.push_back((now + self.time_out, number, request.seq));
        self.counters.requests += 1;
        self.counters.sent_bytes += u64::from(request.body_bytes);
        Some(request)
    }

    /// Takes an answer that is complete at `now`. An answer that nobody waits for is recorded as
    /// a [`Violation`] and changes nothing.
    pub fn handle_response(&mut self, now: Tick, answer: &Response) {
        let waited = self.users.get(answer.user as usize).and_then(|user| user.waiting_for);
        let Some(request) = waited.filter(|request| request.seq == answer.seq) else {
            let sent = self.users.get(answer.user as usize).map_or(0, |user| user.seq);
            let doubled = (1..=sent).contains(&answer.seq);
            let kind = if doubled { ViolationKind::Doubled } else { ViolationKind::Unasked };
            return self.violation(answer, waited.map_or(0, |request| request.seq), kind);
        };
        let user = &mut self.users[request.user as usize];
        let before = std::mem::replace(&mut user.chain, Chain::Known(answer.chain));
        user.waiting_for = None;
        if !before.allows(&request, answer.chain) {
            self.violation(answer, request.seq, ViolationKind::Chain);
        }
        self.in_flight -= 1;
        self.counters.responses += 1;
        self.counters.received_bytes += u64::from(answer.body_bytes);
        self.skip_answered();
        if answer.status != 200 {
            return self.finish(now, request.user, Status::Refused);
        }
        if request.kind.is_write() {
            self.acknowledged.push(Acknowledged {
                user: request.user,
                seq: request.seq,
                kind: request.kind,
                argument: request.argument,
                record: answer.record,
                body_bytes: request.body_bytes,
                chain: answer.chain,
            });
        }
        let user = &mut self.users[request.user as usize];
        user.session.answered(&self.world, request.action, request.kind, answer);
        if user.session.has_more() {
            self.ready.push_back((now, request.user));
        } else {
            self.finish(now, request.user, Status::Ok);
        }
    }

    /// The user's connection broke, or its driver gave up: the action under way ends with this
    /// status, and the user goes on with its next one, on a new connection. Whether the site saw
    /// the request that was out is unknown: the session's next checksum may say either. Does
    /// nothing for a user that has no request out.
    pub fn handle_failure(&mut self, now: Tick, user: u32, status: Status) {
        let Some(state) = self.users.get_mut(user as usize) else { return };
        let Some(request) = state.waiting_for.take() else { return };
        state.chain = state.chain.in_doubt(&request);
        if request.kind.is_write() {
            self.in_doubt.push(request);
        }
        self.in_flight -= 1;
        self.skip_answered();
        self.finish(now, user, status);
    }

    /// The next user whose request has been out for the whole time-out. The failure is recorded;
    /// the driver closes the user's connection. To be called until there is none.
    pub fn poll_expired(&mut self, now: Tick) -> Option<u32> {
        self.skip_answered();
        let (at, user, _) = self.deadlines.front().copied()?;
        if at > now {
            return None;
        }
        self.handle_failure(now, user, Status::TimedOut);
        Some(user)
    }

    /// Forgets the time-outs of requests that were answered, up to the first that was not.
    fn skip_answered(&mut self) {
        while let Some((_, user, seq)) = self.deadlines.front().copied() {
            let waiting = self.users.get(user as usize).and_then(|user| user.waiting_for);
            if waiting.is_some_and(|request| request.seq == seq) {
                break;
            }
            self.deadlines.pop_front();
        }
    }

    fn finish(&mut self, now: Tick, number: u32, status: Status) {
        let user = &mut self.users[number as usize];
        user.session.abandon();
        let Some(doing) = user.doing.take() else { return };
        let count = match status {
            Status::Ok => &mut self.counters.completed,
            Status::Refused => &mut self.counters.refused,
            Status::Reset => &mut self.counters.resets,
            Status::TimedOut => &mut self.counters.timed_out,
        };
        *count += 1;
        self.samples.push(Sample {
            user: number,
            action: doing.action,
            intended_start: doing.intended_start,
            start: doing.start,
            end: now,
            status,
        });
        let wait_s = -self.mean_s * (1.0 - user.session.rng.unit()).ln();
        let from = match self.config.cycle {
            Timing::Cycle => doing.start,
            Timing::Think => now,
        };
        let due = self.envelope.after(from, wait_s.min(self.config.cap_s));
        self.due.push(Reverse((due, number)));
    }

    fn violation(&mut self, answer: &Response, waited_for: u64, kind: ViolationKind) {
        self.counters.violations += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            let (user, answered) = (answer.user, answer.seq);
            self.violations.push(Violation { user, waited_for, answered, kind });
        }
    }

    /// The samples since the last call, by end.
    pub fn take_samples(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.samples)
    }

    /// Users that wait for an answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether no action will begin any more and every answer is in.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.in_flight == 0 && self.poll_timeout().is_none()
    }

    /// What the users have seen so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Every write that the site acknowledged, in the order of the acknowledgements.
    #[must_use]
    pub fn acknowledged(&self) -> &[Acknowledged] {
        &self.acknowledged
    }

    /// Writes whose answer never came: the site may have made them or not.
    #[must_use]
    pub fn in_doubt(&self) -> &[Request] {
        &self.in_doubt
    }

    /// The first thousand answers that must not be; [`Counters::violations`] counts all.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The user's running checksum after its last answer, where it is known, and the number of
    /// its last request: what the site's session must hold once nothing is in flight.
    #[must_use]
    pub fn session(&self, user: u32) -> Option<(u64, u64)> {
        let user = self.users.get(user as usize)?;
        match user.chain {
            Chain::Known(chain) => Some((user.seq, chain)),
            Chain::Either(..) | Chain::Unknown => None,
        }
    }

    /// What every user knows of its session, for an audit at any moment; users whose last request
    /// was lost on the way know nothing for sure and are left out.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionKnown> {
        let known = |(number, user): (usize, &User)| {
            let Chain::Known(sum) = user.chain else { return None };
            let under_way = user.waiting_for.map(|request| (request.seq, chain(sum, &request)));
            let last = under_way.map_or(user.seq, |(seq, _)| seq - 1);
            let user = u32::try_from(number).ok()?;
            Some(SessionKnown { user, answered: (last, sum), under_way })
        };
        self.users.iter().enumerate().filter_map(known).collect()
    }
}

fn arrives(config: &UsersConfig, number: u32, rng: &mut Rng) -> Tick {
    let share = f64::from(number) / f64::from(config.users);
    let at_s = match config.arrival {
        Arrival::Even => config.ramp_up_s * share,
        Arrival::Random => config.ramp_up_s * rng.unit(),
        Arrival::DelayMs(ms) => f64::from(ms) * f64::from(number) / 1000.0,
    };
    Tick::ZERO + seconds(at_s)
}
