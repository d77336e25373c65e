// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A Linux guest that serves HTTP moves while clients ask it: a distribution's kernel and busybox
//! (`tools/qemu/linux`), one vCPU under TCG, a virtio network card on a bridge that both QEMUs hang
//! on, clients on the host's side of that bridge.

mod client;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use precopy::wire::FrameKind;
use serde_json::Value;
use webvm::net::rig::{Rig, RigError, RigOptions, Side};

use self::client::{Fate, Kind, Load, Request};
use super::gate::{Gate, Then};
use super::vm::{Spec, Vm, there_is_a_qemu};
use super::{migrate, millis, receiver, setting};
use crate::support::Running;

const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 112, 0, 2));
/// Answers that each client has before, and after a migration.
const ANSWERS: u64 = 10;
/// What is still the migration's doing: a lost packet is sent again after 0.2 s and 0.4 s.
const AFTERMATH: Duration = Duration::from_secs(1);
/// What `precopy qemu send` is told unless the environment says something else: Gigabit Ethernet.
const SEND: &str = "--bandwidth-cap 125000000";
/// The code of a script whose needs are not met.
const SKIPPED: i32 = 77;

/// Kernel and initramfs, made once and kept; none where there are no Debian packages.
fn image() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("linux-guest");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu/linux/make-image.sh");
    let status = Command::new(script).arg(&folder).status().unwrap();
    if status.code() == Some(SKIPPED) {
        return None;
    }
    assert!(status.success(), "{script}: {status}");
    Some(folder)
}

/// A bridge in a namespace, with the host's address on it and a place for each QEMU.
struct Network {
    rig: Rig,
}

