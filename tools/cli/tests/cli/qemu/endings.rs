// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes that are killed at each step of a migration: never do two QEMUs run the guest, and
//! none is left stopped or write-protected without a word.

use std::fmt;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use precopy::wire::FrameKind;
use serde_json::Value;

use super::gate::{Gate, Then};
use super::vm::{Spec, Vm, there_is_a_qemu};
use super::{receiver, setting};
use crate::support::{Running, precopy, wait_for};

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Sender,
    Receiver,
    SourceQemu,
    DestinationQemu,
}

use Victim::{DestinationQemu, Receiver, Sender, SourceQemu};

const VICTIMS: [Victim; 4] = [Sender, Receiver, SourceQemu, DestinationQemu];
/// The step is this frame, held on the way: pages flow; state and residual are sent; everything
/// is sent; the destination is ready; Commit was tried; the destination runs the guest.
const STEPS: [FrameKind; 6] = [
    FrameKind::Pages,
    FrameKind::State,
    FrameKind::Prepare,
    FrameKind::Ready,
    FrameKind::Commit,
    FrameKind::Committed,
];

/// What has become of a QEMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Runs,
    Stopped,
    Waits,
    Gone,
}

impl Side {
    fn of(vm: &mut Vm) -> Self {
        match &*vm.status() {
            "running" => Self::Runs,
            "inmigrate" => Self::Waits,
            "gone" => Self::Gone,
            _ => Self::Stopped,
        }
    }
}

/// How a case ended.
struct End {
    code: Option<i32>,
    source: Side,
    destination: Side,
    said: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "killed".to_owned(), |code| format!("exit {code}"));
        write!(f, "{code}, source {:?}, destination {:?}", self.source, self.destination)
    }
}

struct Case {
    source: Vm,
    destination: Vm,
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let mut spec = Spec::new(64);
        "pages=1024 pace=50".clone_into(&mut spec.append);
        let source = Vm::running(&spec);
        let destination = Vm::start(&spec.incoming());
        Self { source, destination, folder: tempfile::tempdir().unwrap() }
    }

    /// Never do both run: what ran before and after the other was seen to run, ran with it.
    fn never_two(&mut self) {
        let first = Side::of(&mut self.source);
        let other = Side::of(&mut self.destination);
        let two = first == Side::Runs && other == Side::Runs;
        assert!(!two || Side::of(&mut self.source) != Side::Runs, "two QEMUs run the guest");
    }

    fn run(&mut self, step: FrameKind, victim: Victim, then: Then) -> End {
        let journal = self.folder.path().join("journal");
        let journal = journal.to_str().unwrap();
        // Who lost Commit is asked by a guard, and answers until that has ended.
        let answers = if then == Then::Lose { "10m" } else { "100ms" };
        let more = ["--once", "--journal", journal, "--answer-for", answers];
        let (receiver, address) = receiver(&self.destination, &more);
        let gate = Gate::new(&address, step);
        let sender = self.send(&gate.address);
        gate.wait();
        match victim {
            Sender => sender.signal(Signal::SIGKILL),
            Receiver => receiver.signal(Signal::SIGKILL),
            SourceQemu => self.source.kill(),
            DestinationQemu => self.destination.kill(),
        }
        self.never_two();
        gate.go_on(then);
        for _ in 0..10 {
            self.never_two();
            thread::sleep(Duration::from_millis(10));
        }
        // Ends with the guard, which holds the same standard error.
        let (status, _, mut said) = sender.finish();
        self.never_two();
        if then == Then::Lose {
            receiver.signal(Signal::SIGINT);
        }
        said.push_str(&receiver.finish().2);
        self.never_two();
        let (source, destination) = (Side::of(&mut self.source), Side::of(&mut self.destination));
        End { code: status.code(), source, destination, said }
    }

    /// Nobody is silent here: who is killed is missed at once. So only the asking has a limit that
    /// is waited for, and a held frame is none of a peer that hangs.
    fn send(&self, to: &str) -> Running {
        let socket = self.source.socket();
        let arguments = [
            "qemu",
            "send",
            "--qmp",
            &socket,
            "--to",
            to,
            "--json",
            "--channels",
            "1",
            "--stall-timeout",
            "3m",
            "--ready-timeout",
            "3m",
            "--commit-timeout",
            "3m",
            "--query-timeout",
            "1s",
        ];
        Running::start(&arguments)
    }

    /// Whoever runs, runs well; nobody is left write-protected.
    fn check(&mut self, end: &End) {
        for (vm, side) in [(&mut self.source, end.source), (&mut self.destination, end.destination)]
        {
            assert!(!vm.is_write_protected());
            if side == Side::Runs {
                vm.prove_that_it_runs();
            }
        }
    }
}

