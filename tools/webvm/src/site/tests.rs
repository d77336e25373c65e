// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site against simple drivers.

use std::collections::BTreeMap;
use std::time::Duration;

use precopy::sim::Rng;
use precopy::units::Tick;

use super::*;
use crate::users::Acknowledged;

const MS: u64 = 1_000_000;

fn tick(ms: u64) -> Tick {
    Tick::from_nanos(ms * MS)
}

fn config() -> SiteConfig {
    SiteConfig { capacity: 50.0, ..SiteConfig::scaled(16_384, 12) }
}

/// Users that send any request, one at a time, at random moments.
struct Driver {
    site: Site,
    memory: ModelMemory,
    rng: Rng,
    clients: Vec<(u64, u64, Option<Request>)>,
    promises: Vec<Acknowledged>,
    answers: Vec<(Tick, Response)>,
}

impl Driver {
    fn new(config: SiteConfig) -> Self {
        let mut site = Site::new(config).unwrap();
        let mut memory = ModelMemory::new(site.layout());
        memory.keep_written(true);
        site.boot(&mut memory);
        site.keep_answers();
        let users = site.config().users;
        for number in 1..=users {
            site.open(number, &mut memory).unwrap();
        }
        let clients = vec![(0, 0, None); users as usize];
        let (promises, answers) = (Vec::new(), Vec::new());
        Self { site, memory, rng: Rng::new(5), clients, promises, answers }
    }

    fn send(&mut self, user: usize, action: Action, kind: RequestKind) {
        let (seq, before, waiting) = &mut self.clients[user];
        if waiting.is_some() {
            return;
        }
        let argument = self.rng.below(1000);
        let user = user as u32;
        let request = Request { user, seq: *seq + 1, action, kind, argument, body_bytes: 99 };
        *waiting = Some(request);
        assert_ne!(chain(*before, &request), *before);
        self.site.request(user + 1, request, &mut self.memory).unwrap();
    }

    fn send_any(&mut self) {
        let user = self.rng.below(self.clients.len() as u64) as usize;
        let kind = RequestKind::ALL[self.rng.below(14) as usize];
        let action = Action::ALL[self.rng.below(7) as usize];
        self.send(user, action, kind);
    }

    fn run(&mut self, until: Tick) {
        while !self.site.run(until, 64, &mut self.memory) {}
        self.collect();
    }

    fn collect(&mut self) {
        let mut after = 0;
        while let Some(out) = self.site.outgoing(after, &self.memory) {
            after = out.number;
        }
        self.site.acknowledge(after, &mut self.memory);
        while let Some((_, answer)) = self.site.take_answer() {
            let client = &mut self.clients[answer.user as usize];
            let request = client.2.take().unwrap();
            assert_eq!(request.seq, answer.seq);
            client.0 = request.seq;
            client.1 = chain(client.1, &request);
            assert_eq!(client.1, answer.chain);
            if request.kind.is_write() && answer.status == 200 {
                let Request { user, seq, kind, argument, body_bytes, .. } = request;
                let Response { record, chain, .. } = answer;
                let promise = Acknowledged { user, seq, kind, argument, record, body_bytes, chain };
                self.promises.push(promise);
            }
            self.answers.push((self.site.now(), answer));
        }
    }

    fn sessions(&self) -> Vec<SessionKnown> {
        let known = |(user, client): (usize, &(u64, u64, Option<Request>))| SessionKnown {
            user: user as u32,
            answered: (client.0, client.1),
            under_way: client.2.map(|r| (r.seq, chain(client.1, &r))),
        };
        self.clients.iter().enumerate().map(known).collect()
    }

    fn audit(&self) -> SiteAudit {
        self.site.audit(&self.memory, &self.promises, &self.sessions())
    }

    /// What a migration does: state and memory go, everything else is rebuilt.
    fn move_host(&mut self) {
        let state = self.site.save();
        let mut moved = Site::restore(self.site.config(), state, &self.memory).unwrap();
        moved.keep_answers();
        moved.answers = std::mem::take(&mut self.site.answers);
        self.site = moved;
    }
}

