// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rig on a machine that allows it; elsewhere one line says that it was skipped.

use super::*;
use crate::net::fake::FakeGuest;
use crate::net::{
    Attach, GuestPort, Prober, ProberOptions, Switch, SwitchOptions, Uplink, UplinkPort,
};
use precopy::engine::CancelToken;

const LIMIT: Duration = Duration::from_secs(60);

fn rig(rate_bits_per_s: u64) -> Option<Rig> {
    match Rig::build(RigOptions { rate_bits_per_s, ..RigOptions::default() }) {
        Ok(rig) => Some(rig),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            precopy::skipped(format_args!("no network namespaces here: {error} {source:?}"));
            None
        }
    }
}

#[test]
fn the_link_carries_what_it_is_shaped_to_and_leaves_nothing() {
    let Some(rig) = rig(200_000_000) else { return };
    let rate = rig.measure().unwrap();
    // 200 Mb/s are at most 25 MB/s; the burst may come on top once.
    assert!((1_000_000..28_000_000).contains(&rate), "{rate} B/s");
    let names = [rig.name(Side::A), rig.name(Side::B)];
    let paths = names.map(|name| Path::new(NAMESPACES).join(name));
    assert!(paths.iter().all(|path| path.exists()));
    drop(rig);
    assert!(!paths.iter().any(|path| path.exists()));
}

#[test]
fn a_command_runs_on_its_host() {
    let Some(rig) = rig(RigOptions::default().rate_bits_per_s) else { return };
    for side in [Side::A, Side::B] {
        let output = rig.command(side, "ip").args(["-brief", "address"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("{}/24", side.address())), "{text}");
    }
}

#[test]
fn leftovers_of_the_dead_are_removed_and_of_the_living_are_not() {
    let Some(rig) = rig(RigOptions::default().rate_bits_per_s) else { return };
    // While its owner lives nobody removes it, not even while it is made.
    let mut owner_of = Command::new("sleep").arg("1000").spawn().unwrap();
    let name = format!("{PREFIX}{}-0-a", owner_of.id());
    let leftover = Path::new(NAMESPACES).join(&name);
    let made = run("ip", &["netns", "add", &name]);
    remove_leftovers();
    let kept = leftover.exists();
    owner_of.kill().and_then(|()| owner_of.wait()).unwrap();
    made.unwrap();
    assert!(kept);
    remove_leftovers();
    assert!(!leftover.exists());
    assert!(Path::new(NAMESPACES).join(rig.name(Side::A)).exists());
    assert_eq!(owner("precopy-12-3-a"), Some(12));
    assert_eq!(owner("somebody-12"), None);
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let Some(rig) = rig(RigOptions::default().rate_bits_per_s) else { return };
    let path = Path::new(NAMESPACES).join(rig.name(Side::A));
    let panicked = std::thread::spawn(move || {
        let _rig = rig;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(!path.exists());
}

#[test]
fn what_is_wrong_is_named() {
    if !geteuid().is_root() {
        precopy::skipped("needs root");
        return;
    }
    let options = RigOptions { rate_bits_per_s: 5, ..RigOptions::default() };
    let error = Rig::build(options).unwrap_err();
    let expected = "The link's rate is 5 bit/s; it must be 1000000 to 10000000000";
    assert_eq!(error.to_string(), expected);
    let error = run("ip", &["netns", "delete", "precopy-no-such"]).unwrap_err();
    assert!(matches!(&error, RigError::Failed { stderr, .. } if stderr.contains("no-such")));
    assert!(matches!(run("no-such-program", &[]), Err(RigError::Program { .. })));
}

/// The whole network on two hosts: the guest on A, switch and prober on B, then the guest on B.
#[test]
fn the_guest_moves_from_host_to_host() {
    let Some(rig) = rig(RigOptions::default().rate_bits_per_s) else { return };
    let any = SocketAddr::new(Side::B.address(), 0);
    let options = SwitchOptions { clients: any, uplinks: Some(any), ..SwitchOptions::default() };
    let switch = rig.inside(Side::B, || Switch::start(options)).unwrap().unwrap();
    let uplink = switch.uplink_address().unwrap();
    let attach = |side: Side, attach: Attach| -> UplinkPort {
        let connected = rig.inside(side, || Uplink::connect(uplink, LIMIT)).unwrap();
        connected.unwrap().attach(attach, LIMIT).unwrap()
    };
    let mut guest = FakeGuest::default();
    let mut port = attach(Side::A, guest.attach());
    let (cancel, mut options) = (CancelToken::new(), ProberOptions::new(switch.client_address()));
    options.last_wait = LIMIT;
    let start = || Prober::start(options, Instant::now(), &cancel);
    let prober = rig.inside(Side::B, start).unwrap().unwrap();
    run_until(&mut guest, &mut port, 30);
    let mut port = attach(Side::B, guest.attach());
    guest.attached();
    run_until(&mut guest, &mut port, 60);
    std::thread::scope(|scope| {
        let log = scope.spawn(|| prober.finish().unwrap());
        guest.run(&mut port, || log.is_finished());
        let log = log.join().unwrap();
        assert_eq!((log.failed, log.unanswered()), (0, 0));
        assert_eq!(guest.probes(), log.probes.len() as u64);
    });
    assert_eq!(guest.faults(), [] as [&str; 0]);
    assert_eq!(switch.status().attachments.len(), 2);
}

fn run_until(guest: &mut FakeGuest, port: &mut UplinkPort, probes: u64) {
    let end = Instant::now() + LIMIT;
    while guest.probes() < probes {
        assert!(Instant::now() < end, "the probes do not come");
        guest.step(port);
        port.wait(Instant::now() + Duration::from_millis(10));
    }
}
