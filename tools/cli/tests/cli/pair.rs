// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy send`, `receive` and `ask`, as processes of their own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use precopy::wire::{FrameKind, read_frame};

use crate::support::{NOBODY, Running, json, precopy, wait_for};

/// A rate at which a guest of 64 MiB takes half a minute: longer than it may take until somebody
/// gets round to disturbing its migration.
const SLOW: &str = "2MB/s";

/// A migration that lasts long enough to be disturbed.
fn slow<'a>(address: &'a str, report: &'a str) -> Vec<&'a str> {
    vec![
        "send",
        "--to",
        address,
        "--memory",
        "64MiB",
        "--warm-up",
        "50ms",
        "--rate",
        "5000",
        "--bandwidth-cap",
        SLOW,
        "--after-failure",
        "exit",
        "--audit",
        "--report",
        report,
    ]
}

/// Processor time that a process has taken: fields 14 and 15 of its line, behind its name.
fn processor_ticks(id: u32) -> u64 {
    let line = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields = line.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_guest_moves_and_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken.json");
    let (mut receiver, address) = Running::receiver(&[
        "--once",
        "--audit",
        "0.2",
        "--run-for",
        "0.3",
        "--report",
        taken.to_str().unwrap(),
    ]);
    let arguments = ["send", "--to", &address, "--memory", "64MiB", "--verify", "--json"];
    let output = precopy(&arguments).assert().code(0).get_output().clone();
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sent["source"]["outcome"], "handed_over");
    assert_eq!(sent["source"]["verified"], true);
    let over = receiver.event("taken_over");
    assert_eq!(over["report"]["migration_id"], sent["source"]["migration_id"]);
    assert_eq!(receiver.event("audit")["clean"], true);
    let (status, _, errors) = receiver.finish();
    assert!(status.success(), "{errors}");
    assert_eq!(json(&taken)["audit"]["clean"], true);
}

#[test]
fn a_killed_destination_leaves_the_guest_safe() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let (mut receiver, address) = Running::receiver(&[]);
    let sender = Running::start(&slow(&address, report.to_str().unwrap()));
    receiver.event("incoming");
    receiver.signal(Signal::SIGKILL);
    let (status, out, errors) = sender.finish();
    assert_eq!(status.code(), Some(3), "{out}{errors}");
    assert!(out.contains("the guest is safe at the source"), "{out}");
    let report = json(&report);
    assert_eq!(report["source"]["outcome"], "source_keeps_running");
    assert!(report["source"]["failure"].is_string());
    assert_eq!(report["audit"]["clean"], true);
}

#[test]
fn ctrl_c_cancels_and_both_sides_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let (mut receiver, address) = Running::receiver(&[]);
    let sender = Running::start(&slow(&address, report.to_str().unwrap()));
    receiver.event("incoming");
    sender.signal(Signal::SIGINT);
    let (status, out, errors) = sender.finish();
    assert_eq!(status.code(), Some(4), "{out}{errors}");
    assert_eq!(json(&report)["audit"]["clean"], true);
    receiver.event("not_taken_over");
    // The destination is there for the next one.
    let again = ["send", "--to", &address, "--memory", "64MiB", "--warm-up", "50ms"];
    precopy(&again).assert().code(0);
    receiver.event("taken_over");
    receiver.signal(Signal::SIGTERM);
    let stopped = receiver.event("stopped");
    assert!(stopped["ops"].as_u64().unwrap() > 0);
    assert!(receiver.finish().0.success());
}

#[test]
fn after_a_failure_the_guest_goes_on_until_told() {
    let (mut receiver, address) = Running::receiver(&[]);
    let arguments = [
        "send",
        "--to",
        &address,
        "--memory",
        "64MiB",
        "--warm-up",
        "50ms",
        "--bandwidth-cap",
        SLOW,
        "--audit",
    ];
    let mut sender = Running::start(&arguments);
    receiver.event("incoming");
    receiver.signal(Signal::SIGKILL);
    sender.tells("The guest goes on here");
    // Now that the migration is over, nothing but the guest takes processor time.
    let before = processor_ticks(sender.id());
    wait_for("the guest to run", || (processor_ticks(sender.id()) > before + 5).then_some(()));
    sender.signal(Signal::SIGINT);
    let (status, out, errors) = sender.finish();
    assert_eq!(status.code(), Some(3), "{out}{errors}");
    assert!(errors.contains("more writes") && !errors.contains("did 0 more"), "{errors}");
    assert!(out.contains("every page is right"), "{out}");
}

#[test]
fn a_policy_that_gives_up_leaves_the_guest_here_with_advice() {
    let (_receiver, address) = Running::receiver(&[]);
    let arguments = [
        "send",
        "--to",
        &address,
        "--memory",
        "64MiB",
        "--pattern",
        "uniform",
        "--rate",
        "0",
        // What the link carries also on a busy machine, and the guest writes.
        "--bandwidth-cap",
        "40MB/s",
        "--max-rounds",
        "2",
        "--on-limit",
        "give-up",
        "--policy",
        "qemu:downtime_ms=0",
        "--after-failure",
        "exit",
        "--audit",
    ];
    let output = precopy(&arguments).assert().code(3).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("do not converge"), "{errors}");
    assert!(errors.contains("--bandwidth-cap"), "{errors}");
}

