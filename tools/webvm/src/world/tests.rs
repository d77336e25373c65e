// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The world by itself, and under migration.

use super::*;

fn seconds(s: u64) -> Tick {
    Tick::from_nanos(s * 1_000_000_000)
}

fn world(seed: u64) -> World {
    let site = SiteConfig { seed, ..SiteConfig::scaled(32_768, 37) };
    let upload_scale = site.upload_scale;
    let users = UsersConfig {
        users: 37,
        ramp_up_s: 5.0,
        steady_s: 60.0,
        ramp_down_s: 5.0,
        upload_scale,
        seed,
        ..UsersConfig::default()
    };
    World::new(site, users, ServiceNetwork::default()).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let run = |step_ms: u64| {
        let mut world = world(3);
        let mut written = Vec::new();
        for ms in (step_ms..=60_000).step_by(step_ms as usize) {
            world.run_tracked(Tick::from_nanos(ms * 1_000_000), &mut |page| written.push(page));
        }
        (world.users.take_samples(), written, world.site.save())
    };
    // However often one looks: the same.
    let (once, often) = (run(60_000), run(100));
    assert!(once.0.len() > 200, "{}", once.0.len());
    assert_eq!(once.0, often.0);
    assert!(once.1 == often.1, "other pages");
}

#[test]
fn what_is_not_tracked_happens_all_the_same() {
    let (mut seen, mut unseen) = (world(4), world(4));
    let mut pages = 0_u64;
    seen.run_tracked(seconds(30), &mut |_| pages += 1);
    unseen.run_until(seconds(30));
    assert_eq!(seen.users.take_samples(), unseen.users.take_samples());
    assert_eq!(seen.counters(), unseen.counters());
    assert!(pages > 100_000, "{pages}");
}

#[test]
fn a_pause_delays_requests_and_loses_none() {
    let mut world = world(5);
    world.probe(Some(Duration::from_millis(10)));
    world.run_until(seconds(20));
    world.begin_migration(0.15);
    let mut wrote = 0;
    VirtualGuest::run(&mut world, seconds(21), true, Throttle::NONE, &mut |_| wrote += 1);
    assert!(wrote > 1000, "{wrote}");
    let before = wrote;
    VirtualGuest::run(&mut world, seconds(24), false, Throttle::NONE, &mut |_| wrote += 1);
    assert_eq!(wrote, before);
    assert_eq!(world.now(), seconds(24));
    world.end_migration();
    world.run_until(seconds(80));
    let samples = world.users.take_samples();
    assert!(samples.iter().all(|s| s.status == crate::sla::Status::Ok));
    let slow = samples.iter().filter(|s| s.response_time() > Duration::from_millis(1500)).count();
    assert!((5..200).contains(&slow), "{slow}");
    assert!(world.audit().is_clean(), "{}", world.audit());
    let probes = world.take_probes();
    let longest = probes.iter().map(|p| p.completed.unwrap().since(p.begun())).max().unwrap();
    assert!(longest >= Duration::from_millis(2990), "{longest:?}");
    let users = world.users.counters();
    assert_eq!(users.violations, 0, "{users:?}");
}
