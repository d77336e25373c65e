// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What cannot be moved is refused before anything is touched, with the reason.

use serde_json::{Value, json};

use super::receiver;
use super::vm::{Spec, Vm, there_is_a_qemu};
use crate::support::precopy;

fn small() -> Spec {
    let mut spec = Spec::new(64);
    "pages=256 pace=64".clone_into(&mut spec.append);
    spec
}

/// What `inspect` says about a QEMU.
fn inspect(vm: &Vm) -> Value {
    let socket = vm.socket();
    let mut command = precopy(&["qemu", "inspect", "--json", "--qmp", &socket]);
    serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
}

#[track_caller]
fn forbidden(side: &Value, text: &str) {
    assert_eq!(side["possible"], false, "{side}");
    assert!(side["obstacles"].to_string().contains(text), "{text}: {side}");
}

/// Sends to nobody: the refusal must come before anybody is looked for.
fn refused(vm: &Vm, text: &str) {
    let socket = vm.socket();
    let arguments = ["qemu", "send", "--qmp", &socket, "--to", "127.0.0.1:1"];
    let output = precopy(&arguments).assert().code(1).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(text), "{text}: {errors}");
}

#[test]
fn a_machine_that_is_fine_is_described() {
    if !there_is_a_qemu() {
        return;
    }
    let vm = Vm::start(&small());
    let found = inspect(&vm);
    assert_eq!(found["source"]["possible"], true, "{found}");
    forbidden(&found["destination"], "-incoming defer");
    let machine = &found["machine"];
    assert_eq!(machine["pid"], vm.pid());
    assert_eq!(machine["kvm"], false);
    assert_eq!(machine["ram"]["bytes"], 64 << 20);
    assert!(machine["ram"]["file"].as_str().unwrap().ends_with(".ram"));
    let output = precopy(&["qemu", "inspect", "--qmp", &vm.socket()]).assert().code(0);
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(text.contains("It can send its guest."), "{text}");
    let waits = Vm::start(&small().incoming());
    let found = inspect(&waits);
    assert_eq!(found["destination"]["possible"], true, "{found}");
    forbidden(&found["source"], "inmigrate");
}

#[test]
fn ram_that_cannot_be_moved_is_refused() {
    if !there_is_a_qemu() {
        return;
    }
    let mut private = small();
    private.backend = "memory-backend-ram,id=ram,size=SIZE";
    refused(&Vm::start(&private), "share=off");
    private.backend = "memory-backend-file,id=ram,mem-path=FILE,share=off,size=SIZE";
    let vm = Vm::start(&private);
    refused(&vm, "mem-path=/dev/shm/NAME,share=on");
    forbidden(&inspect(&vm)["source"], "private to QEMU");
    let second = ["-object", "memory-backend-ram,id=more,size=1M"];
    refused(&Vm::start(&small().with(&second)), "several memory backends (more, ram)");
}

#[test]
fn a_machine_in_no_state_to_be_moved_is_refused() {
    if !there_is_a_qemu() {
        return;
    }
    let mut vm = Vm::start(&small());
    vm.execute("stop", Value::Null);
    refused(&vm, "not running but paused");
    vm.execute("cont", Value::Null);
    vm.capability("multifd", true);
    refused(&vm, "multifd is on");
    vm.capability("multifd", false);
    // A migration of its own that takes for ever.
    vm.execute("migrate-set-parameters", json!({ "max-bandwidth": 1 }));
    vm.execute("migrate", json!({ "uri": "exec:cat >/dev/null" }));
    refused(&vm, "under way");
    let found = inspect(&vm);
    forbidden(&found["source"], "cancel it");
    vm.execute("migrate_cancel", Value::Null);
}

#[test]
fn devices_whose_writes_would_be_missed_are_refused() {
    if !there_is_a_qemu() {
        return;
    }
    let dimm = small().with(&[
        "-m",
        "64,slots=2,maxmem=1G",
        "-object",
        "memory-backend-ram,id=dimm,size=128M",
        "-device",
        "pc-dimm,id=d0,memdev=dimm",
    ]);
    let found = inspect(&Vm::start(&dimm));
    forbidden(&found["source"], "hotplug");
    let shared = small().with(&[
        "-object",
        "memory-backend-ram,id=other,size=1M,share=on",
        "-device",
        "ivshmem-plain,memdev=other",
    ]);
    forbidden(&inspect(&Vm::start(&shared))["source"], "ivshmem-plain");
}

#[test]
fn another_machine_at_the_destination_is_refused_before_the_first_page() {
    if !there_is_a_qemu() {
        return;
    }
    let mut source = Vm::running(&small());
    let mut other = small();
    let cases: [(&str, Spec); 4] = [
        ("size in bytes", {
            other.mib = 128;
            other.clone()
        }),
        ("machine type", {
            let mut other = small();
            other.machine = "pc";
            other
        }),
        ("number of vCPUs", small().with(&["-smp", "2"])),
        ("the devices differ", small().with(&["-device", "virtio-rng-pci"])),
    ];
    for (text, spec) in cases {
        let destination = Vm::start(&spec.incoming());
        let (mut receiver, address) = receiver(&destination, &["--once"]);
        let socket = source.socket();
        let arguments = ["qemu", "send", "--qmp", &socket, "--to", &address, "--json"];
        let output = precopy(&arguments).assert().code(3).get_output().clone();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let failure = report["source"]["failure"].as_str().unwrap();
        assert!(failure.contains(text), "{text}: {failure}");
        assert_eq!(report["source"]["totals"]["sent_pages"], 0);
        receiver.event("not_taken_over");
        assert_eq!(receiver.finish().0.code(), Some(1));
        // Neither has lost anything.
        assert_eq!(inspect(&destination)["destination"]["possible"], true);
    }
    source.prove_that_it_runs();
}

#[test]
fn what_is_no_qemu_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nobody");
    let nobody = ["qemu", "inspect", "--qmp", socket.to_str().unwrap()];
    let output = precopy(&nobody).assert().code(1).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("-qmp unix:PATH"), "{errors}");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = precopy(&nobody).assert().code(1).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("one client at a time"), "{errors}");
    let arguments = ["qemu", "send", "--qmp", "x", "--to", "127.0.0.1:1", "--tracker", "mprotect"];
    precopy(&arguments).assert().code(2);
}