/// What must come of it: the source's and the destination's QEMU, and the sender's exit code.
fn expected(step: FrameKind, victim: Victim) -> (Side, Side, Option<i32>) {
    use FrameKind::{Commit, Committed, Pages, Prepare, Ready, State};
    use Side::{Gone, Runs, Stopped, Waits};
    match (victim, step) {
        // The guard lets the guest go on, or learns that it was handed over.
        (Sender, Pages | State) => (Runs, Waits, None),
        (Sender, Prepare | Ready) => (Runs, Gone, None),
        (Sender, _) => (Stopped, Runs, None),
        // Its guard ends a QEMU that took the state: the journal says that it was never committed.
        (Receiver, Pages | State | Prepare) => (Runs, Waits, Some(3)),
        // Once it hears Ready, the source tries Commit: a doubt, which the journal settles.
        (Receiver, Ready | Commit) => (Stopped, Gone, Some(5)),
        (Receiver, _) => (Stopped, Runs, Some(0)),
        // The guest is lost while QEMU still has it; later it is saved.
        (SourceQemu, Pages) => (Gone, Waits, Some(1)),
        (SourceQemu, _) => (Gone, Runs, Some(0)),
        // The source goes on, until the guest has run at the destination.
        (DestinationQemu, Committed) => (Stopped, Gone, Some(0)),
        (DestinationQemu, _) => (Runs, Gone, Some(3)),
    }
}

fn ends_as_it_must(step: FrameKind, victim: Victim) {
    let mut case = Case::new();
    // How much a sender has sent when it is killed is for the machine to say: this frame arrives,
    // and no more.
    let then = if victim == Sender { Then::Last } else { Then::Pass };
    let end = case.run(step, victim, then);
    let what = format!("{victim:?} killed at {step:?}");
    println!("{what:<36} {end}");
    let found = (end.source, end.destination, end.code);
    // The question of a dead sender's guard may overtake Commit, which then counts no more (R4).
    let overtaken = (Side::Runs, Side::Gone, None);
    if (victim, step, found) != (Sender, FrameKind::Commit, overtaken) {
        assert_eq!(found, expected(step, victim), "{what}: {}", end.said);
    }
    case.check(&end);
    if end.source == Side::Stopped && end.destination != Side::Runs && victim != DestinationQemu {
        assert!(end.said.contains("precopy qemu release"), "{what}: {}", end.said);
    }
    if victim == Sender {
        assert!(end.said.contains("has died") || step == FrameKind::Pages, "{what}: {}", end.said);
    }
}

/// `PRECOPY_QEMU_KILLS=24` tries every process at every step.
#[test]
fn whoever_is_killed_whenever_at_most_one_qemu_runs() {
    if !there_is_a_qemu() {
        return;
    }
    // A prime step through the table: a small number takes different processes and steps.
    let all = VICTIMS.len() * STEPS.len();
    let cases = usize::try_from(setting("PRECOPY_QEMU_KILLS", 3)).unwrap().min(all);
    for number in 0..cases {
        let at = (3 + number * 7) % all;
        ends_as_it_must(STEPS[at % STEPS.len()], VICTIMS[at / STEPS.len()]);
    }
}

#[test]
fn a_commit_that_never_arrived_lets_the_guest_go_on_at_the_source() {
    if !there_is_a_qemu() {
        return;
    }
    let mut case = Case::new();
    let end = case.run(FrameKind::Commit, Sender, Then::Lose);
    assert_eq!((end.source, end.destination), (Side::Runs, Side::Gone), "{}", end.said);
    assert!(end.said.contains("never took the guest over, it goes on here"), "{}", end.said);
    case.check(&end);
}

