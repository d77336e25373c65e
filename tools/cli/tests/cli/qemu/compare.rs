// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Side by side with QEMU's own migration: the same guest, the same cap, in turn.
//!
//! The downtime is what anybody can see from outside, for both alike: the time from the last
//! page that the guest counts in the source's RAM file to the first one in the destination's.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::report::Spread;
use serde_json::{Value, json};

use super::vm::{BEATS, Spec, Vm, there_is_a_qemu};
use super::{migrate, millis, setting};
use crate::support::wait_for;

/// After this long a migration of QEMU's own that does not end is given up; ours stops the guest.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Downtime that both aim at: QEMU's default.
const DOWNTIME_LIMIT_MS: u64 = 300;
/// No bound on QEMU's bandwidth.
const UNLIMITED: u64 = 1 << 40;
/// How often the guest's pulse is felt. A busy loop would take a processor from it.
const PULSE: Duration = Duration::from_micros(200);

/// One migration.
#[derive(Clone, Copy, Debug)]
struct Run {
    ended: bool,
    total_ms: f64,
    bytes: f64,
    gap_ms: f64,
    rounds: f64,
    /// The guest found all of its pages right afterwards.
    right: bool,
}

/// Longest silence of the guest across the migration, in milliseconds.
fn feel(source: &File, destination: &File, over: &AtomicBool) -> Option<f64> {
    let beats = |file: &File| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, BEATS).unwrap();
        u64::from_le_bytes(bytes)
    };
    let (mut last, mut seen) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let here = beats(source);
        if here != seen {
            (seen, last) = (here, Instant::now());
        }
        // Until it runs there, that file holds nothing newer than this one.
        if beats(destination) > seen.max(beats(source)) {
            return Some(last.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(PULSE);
    }
    None
}

/// `how` is a policy, and an encoder after a slash.
fn ours(source: &Vm, destination: &Vm, cap: Option<u64>, how: &str) -> Run {
    let (policy, encoder) = how.split_once('/').unwrap_or((how, "raw"));
    let limit = format!("{DOWNTIME_LIMIT_MS}ms");
    let most = format!("{}s", TIME_MAX.as_secs());
    let mut more = vec!["--policy", policy, "--encoder", encoder, "--max-time", &most];
    more.extend(["--downtime-limit", &limit]);
    let cap = cap.map(|cap| cap.to_string());
    more.extend(cap.iter().flat_map(|cap| ["--bandwidth-cap", cap]));
    let report = migrate(source, destination, &more);
    let totals = &report["source"]["totals"];
    Run {
        ended: true,
        total_ms: millis(&report, "/source/totals/duration"),
        bytes: totals["wire_bytes"].as_f64().unwrap(),
        gap_ms: f64::NAN,
        rounds: totals["rounds"].as_f64().unwrap(),
        right: true,
    }
}

