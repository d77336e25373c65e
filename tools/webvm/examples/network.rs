// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the network costs, without the site: users and a prober against a guest that answers at
//! once, over a shaped link if that can be had, and what a handover alone takes.
//!
//! `cargo run --release -p webvm --example network -- [users] [seconds] [handovers]`

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use precopy::engine::CancelToken;
use precopy::units::Tick;
use webvm::net::fake::FakeGuest;
use webvm::net::rig::{Rig, RigOptions, Side};
use webvm::net::{
    ClientsLog, ClientsOptions, GuestPort, LiveClients, ProbeLog, Prober, ProberOptions, Switch,
    SwitchOptions, SwitchStatus, Uplink,
};
use webvm::users::{Users, UsersConfig};

const LIMIT: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where things run.
struct Place(Option<Rig>);

impl Place {
    fn inside<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        Ok(match &self.0 {
            Some(rig) => rig.inside(side, work)?,
            None => work(),
        })
    }

    fn address(&self) -> SocketAddr {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        self.0.as_ref().map_or(loopback, |_| SocketAddr::new(Side::B.address(), 0))
    }
}

fn cpu_seconds() -> Result<f64, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6);
    Ok(seconds.iter().sum())
}

fn main() -> Result<(), Failure> {
    let numbers: Vec<u32> =
        std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (count, seconds, handovers) = (number(0, 600), number(1, 20), number(2, 10));

    let rig = Rig::build(RigOptions::default());
    let place = Place(rig.inspect_err(|error| println!("WITHOUT a shaped link: {error}")).ok());
    if let Some(rig) = &place.0 {
        let rate = rig.measure()?;
        println!("link: {rig}; one TCP connection gets {:.1} MB/s", rate as f64 / 1e6);
    }
    let any = place.address();
    let mut options = SwitchOptions::default();
    (options.clients, options.uplinks) = (any, Some(any));
    let switch = place.inside(Side::B, || Switch::start(options))??;
    let uplink = switch.uplink_address().ok_or("the switch takes no uplinks")?;
    let users = Users::new(UsersConfig {
        users: count,
        ramp_up_s: f64::from(seconds) / 4.0,
        steady_s: f64::from(seconds) * 0.75,
        ramp_down_s: 0.0,
        ..UsersConfig::default()
    })?;
    let (origin, cancel, done) = (Instant::now(), CancelToken::new(), AtomicBool::new(false));
    let clients = ClientsOptions::new(switch.client_address());
    let clients =
        place.inside(Side::B, || LiveClients::start(users, clients, origin, &cancel))??;
    let probes = ProberOptions::new(switch.client_address());
    let prober = place.inside(Side::B, || Prober::start(probes, origin, &cancel))??;

    let (guest, log, probes) = std::thread::scope(|scope| -> Result<_, Failure> {
        let (place, done) = (&place, &done);
        let host = scope.spawn(move || -> Result<FakeGuest, Failure> {
            let mut guest = FakeGuest::default();
            let stay = Duration::from_secs(u64::from(seconds)) / (handovers + 1);
            for number in 0u32.. {
                let side = if number % 2 == 0 { Side::A } else { Side::B };
                let connected = place.inside(side, || Uplink::connect(uplink, LIMIT))??;
                let mut port = connected.attach(guest.attach(), LIMIT)?;
                guest.attached();
                let until = Instant::now() + stay;
                let last = number >= handovers;
                guest.run(&mut port, || {
                    done.load(Ordering::SeqCst) || (!last && Instant::now() >= until)
                });
                if done.load(Ordering::SeqCst) {
                    break;
                }
                if let Some(error) = port.closed() {
                    return Err(error.into());
                }
            }
            Ok(guest)
        });
        let log = clients.finish()?;
        let probes = prober.finish()?;
        done.store(true, Ordering::SeqCst);
        let guest = host.join().map_err(|_| "the guest panicked")??;
        Ok((guest, log, probes))
    })?;

    report(count, &log, &probes, &guest, &switch.status())
}

fn report(
    count: u32,
    log: &ClientsLog,
    probes: &ProbeLog,
    guest: &FakeGuest,
    status: &SwitchStatus,
) -> Result<(), Failure> {
    let counters = log.users.counters();
    let end_s = log.end.as_nanos() as f64 / 1e9;
    println!(
        "{count} users, {end_s:.1} s: {:.1} actions/s, {:.0} requests/s, {} resets, {} timeouts, \
         {} violations",
        counters.completed as f64 / end_s,
        counters.responses as f64 / end_s,
        counters.resets,
        counters.timed_out,
        counters.violations,
    );
    let mut times: Vec<Duration> = log.samples.iter().map(|s| s.response_time()).collect();
    times.sort_unstable();
    if let (Some(half), Some(last)) = (times.get(times.len() / 2), times.last()) {
        println!("response time of an action: median {half:?}, longest {last:?}");
    }
    println!("guest's faults: {:?}", guest.faults());
    println!(
        "{} handovers, {} frames resent by the guest, {} probes, {} failed, {} connections",
        status.attachments.len() - 1,
        status.duplicates,
        probes.probes.len(),
        probes.failed,
        probes.connections,
    );
    if let Some(gap) = probes.longest_gap(Tick::ZERO, Tick::from_nanos(u64::MAX)) {
        println!("longest downtime that the prober saw: {:?}", gap.downtime);
    }
    println!("processor: {:.0} % of one core", 100.0 * cpu_seconds()? / end_s);
    Ok(())
}