#[test]
fn requests_are_answered_once_and_found_by_the_audit() {
    let mut driver = Driver::new(config());
    for step in 1..4000 {
        driver.send_any();
        driver.run(tick(step * 20));
    }
    assert!(driver.answers.len() > 1500, "{}", driver.answers.len());
    assert!(driver.promises.len() > 100, "{}", driver.promises.len());
    let audit = driver.audit();
    assert!(audit.is_clean(), "{audit}");
    assert_eq!(audit.promises, driver.promises.len() as u64);
}

#[test]
fn a_moved_site_goes_on_bit_for_bit() {
    let run = |moves: bool, workers| {
        let mut driver = Driver::new(SiteConfig { workers, max_workers: 13, ..config() });
        for step in 1..1500 {
            driver.send_any();
            driver.run(tick(step * 20));
            if moves && step % 7 == 0 {
                driver.move_host();
            }
        }
        assert!(driver.audit().is_clean(), "{}", driver.audit());
        let mut written = Vec::new();
        driver.memory.take_written(&mut written);
        (driver.answers, driver.site.save(), written)
    };
    for workers in [Workers::KeepAlive, Workers::PerRequest, Workers::Pool] {
        let (stayed, moved) = (run(false, workers), run(true, workers));
        assert_eq!(stayed.1, moved.1, "{workers:?}");
        assert_eq!(stayed.0, moved.0, "{workers:?}");
        assert!(stayed.2 == moved.2, "{workers:?}: other pages were written");
    }
}

#[test]
fn the_audit_finds_what_was_lost() {
    let mut driver = Driver::new(config());
    for step in 1..1000 {
        driver.send_any();
        driver.run(tick(step * 20));
    }
    let promise = driver.promises[3];
    let table = match promise.kind {
        RequestKind::PersonPost => driver.site.layout().persons,
        RequestKind::EventPost => driver.site.layout().events,
        _ => driver.site.layout().attendees,
    };
    let mut lost = driver.memory.clone();
    lost.write(table.at(promise.record - 1), &[0; 16]);
    let audit = driver.site.audit(&lost, &driver.promises, &driver.sessions());
    assert_eq!(audit.fault_count, 2, "{audit}");
    // A client whose last request memory has forgotten.
    let mut sessions = driver.sessions();
    sessions[2].answered.1 ^= 1;
    let audit = driver.site.audit(&driver.memory, &driver.promises, &sessions);
    assert_eq!(audit.fault_count, 1, "{audit}");
    // A promise of which there is nothing, and a record twice.
    let mut promises = driver.promises.clone();
    promises[0].seq += 100_000;
    let audit = driver.site.audit(&driver.memory, &promises, &driver.sessions());
    assert!(!audit.is_clean());
}

#[test]
fn a_request_that_comes_twice_is_noticed() {
    let mut driver = Driver::new(config());
    driver.send(0, Action::HomePage, RequestKind::Home);
    driver.run(tick(2000));
    assert_eq!(driver.answers.len(), 1);
    // The network, or a second runner, says it again.
    driver.clients[0].0 = 0;
    driver.send(0, Action::HomePage, RequestKind::Home);
    while !driver.site.run(tick(4000), 64, &mut driver.memory) {}
    assert_eq!(driver.site.take_answer().unwrap().1.status, 409);
    assert_eq!(driver.site.counters().doubled, 1);
}

#[test]
fn a_client_that_gives_up_has_lost_nothing() {
    let mut driver = Driver::new(SiteConfig { capacity: 1.0, ..config() });
    driver.send(0, Action::AddEvent, RequestKind::EventPost);
    driver.run(tick(1));
    // It closes its connection and goes on with its next request on another one, which is done
    // long before the first.
    assert!(!driver.site.close(1, &mut driver.memory));
    driver.site.open(1000, &mut driver.memory).unwrap();
    let next = Request {
        user: 0,
        seq: 2,
        action: Action::HomePage,
        kind: RequestKind::Asset,
        argument: 1,
        body_bytes: 0,
    };
    driver.site.request(1000, next, &mut driver.memory).unwrap();
    while !driver.site.run(tick(600_000), 64, &mut driver.memory) {}
    assert_eq!(driver.site.take_answer().map(|(_, a)| (a.seq, a.status)), Some((2, 200)));
    assert_eq!(driver.site.take_answer(), None);
    let counters = driver.site.counters();
    assert_eq!((counters.answered, counters.lost, counters.doubled), (2, 0, 0));
}