impl Network {
    fn new() -> Option<Self> {
        let rig = match Rig::build(RigOptions::default()) {
            Ok(rig) => rig,
            Err(RigError::NotRoot) => {
                println!("SKIPPED: only root can make the Linux guest's network");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let network = Self { rig };
        network.ip("link add guests type bridge");
        network.ip("address add 10.112.0.1/24 dev guests");
        network.ip("link set guests up");
        for place in 0..2 {
            network.ip(&format!("tuntap add dev tap{place} mode tap"));
            network.ip(&format!("link set tap{place} master guests up"));
        }
        Some(network)
    }

    fn ip(&self, line: &str) {
        let status = self.rig.command(Side::B, "ip").args(line.split(' ')).status().unwrap();
        assert!(status.success(), "ip {line}: {status}");
    }

    /// A QEMU for the guest, in one of the places.
    fn spec(&self, image: &Path, mib: u64, place: usize) -> Spec {
        let initramfs = image.join("initramfs");
        let tap = format!("tap,id=net0,ifname=tap{place},script=no,downscript=no,vhost=off");
        let card = "virtio-net-pci,netdev=net0,mac=52:54:00:70:72:65";
        let mut spec = Spec::new(mib).with(&["-initrd", initramfs.to_str().unwrap()]).with(&[
            "-netdev",
            &tap,
            "-device",
            card,
            "-device",
            "virtio-balloon-pci,id=balloon0",
        ]);
        // The self-tests of the kernel's ciphers are half of its start under TCG.
        spec.append = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests address={GUEST}/24"
        );
        spec.kernel = Some(image.join("vmlinuz"));
        let enter = self.rig.command(Side::B, "env");
        let words = std::iter::once(enter.get_program()).chain(enter.get_args());
        spec.by = words.map(|word| word.to_str().unwrap().to_owned()).collect();
        spec
    }
}

/// A migration as its clients saw it.
struct Seen {
    began: Instant,
    ended: Instant,
    report: Value,
}

/// How a stretch of time went.
struct Stretch {
    answered: usize,
    /// Longest time without any answer.
    gap_ms: f64,
    /// Longest time that one request took.
    longest_ms: f64,
}

impl Stretch {
    /// Of what touches the time between the two.
    fn of(requests: &[Request], from: Instant, to: Instant) -> Self {
        let answered: Vec<_> = requests.iter().filter(|request| request.is_answered()).collect();
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e3;
        let gaps = answered.windows(2).map(|pair| (pair[0].ended, pair[1].ended));
        let gaps = gaps.filter(|&(one, next)| next > from && one < to);
        let within = answered.iter().filter(|request| request.ended > from && request.began < to);
        Self {
            answered: within.clone().count(),
            gap_ms: gaps.map(|(one, next)| ms(one, next)).fold(0.0, f64::max),
            longest_ms: within.map(|request| ms(request.began, request.ended)).fold(0.0, f64::max),
        }
    }
}

fn median_and_most(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let most = values.last().copied().unwrap_or(f64::NAN);
    format!("{:.0} ms, most {most:.0} ms", values.get(values.len() / 2).unwrap_or(&f64::NAN))
}

/// Prints what the clients saw.
fn table(mib: u64, requests: &[Request], migrations: &[Seen]) {
    println!(
        "{mib} MiB; milliseconds; answers before, during and after; gap: no answer to anybody"
    );
    println!(
        "{:>3} {:>7} {:>7} {:>7} {:>9} {:>11} {:>9} {:>8} {:>7} {:>7} {:>7}",
        "no",
        "before",
        "during",
        "after",
        "gap",
        "usual gap",
        "request",
        "downtime",
        "total",
        "rounds",
        "MiB"
    );
    let (mut gaps, mut downtimes, mut all_during) = (Vec::new(), Vec::new(), 0);
    let first = requests.first().expect("requests").began;
    let last = requests.last().expect("requests").ended;
    for (index, seen) in migrations.iter().enumerate() {
        let from = index.checked_sub(1).map_or(first, |before| migrations[before].ended);
        let to = migrations.get(index + 1).map_or(last, |next| next.began);
        let during = Stretch::of(requests, seen.began, seen.ended);
        let with_aftermath = Stretch::of(requests, seen.began, seen.ended + AFTERMATH);
        let calm = from + AFTERMATH.min(seen.began.duration_since(from) / 2);
        let before = Stretch::of(requests, calm, seen.began);
        let count = |from, to| {
            let inside = |request: &&Request| request.began >= from && request.ended <= to;
            requests.iter().filter(inside).filter(|request| request.is_answered()).count()
        };
        let downtime = millis(&seen.report, "/source/downtime/source_total");
        let totals = &seen.report["source"]["totals"];
        println!(
            "{:>3} {:>7} {:>7} {:>7} {:>9.0} {:>11.0} {:>9.0} {downtime:>8.1} {:>7.0} {:>7} \
             {:>7.1}",
            index + 1,
            count(from, seen.began),
            during.answered,
            count(seen.ended, to),
            with_aftermath.gap_ms,
            before.gap_ms,
            with_aftermath.longest_ms,
            millis(&seen.report, "/source/totals/duration"),
            totals["rounds"].as_u64().unwrap(),
            totals["wire_bytes"].as_f64().unwrap() / f64::from(1 << 20),
        );
        gaps.push(with_aftermath.gap_ms);
        downtimes.push(downtime);
        all_during += during.answered;
    }
    let number = |wanted: &dyn Fn(&Request) -> bool| requests.iter().filter(|r| wanted(r)).count();
    let retried = number(&|request| matches!(request.fate, Fate::Retried(_)));
    let kept = number(&|request| request.kind == Kind::Kept);
    println!(
        "{} requests ({kept} on connections kept open across all {} migrations, {all_during} \
         during one), {retried} answered at the second try, {} lost or wrong; longest gap median \
         {}; downtime median {}",
        requests.len(),
        migrations.len(),
        number(&|request| !request.is_answered()),
        median_and_most(gaps),
        median_and_most(downtimes),
    );
}

/// Every answer was right, none was lost beyond the retry of a closed connection, and no kept
/// connection was closed.
fn nothing_is_lost(requests: &[Request]) {
    let bad: Vec<_> = requests.iter().filter(|request| !request.is_answered()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let is_closed = |r: &&Request| r.kind == Kind::Kept && r.fate != Fate::Answered;
    let closed: Vec<_> = requests.iter().filter(is_closed).collect();
    assert!(closed.is_empty(), "kept connections were closed: {closed:#?}");
}

/// Moves the guest to a new QEMU in the other place.
fn leg(source: &mut Vm, spec: &Spec, more: &[&str]) -> (Vm, Seen) {
    let mut destination = Vm::start(&spec.clone().incoming());
    let began = Instant::now();
    let report = migrate(source, &destination, more);
    let ended = Instant::now();
    assert_eq!(report["source"]["outcome"], "handed_over");
    assert_eq!(source.status(), "postmigrate");
    assert_eq!(destination.status(), "running");
    assert!(!source.is_write_protected() && !destination.is_write_protected());
    (destination, Seen { began, ended, report })
}

/// A migration whose connection breaks when the destination has told the network that the guest is
/// there. It is not: it goes on at the source, which must be found again.
fn failed_leg(source: &mut Vm, spec: &Spec) {
    let mut destination = Vm::start(&spec.clone().incoming());
    let (receiver, address) = receiver(&destination, &["--once"]);
    let gate = Gate::new(&address, FrameKind::Ready);
    let socket = source.socket();
    let arguments = ["qemu", "send", "--qmp", &socket, "--to", &gate.address, "--channels", "1"];
    let sender = Running::start(&arguments);
    gate.wait();
    gate.go_on(Then::Lose);
    let (status, _, errors) = sender.finish();
    assert_eq!(status.code(), Some(3), "{errors}");
    assert_eq!(source.status(), "running");
    receiver.finish();
    assert_eq!(destination.status(), "gone");
}

/// `PRECOPY_QEMU_LINUX_MIGRATIONS=10` makes it a series, there and back; `PRECOPY_QEMU_LINUX_MIB`
/// is the guest's size, `PRECOPY_QEMU_LINUX_SEND` what `precopy qemu send` is told.
#[test]
fn a_linux_that_serves_http_moves_and_its_clients_lose_nothing() {
    let times = setting("PRECOPY_QEMU_LINUX_MIGRATIONS", 0);
    if times == 0 {
        println!("SKIPPED: no Linux guest was moved: PRECOPY_QEMU_LINUX_MIGRATIONS is not set");
        return;
    }
    if !there_is_a_qemu() {
        return;
    }
    let Some((image, network)) = image().and_then(|image| Some((image, Network::new()?))) else {
        return;
    };
    let mib = setting("PRECOPY_QEMU_LINUX_MIB", 256);
    let send = std::env::var("PRECOPY_QEMU_LINUX_SEND").unwrap_or_else(|_| SEND.to_owned());
    let send: Vec<_> = send.split_whitespace().collect();
    let mut vm = Vm::start(&network.spec(&image, mib, 0));
    vm.line(|line| line.starts_with("SERVING"));
    let load = Load::start(&network.rig, GUEST);
    load.wait_for_sweeps(1);
    let mut migrations = Vec::new();
    for number in 1..=times {
        load.wait_for(ANSWERS);
        let place = usize::try_from(number % 2).unwrap();
        let (destination, seen) = leg(&mut vm, &network.spec(&image, mib, place), &send);
        load.wait_for(ANSWERS);
        migrations.push(seen);
        vm = destination;
    }
    // Whatever the guest has written before, it reads now.
    load.wait_for_sweeps(2);
    table(mib, &load.requests(), &migrations);
    nothing_is_lost(&load.requests());
    let place = usize::try_from((times + 1) % 2).unwrap();
    failed_leg(&mut vm, &network.spec(&image, mib, place));
    load.wait_for(ANSWERS);
    // Once more with every page compared before the handover: what the card wrote, too.
    let (_vm, _) = leg(&mut vm, &network.spec(&image, mib, place), &["--verify"]);
    load.wait_for(ANSWERS);
    nothing_is_lost(&load.finish());
}
