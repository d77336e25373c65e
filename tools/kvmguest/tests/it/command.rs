// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command: migrations between processes.

use std::fs::File;
use std::io::BufReader;
use std::process::{Command, Output, Stdio};

use precopy::trace::{TickSource, TraceReader, TraceTick};
use serde_json::Value;

use crate::guest::has_kvm;

fn kvmguest(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmguest"));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// The lines of a run that must end well.
fn lines(output: &Output) -> Vec<Value> {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Between processes; `PRECOPY_KVM_MIGRATIONS` says how often.
#[test]
fn a_guest_goes_through_processes() {
    if !has_kvm() {
        return;
    }
    let migrations = number("PRECOPY_KVM_MIGRATIONS", 1);
    let count = migrations.to_string();
    let run = ["demo", "--memory-mib=8", "--run-for=0.3", "--cap-mb-per-s=40", "--verify"];
    let output = kvmguest(&[&run[..], &["--json", "--migrations", &count]].concat());
    let lines = lines(&output);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let sent = of("sent");
    assert_eq!((sent.len() as u64, of("taken_over").len() as u64), (migrations, migrations));
    for line in sent {
        let report = &line["report"];
        assert_eq!(
            (&report["outcome"], &report["verified"]),
            (&"handed_over".into(), &true.into())
        );
    }
    let audits = of("audit");
    assert_eq!(audits.len() as u64, 1 + 2 * migrations);
    assert!(audits.iter().all(|audit| audit["clean"] == true), "{audits:?}");
    let steps: Vec<u64> = audits.iter().map(|audit| audit["steps"].as_u64().unwrap()).collect();
    assert!(steps.is_sorted_by(|before, after| before < after), "it went on: {steps:?}");
    println!("{steps:?}");
}

/// What KVM's log says of a guest that writes a page and counts is a trace like any other.
#[test]
fn a_guest_is_recorded() {
    if !has_kvm() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guest.trace");
    let path = file.to_str().unwrap();
    for tracker in [&["--tracker=log"][..], &["--tracker=log-harvest", "--force"]] {
        let run = ["record", path, "--memory-mib=4", "--run-for=0.2", "--tick=0.02", "--json"];
        let output = kvmguest(&[&run[..], tracker].concat());
        let lines = lines(&output);
        let recorded = lines.iter().find(|line| line["event"] == "recorded").unwrap();
        assert_eq!(lines.iter().find(|l| l["event"] == "audit").unwrap()["clean"], true);
        let mut trace = TraceReader::new(BufReader::new(File::open(&file).unwrap())).unwrap();
        let (mut tick, mut ticks, mut pages) = (TraceTick::default(), 0, 0);
        while trace.next_tick(&mut tick).unwrap() {
            (ticks, pages) = (ticks + 1, pages + tick.pages());
        }
        assert_eq!(
            (ticks, pages),
            (number_of(recorded, "ticks"), number_of(recorded, "page_events"))
        );
        assert!(trace.header().pages >= 1024 && trace.header().notes.contains("KVM"));
        // How often it is looked, and what is written in between, is for the machine to say.
        assert!(ticks >= 1, "{ticks} ticks, {pages} pages");
    }
    // What is there is kept.
    let output = kvmguest(&["record", path, "--run-for=0.1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--force"));
    assert!(std::fs::metadata(&file).unwrap().len() > 0);
}

fn number_of(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap()
}

#[test]
fn errors_say_what_to_do() {
    let output = kvmguest(&["send", "--to", "127.0.0.1:1", "--vcpus", "9"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("9 vCPUs; from 1 to 7"), "{text}");
    assert_eq!(kvmguest(&["receive", "--listen"]).status.code(), Some(2));
    if !has_kvm() {
        return;
    }
    // Nobody listens on port 1.
    let run = ["send", "--to", "127.0.0.1:1", "--memory-mib", "1", "--run-for", "0.1"];
    let output = kvmguest(&run);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("is `kvmguest receive` at 127.0.0.1:1?"), "{text}");
}