fn theirs(source: &mut Vm, destination: &mut Vm, cap: Option<u64>) -> Run {
    let parameters =
        json!({ "max-bandwidth": cap.unwrap_or(UNLIMITED), "downtime-limit": DOWNTIME_LIMIT_MS });
    source.execute("migrate-set-parameters", parameters);
    destination.execute("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    let listening = destination.execute("query-migrate", Value::Null);
    let port = listening.pointer("/socket-address/0/port").unwrap().as_str().unwrap().to_owned();
    let began = Instant::now();
    source.execute("migrate", json!({ "uri": format!("tcp:127.0.0.1:{port}") }));
    loop {
        let found = source.execute("query-migrate", Value::Null);
        let number = |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let status = found["status"].as_str().unwrap();
        let ended = status == "completed";
        assert!(ended || status != "failed", "{found}");
        if ended || began.elapsed() > TIME_MAX {
            if !ended {
                source.execute("migrate_cancel", Value::Null);
            }
            return Run {
                ended,
                total_ms: began.elapsed().as_secs_f64() * 1e3,
                bytes: number("/ram/transferred"),
                gap_ms: f64::NAN,
                rounds: number("/ram/dirty-sync-count"),
                right: true,
            };
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the feeling whatever happens.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Moves a fresh guest, and feels its pulse meanwhile.
fn once(spec: &Spec, go: impl FnOnce(&mut Vm, &mut Vm) -> Run) -> Run {
    let mut source = Vm::running(spec);
    let mut destination = Vm::start(&spec.clone().incoming());
    thread::sleep(Duration::from_secs(1));
    let (here, there) = (source.ram_file(), destination.ram_file());
    let over = AtomicBool::new(false);
    let (mut run, gap) = thread::scope(|scope| {
        let end = Over(&over);
        let pulse = scope.spawn(|| feel(&here, &there, &over));
        let run = go(&mut source, &mut destination);
        thread::sleep(Duration::from_millis(300));
        drop(end);
        (run, pulse.join().unwrap())
    });
    run.gap_ms = gap.unwrap_or(f64::NAN);
    if run.ended {
        let checks = destination.info().checks;
        wait_for("two checks", || (destination.info().checks > checks + 1).then_some(()));
        run.right = destination.info().faults == 0;
    }
    run
}

fn median(values: Vec<f64>) -> f64 {
    let finite = values.into_iter().filter(|value| value.is_finite());
    Spread::of(finite).median().unwrap_or(f64::NAN)
}

fn row(name: &str, cap: Option<u64>, runs: &[Run]) {
    let ended: Vec<_> = runs.iter().filter(|run| run.ended).collect();
    let of = |value: fn(&Run) -> f64| median(runs.iter().map(value).collect());
    let most = ended.iter().map(|run| run.gap_ms).fold(f64::NAN, f64::max);
    println!(
        "{name:<24} {:>10} {:>5}/{:<4} {:>10.0} {:>10.1} {:>8.0} {:>12.1} {most:>10.1} {:>8}",
        cap.map_or_else(|| "none".to_owned(), |cap| format!("{} MB/s", cap / 1_000_000)),
        ended.len(),
        runs.len(),
        of(|run| run.total_ms),
        of(|run| run.bytes / f64::from(1 << 20)),
        of(|run| run.rounds),
        of(|run| run.gap_ms),
        runs.iter().filter(|run| !run.right).count(),
    );
}

/// `PRECOPY_QEMU_COMPARE=10` compares; see `tools/qemu/compare.sh`.
#[test]
fn beside_qemus_own_migration() {
    let times = setting("PRECOPY_QEMU_COMPARE", 0);
    if times == 0 || !there_is_a_qemu() {
        return;
    }
    let mut spec = Spec::new(setting("PRECOPY_QEMU_MIB", 512));
    spec.append = std::env::var("PRECOPY_QEMU_GUEST").unwrap_or_default();
    let policies = std::env::var("PRECOPY_QEMU_POLICIES");
    let policies = policies.unwrap_or_else(|_| "qemu descend descend/delta".to_owned());
    let policies: Vec<_> = policies.split_whitespace().collect();
    println!(
        "{} MiB, guest {:?}, downtime limit {DOWNTIME_LIMIT_MS} ms; medians\n{:<24} {:>10} {:>10} \
         {:>10} {:>10} {:>8} {:>12} {:>10} {:>8}",
        spec.mib,
        spec.append,
        "who",
        "cap",
        "ended",
        "total ms",
        "MiB",
        "rounds",
        "downtime ms",
        "most ms",
        "harmed"
    );
    let caps = std::env::var("PRECOPY_QEMU_CAPS").unwrap_or_else(|_| "125000000 none".to_owned());
    for cap in caps.split_whitespace().map(|cap| cap.parse().ok()) {
        let mut own = Vec::new();
        let mut all = vec![Vec::new(); policies.len()];
        for _ in 0..times {
            own.push(once(&spec, |source, destination| theirs(source, destination, cap)));
            for (runs, policy) in all.iter_mut().zip(&policies) {
                runs.push(once(&spec, |source, destination| {
                    ours(source, destination, cap, policy)
                }));
            }
        }
        row("QEMU", cap, &own);
        for (runs, policy) in all.iter().zip(&policies) {
            row(&format!("precopy {policy}"), cap, runs);
            assert!(runs.iter().all(|run| run.right), "a guest was harmed");
        }
    }
}
