// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu` with real QEMUs, whose guest checks itself (`tools/qemu/guest/counters.s`).

mod compare;
mod endings;
mod gate;
mod linux;
mod refusals;
mod vm;

use serde_json::Value;

use crate::support::{Running, precopy};
use vm::{Spec, Vm, there_is_a_qemu, there_is_kvm};

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A destination for a QEMU, and its address.
fn receiver(vm: &Vm, more: &[&str]) -> (Running, String) {
    let socket = vm.socket();
    let mut arguments = vec!["qemu", "receive", "--qmp", &socket, "--listen", "127.0.0.1:0"];
    arguments.push("--json");
    arguments.extend(more);
    if !more.contains(&"--answer-for") {
        arguments.extend(["--answer-for", "100ms"]);
    }
    let mut running = Running::start(&arguments);
    let address = running.event("listening")["address"].as_str().unwrap().to_owned();
    (running, address)
}

/// Moves a guest; the report of the source.
fn migrate(from: &Vm, to: &Vm, more: &[&str]) -> Value {
    let (mut receiver, address) = receiver(to, &["--once"]);
    let socket = from.socket();
    let mut arguments = vec!["qemu", "send", "--qmp", &socket, "--to", &address, "--json"];
    arguments.extend(more);
    let output = precopy(&arguments).assert().code(0).get_output().clone();
    receiver.event("taken_over");
    let (status, _, errors) = receiver.finish();
    assert!(status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn millis(report: &Value, path: &str) -> f64 {
    let time = report.pointer(path).unwrap_or_else(|| panic!("{path} in {report}"));
    let part = |name| time[name].as_f64().unwrap();
    part("secs") * 1e3 + part("nanos") / 1e6
}

/// One guest that moves from QEMU to QEMU; after each time everything is checked.
fn series(spec: &Spec, migrations: u64, more: &[&str]) {
    let mut source = Vm::running(spec);
    let mut downtimes = Vec::new();
    for number in 1..=migrations {
        let mut destination = Vm::start(&spec.clone().incoming());
        let report = migrate(&source, &destination, more);
        assert_eq!(report["source"]["outcome"], "handed_over");
        assert_eq!(source.status(), "postmigrate");
        assert!(source.stands_still());
        assert!(!source.is_write_protected() && !destination.is_write_protected());
        // Left on, QEMU's own next migration would leave out all RAM.
        for vm in [&mut source, &mut destination] {
            assert!(!vm.has_capability("x-ignore-shared"));
        }
        destination.prove_that_it_runs();
        let downtime = millis(&report, "/source/downtime/source_total");
        println!(
            "{} MiB, {}: migration {number} of {migrations}: {:.0} ms, {} rounds, {:.1} MiB, \
             downtime {downtime:.1} ms",
            spec.mib,
            spec.accel,
            millis(&report, "/source/totals/duration"),
            report["source"]["totals"]["rounds"],
            report["source"]["totals"]["wire_bytes"].as_f64().unwrap() / f64::from(1 << 20),
        );
        downtimes.push(downtime);
        source = destination;
    }
    downtimes.sort_by(f64::total_cmp);
    println!(
        "{} MiB, {}: {migrations} migrations, every check passed; downtime median {:.1} ms, most \
         {:.1} ms",
        spec.mib,
        spec.accel,
        downtimes[downtimes.len() / 2],
        downtimes[downtimes.len() - 1],
    );
}

/// `PRECOPY_QEMU_MIGRATIONS=50 PRECOPY_QEMU_MIB=2048` makes it a series.
#[test]
fn a_guest_that_writes_without_pause_moves_again_and_again() {
    if there_is_a_qemu() {
        let spec = Spec::new(setting("PRECOPY_QEMU_MIB", 512));
        series(&spec, setting("PRECOPY_QEMU_MIGRATIONS", 2), &[]);
    }
}

/// A smaller working set: under nested KVM this guest is slow.
#[test]
fn a_guest_under_kvm_moves() {
    if there_is_a_qemu() && there_is_kvm() {
        let mut spec = Spec::new(512);
        "kvm".clone_into(&mut spec.accel);
        "pages=4096".clone_into(&mut spec.append);
        series(&spec, setting("PRECOPY_QEMU_KVM_MIGRATIONS", 1), &[]);
    }
}

#[test]
fn ram_in_a_memfd_moves_to_a_file_and_the_source_can_be_ended() {
    if !there_is_a_qemu() {
        return;
    }
    let mut spec = Spec::new(128);
    "pages=1024".clone_into(&mut spec.append);
    let mut memfd = spec.clone();
    memfd.backend = "memory-backend-memfd,id=ram,share=on,size=SIZE";
    let mut source = Vm::start(&memfd);
    let mut destination = Vm::start(&spec.incoming());
    // That it counts by now.
    source.line(|line| line.starts_with("ticks="));
    let report = migrate(&source, &destination, &["--quit-source", "--encoder", "lz4", "--verify"]);
    assert_eq!(report["source"]["encoder"], "lz4");
    assert_eq!(source.status(), "gone");
    destination.prove_that_it_runs();
}