#[test]
fn the_processor_is_shared_equally() {
    // Alone, a request takes its service time and its database time; with n others of the same
    // work it takes n times the service.
    let mut config = config();
    config.capacity = 10.0;
    let alone = {
        let mut driver = Driver::new(config.clone());
        driver.send(0, Action::TagSearch, RequestKind::TagList);
        driver.run(tick(60_000));
        driver.answers.len()
    };
    assert_eq!(alone, 1);
    let finished = |speed: f64, others: usize| {
        let mut driver = Driver::new(config.clone());
        driver.site.set_speed(speed);
        for user in 0..=others {
            driver.send(user, Action::TagSearch, RequestKind::TagList);
        }
        let mut at = BTreeMap::new();
        for step in 1..60_000 {
            driver.run(tick(step));
            for (_, answer) in driver.answers.drain(..) {
                at.insert(answer.user, step);
            }
        }
        at
    };
    let (one, slow, all) = (finished(1.0, 0), finished(0.5, 0), finished(1.0, 5));
    assert!(slow[&0] > one[&0] && slow[&0] < one[&0] * 2 + 1, "{slow:?} {one:?}");
    assert_eq!(all.len(), 6);
    assert!(all[&0] > one[&0]);
}

#[test]
fn a_pause_stops_work_but_not_the_database() {
    let mut driver = Driver::new(config());
    driver.send(0, Action::AddEvent, RequestKind::EventForm);
    driver.send(1, Action::HomePage, RequestKind::Home);
    driver.run(tick(1));
    let writes = driver.site.counters().writes;
    driver.site.stand_still(tick(30_000));
    assert_eq!(driver.site.counters().writes, writes);
    driver.run(tick(30_000 + 60_000));
    assert_eq!(driver.answers.len(), 2);
    // One tick of the timer, not the 2,880 that were missed.
    assert!(driver.site.counters().writes < writes + 60 * 96 + 5000);
}

#[test]
fn a_full_ring_waits_for_the_switch() {
    let mut driver =
        Driver::new(SiteConfig { upload_scale: 1.0, ..SiteConfig::scaled(65_536, 60) });
    for user in 0..60 {
        driver.send(user, Action::PersonDetail, RequestKind::Photo);
    }
    // Nobody reads: 60 answers of 11 frames do not fit 248 slots.
    while !driver.site.run(tick(60_000), 64, &mut driver.memory) {}
    assert!(driver.site.outgoing(240, &driver.memory).is_some());
    assert!(driver.site.outgoing(255, &driver.memory).is_none());
    assert!(driver.site.requests_in_flight() > 30);
    driver.move_host();
    for _ in 0..60 {
        driver.collect();
    }
    assert_eq!(driver.answers.len(), 60);
    assert!(driver.audit().is_clean());
}

#[test]
fn silent_connections_lose_their_worker_after_15_s() {
    let mut driver = Driver::new(config());
    driver.send(0, Action::HomePage, RequestKind::Home);
    driver.run(tick(3000));
    let spare = driver.site.spare.len();
    driver.run(Tick::ZERO + KEEP_ALIVE + Duration::from_secs(5));
    assert_eq!(driver.site.spare.len(), spare + 1);
}

#[test]
fn a_damaged_state_is_an_error() {
    let mut driver = Driver::new(config());
    driver.send_any();
    driver.run(tick(5));
    let state = driver.site.save();
    let restore = |state: Vec<u8>| {
        Site::restore(driver.site.config(), state.into(), &driver.memory).unwrap_err()
    };
    for at in 0..state.len() {
        let mut damaged = state.to_vec();
        damaged[at] ^= 0x10;
        assert!(restore(damaged).to_string().contains("import the state"));
        restore(state[..at].to_vec());
    }
    let mut other = driver.site.config().clone();
    other.seed += 1;
    let error = Site::restore(&other, state.clone(), &driver.memory).unwrap_err();
    assert!(format!("{:?}", error.source).contains("another site"));
    let empty = ModelMemory::new(driver.site.layout());
    Site::restore(driver.site.config(), state, &empty).unwrap_err();
}
