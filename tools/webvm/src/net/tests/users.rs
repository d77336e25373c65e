// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Users and what they notice of a guest that moves.

use super::*;

/// Users who come in at once and do something every 100 ms or so.
fn users(count: u32, steady_s: f64, seed: u64) -> Users {
    Users::new(UsersConfig {
        users: count,
        mean_s: 0.1,
        cap_s: 0.5,
        ramp_up_s: 0.2,
        steady_s,
        ramp_down_s: 0.0,
        time_out_s: 60.0,
        upload_scale: 0.2,
        seed,
        ..UsersConfig::default()
    })
    .unwrap()
}

fn users_while_the_guest_moves(keep_alive: bool) {
    let switch = switch(|_| {});
    let guest = FakeGuest::default();
    let mut host = Host::run(guest.clone(), attach(&switch, &guest, Kind::Uplink));
    let mut options = ClientsOptions::new(switch.client_address());
    (options.keep_alive, options.last_wait) = (keep_alive, LIMIT);
    let (origin, cancel) = (Instant::now(), CancelToken::new());
    let clients = LiveClients::start(users(30, 1e4, 7), options, origin, &cancel).unwrap();
    let (mut rng, end) = (Rng::new(5), Instant::now() + LIMIT);
    for moves in 0.. {
        // Every user is to come in, and one of them to upload something, which is rare.
        let ClientsProgress { connects, counters, .. } = clients.progress();
        if moves >= MOVES && connects >= 30 && counters.sent_bytes > 0 {
            break;
        }
        assert!(Instant::now() < end, "{counters:?} after {moves} moves");
        thread::sleep(Duration::from_millis(rng.below(60)));
        let (guest, old) = host.pause();
        drop(old);
        let kind = if rng.one_in(2) { Kind::Inside } else { Kind::Uplink };
        host = Host::run(guest.clone(), attach(&switch, &guest, kind));
    }
    clients.stop();
    let log = clients.finish().unwrap();
    let (guest, _) = host.pause();
    assert_eq!(guest.faults(), [] as [&str; 0]);
    let counters = log.users.counters();
    assert_eq!((counters.resets, counters.timed_out, counters.violations), (0, 0, 0));
    assert_eq!((log.progress.broken, log.progress.first_trouble), (0, None));
    assert_eq!((guest.answered(), counters.responses), (counters.requests, counters.requests));
    assert_eq!(log.samples.len() as u64, counters.completed);
    assert!(log.samples.iter().all(|sample| sample.status == Status::Ok));
    assert!(log.stopped && log.unfinished.is_empty() && log.failed.is_none());
    let connects = if keep_alive { 30 } else { counters.requests };
    assert_eq!(log.progress.connects, connects);
}

#[test]
fn users_do_not_notice_that_the_guest_moves() {
    users_while_the_guest_moves(true);
}

#[test]
fn users_with_a_connection_per_request_do_not_notice_either() {
    users_while_the_guest_moves(false);
}

#[test]
fn users_come_to_their_end() {
    let switch = switch(|_| {});
    let guest = FakeGuest::default();
    let host = Host::run(guest.clone(), attach(&switch, &guest, Kind::Inside));
    let options = ClientsOptions::new(switch.client_address());
    let (origin, cancel) = (Instant::now(), CancelToken::new());
    let clients = LiveClients::start(users(10, 0.2, 2), options, origin, &cancel).unwrap();
    let log = clients.finish().unwrap();
    assert!(!log.stopped && log.unfinished.is_empty() && log.failed.is_none());
    let counters = log.users.counters();
    assert!(counters.actions >= 10 && counters.completed == counters.actions, "{counters:?}");
    assert_eq!(log.samples.len() as u64, counters.actions);
    assert_eq!(counters.responses, host.pause().0.answered());
}

#[test]
fn what_was_measured_before_a_cancel_is_kept() {
    let switch = switch(|_| {});
    let guest = FakeGuest::default();
    let host = Host::run(guest.clone(), attach(&switch, &guest, Kind::Inside));
    let (origin, cancel) = (Instant::now(), CancelToken::new());
    let mut options = ClientsOptions::new(switch.client_address());
    options.last_wait = LIMIT;
    let clients = LiveClients::start(users(10, 1e4, 3), options, origin, &cancel).unwrap();
    until(|| clients.samples_from(20).len() > 5);
    cancel.cancel();
    let log = clients.finish().unwrap();
    assert!(log.stopped && log.unfinished.is_empty());
    assert!(log.samples.len() > 25);
    assert_eq!(log.users.counters().responses, host.pause().0.answered());
}

#[test]
fn clients_without_a_site_say_what_happened() {
    // It was free a moment ago, and nobody else listens at this address or connects from it.
    let gone = std::net::TcpListener::bind("127.9.9.9:0").unwrap().local_addr().unwrap();
    let options = ClientsOptions::new(gone);
    let cancel = CancelToken::new();
    let clients = LiveClients::start(users(5, 0.5, 1), options, Instant::now(), &cancel).unwrap();
    let log = clients.finish().unwrap();
    assert!(log.users.counters().resets > 0 && log.users.counters().completed == 0);
    assert!(log.progress.first_trouble.unwrap().contains("refused"));
}