#[test]
fn a_doubt_is_settled_by_release() {
    if !there_is_a_qemu() {
        return;
    }
    let mut case = Case::new();
    let end = case.run(FrameKind::Commit, Receiver, Then::Pass);
    assert_eq!((end.code, end.source), (Some(5), Side::Stopped), "{}", end.said);
    let id = end.said.split("--id ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let socket = case.source.socket();
    let release = ["qemu", "release", "--qmp", &socket];
    precopy(&release).assert().code(5);
    // The journal knows; another QEMU's receiver reads it out.
    let mut spec = Spec::new(64);
    "pages=1024 pace=50".clone_into(&mut spec.append);
    let other = Vm::start(&spec.incoming());
    let journal = case.folder.path().join("journal");
    let (_answers, address) = receiver(&other, &["--journal", journal.to_str().unwrap()]);
    let asking = [&release[..], &["--to", &address, "--id", &id]].concat();
    let output = precopy(&asking).assert().code(0).get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("never took the guest over"), "{text}");
    case.source.prove_that_it_runs();
    precopy(&release).assert().code(0).stdout("The guest runs; nothing holds it\n");
}

#[test]
fn ctrl_c_lets_the_guest_go_on_and_the_destination_takes_the_next_attempt() {
    if !there_is_a_qemu() {
        return;
    }
    let mut case = Case::new();
    let (mut receiver, address) = receiver(&case.destination, &[]);
    let gate = Gate::new(&address, FrameKind::State);
    let sender = case.send(&gate.address);
    gate.wait();
    sender.signal(Signal::SIGINT);
    let (status, _, errors) = sender.finish();
    gate.go_on(Then::Lose);
    assert_eq!(status.code(), Some(4), "{errors}");
    assert!(!case.source.is_write_protected());
    case.source.prove_that_it_runs();
    receiver.event("not_taken_over");
    let sender = case.send(&address);
    let (status, out, errors) = sender.finish();
    assert_eq!(status.code(), Some(0), "{errors}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["source"]["outcome"], "handed_over");
    receiver.event("taken_over");
    case.destination.prove_that_it_runs();
}

/// Files beside a migration decide nothing: QEMU is left as it must be, and the guard goes.
#[test]
fn a_full_disk_is_no_failed_migration() {
    if !there_is_a_qemu() {
        return;
    }
    let mut case = Case::new();
    let full = ["--report", "/dev/full"];
    let (mut receiver, address) = receiver(&case.destination, &[&["--once"], &full[..]].concat());
    let socket = case.source.socket();
    let send = ["qemu", "send", "--qmp", &socket, "--to", &address, "--events", "/dev/full"];
    let output = precopy(&[&send, &full[..]].concat()).assert().code(6).get_output().clone();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("No space left on device"), "{errors}");
    assert!(!errors.contains("has died"), "the guard thought so: {errors}");
    receiver.event("taken_over");
    assert_eq!(receiver.finish().0.code(), Some(6));
    assert!(!case.source.has_capability("x-ignore-shared"));
    case.destination.prove_that_it_runs();
}

#[test]
fn a_stopped_guest_that_nobody_guards_is_released_by_hand() {
    if !there_is_a_qemu() {
        return;
    }
    let mut case = Case::new();
    case.source.execute("stop", Value::Null);
    case.source.capability("x-ignore-shared", true);
    let socket = case.source.socket();
    precopy(&["qemu", "release", "--qmp", &socket]).assert().code(0);
    wait_for("the guest", || (case.source.status() == "running").then_some(()));
    let on = case.source.has_capability("x-ignore-shared");
    assert!(!on, "a later migration of QEMU's own would leave out all RAM");
    let waiting = case.destination.socket();
    let output = precopy(&["qemu", "release", "--qmp", &waiting]).assert().code(1);
    let errors = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("waits for a guest"), "{errors}");
}