#[test]
fn a_destination_started_again_knows_what_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let journal = ["--journal", journal.to_str().unwrap()];
    let (receiver, address) =
        Running::receiver(&[&journal[..], &["--once", "--run-for", "0.1"]].concat());
    let arguments = ["send", "--to", &address, "--memory", "64MiB", "--json"];
    let output = precopy(&arguments).assert().code(0).get_output().clone();
    let sent: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = sent["source"]["migration_id"].as_str().unwrap();
    assert!(receiver.finish().0.success());

    let (_again, address) = Running::receiver(&journal);
    let asked = precopy(&["ask", "--to", &address, "--id", id, "--json"]).assert().code(0);
    let answer: Value = serde_json::from_slice(&asked.get_output().stdout).unwrap();
    assert_eq!(answer["fate"], "committed");
    let other = "00000000000000000000000000000001";
    let asked = precopy(&["ask", "--to", &address, "--id", other]).assert().code(5);
    let text = String::from_utf8(asked.get_output().stdout.clone()).unwrap();
    assert!(text.contains("Keep the guest paused"), "{text}");
}

#[test]
fn a_destination_says_why_it_does_not_take_a_guest() {
    let (_small, address) = Running::receiver(&["--max-memory", "32MiB"]);
    let send = |to: &str| {
        let arguments = ["send", "--to", to, "--memory", "64MiB", "--warm-up", "50ms"];
        let output = precopy(&[&arguments[..], &["--after-failure", "exit"]].concat());
        let output = { output }.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = send(&address);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("reason: ") && text.contains("33554432"), "{text}");
    let (mut full, address) = Running::receiver(&[]);
    assert_eq!(send(&address).0, Some(0));
    full.event("taken_over");
    let (code, text) = send(&address);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("busy"), "{text}");
}

#[test]
fn a_killed_source_leaves_the_destination_ready() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let (mut receiver, address) = Running::receiver(&[]);
    let sender = Running::start(&slow(&address, report.to_str().unwrap()));
    receiver.event("incoming");
    sender.signal(Signal::SIGKILL);
    let refused = receiver.event("not_taken_over");
    assert_eq!(refused["report"]["may_run"], "no");
    assert_eq!(sender.finish().0.code(), None);
    precopy(&["send", "--to", &address, "--memory", "64MiB", "--warm-up", "50ms"]).assert().code(0);
    receiver.event("taken_over");
}

#[test]
fn nobody_there() {
    let arguments = ["send", "--to", NOBODY, "--memory", "64MiB", "--warm-up", "10ms"];
    let output = precopy(&arguments).assert().code(1).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(NOBODY) && errors.contains("unharmed"), "{errors}");
    let more = ["send", "--to", NOBODY, "--memory", "8TiB"];
    let output = precopy(&more).assert().code(1).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("--fill"), "more than this machine has is refused: {errors}");
    let id = "00000000000000000000000000000001";
    precopy(&["ask", "--to", NOBODY, "--id", id, "--timeout", "300ms"]).assert().code(5);
}

/// Keeps what it reads.
struct Tee<'a>(&'a TcpStream, Vec<u8>);

impl Read for Tee<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(into)?;
        self.1.extend_from_slice(&into[..read]);
        Ok(read)
    }
}

/// A link that goes down for good at the moment when Commit has passed.
fn link_that_loses_the_answer_to_commit(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (source, _) = listener.accept().unwrap();
        drop(listener);
        let destination = TcpStream::connect(to).unwrap();
        let (mut from, mut back) = (destination.try_clone().unwrap(), source.try_clone().unwrap());
        thread::spawn(move || io::copy(&mut from, &mut back));
        let mut body = Vec::new();
        loop {
            let mut tee = Tee(&source, Vec::new());
            let Ok(header) = read_frame(&mut tee, &mut body) else { return };
            if header.kind == FrameKind::Commit {
                source.shutdown(Shutdown::Both).unwrap();
            }
            if (&destination).write_all(&tee.1).is_err() {
                return;
            }
        }
    });
    address
}

#[test]
fn a_commit_without_an_answer_is_a_doubt_until_the_destination_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let (mut receiver, address) = Running::receiver(&[]);
    let link = link_that_loses_the_answer_to_commit(address.clone());
    let arguments = [
        "send",
        "--to",
        &link,
        "--memory",
        "64MiB",
        "--warm-up",
        "50ms",
        "--channels",
        "1",
        "--commit-timeout",
        "1s",
        "--query-timeout",
        "1s",
        "--after-failure",
        "exit",
        "--report",
        report.to_str().unwrap(),
    ];
    let output = precopy(&arguments).assert().code(5).get_output().clone();
    let report = json(&report);
    assert_eq!(report["source"]["outcome"], "in_doubt");
    let id = report["source"]["migration_id"].as_str().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains(&format!("precopy ask --to {link} --id {id}")), "{errors}");
    receiver.event("taken_over");
    let asked = precopy(&["ask", "--to", &address, "--id", id]).assert().code(0);
    let text = String::from_utf8(asked.get_output().stdout.clone()).unwrap();
    assert!(text.contains("must not run at the source"), "{text}");
}
