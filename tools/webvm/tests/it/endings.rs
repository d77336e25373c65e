// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Source and destination as two processes, and one of them killed with SIGKILL, or the link cut,
//! at every step of the protocol. Never two runners; the guest runs wherever the protocol allows
//! it; every wait ends.
//!
//! `cargo test -p webvm --test it endings -- --nocapture` prints the table.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use precopy::engine::{
    CancelToken, CreatedGuest, DestinationOptions, EngineEvent, Receiver, SourceOptions,
    SourceParts, send,
};
use precopy::guest::GuestControl;
use precopy::policy;
use precopy::region::RegionTable;
use precopy::report::Outcome;
use precopy::session::SessionEvent;
use precopy::sys::Backing;
use precopy::transport::fault::{
    Direction, Fault, FaultAction, FaultPlan, FaultPoint, FaultyConnector,
};
use precopy::transport::{TcpConnector, TcpListener, TcpOptions};
use precopy::units::PageSize;
use precopy::wire::{FrameKind, Hello};
use webvm::GuestConfig;

use crate::guest::{Shared, memory};

const GUEST: &str = "pattern=uniform,vcpus=2,pages_per_s=20000,fill=100%,seed=3";
/// No child may live longer, whatever happens.
const CHILD_LIMIT: Duration = Duration::from_secs(120);
/// Longer than a process stands still on a busy machine. No ending is to come of a time limit but
/// that of a destination that stays dead.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a child is to do; travels in its environment.
fn setting(name: &str) -> Option<String> {
    std::env::var(format!("PRECOPY_CHILD_{name}")).ok().filter(|text| !text.is_empty())
}

/// Not a test of its own: the children of this file start here.
#[test]
fn child() {
    match setting("ROLE").as_deref() {
        Some("source") => source(),
        Some("destination") => destination(),
        _ => {}
    }
}

/// The process kills itself when it reaches the phase of this name.
fn die_at(phase: &str) {
    if setting("DIE_AT").as_deref() == Some(phase) {
        let me = std::process::id().to_string();
        let _ = Command::new("kill").args(["-KILL", &me]).status();
        thread::sleep(CHILD_LIMIT);
    }
}

fn phase_name(phase: impl serde::Serialize) -> String {
    serde_json::to_value(phase).unwrap().as_str().unwrap().to_owned()
}

fn source() {
    let config: GuestConfig = GUEST.parse().unwrap();
    let table = RegionTable::single(PageSize::BASE, 2048).unwrap();
    let guest = Shared::new(&config, memory(table.clone(), Backing::Anonymous));
    guest.vm.fill().unwrap();
    guest.vm.clone().resume().unwrap();
    let mut options = SourceOptions::new(policy::parse("fixed-rounds:rounds=2").unwrap());
    options.channels = 2;
    options.verify = true;
    options.stall_timeout = PATIENCE;
    options.negotiate_timeout = PATIENCE;
    options.ready_timeout = PATIENCE;
    options.commit_timeout = PATIENCE;
    let asks_in_vain = setting("ASKS_IN_VAIN").is_some();
    options.query_timeout = if asks_in_vain { Duration::from_secs(1) } else { PATIENCE };
    let tcp = TcpConnector::new(setting("ADDR").unwrap(), TcpOptions::default());
    let mut connector = FaultyConnector::new(Box::new(tcp), cut_plan());
    let mut sink = |event: &EngineEvent| {
        if let EngineEvent::Source(SessionEvent::Phase { phase, .. }) = event {
            die_at(&phase_name(phase));
        }
    };
    let mut tracker = guest.tracker("pagemap");
    let mut control = guest.vm.clone();
    let parts =
        SourceParts::new(Arc::new(guest.memory.clone()), table, &mut *tracker, &mut control);
    let report = send(options, &mut connector, parts, &CancelToken::new(), &mut sink).unwrap();
    let failure = report.failure.unwrap_or_default();
    let running = guest.vm.is_running();
    if running {
        run_on(&guest);
    }
    guest.audit();
    println!("CHILD {:?} running={running} {failure}", report.outcome);
}

/// The guest really runs: its op count grows.
fn run_on(guest: &Shared) {
    let before = guest.vm.ops();
    while guest.vm.ops() < before + 50 {
        thread::sleep(Duration::from_millis(1));
    }
}

fn cut_plan() -> FaultPlan {
    let Some(kind) = setting("CUT") else { return FaultPlan::none() };
    let kind = (1..=19).filter_map(FrameKind::from_wire).find(|k| format!("{k:?}") == kind);
    let direction =
        if setting("CUT_BACK").is_some() { Direction::ToSource } else { Direction::ToDestination };
    let point = FaultPoint::FrameOf(kind.expect("a frame kind"), 0);
    let connection = usize::from(setting("CUT").as_deref() == Some("Attach"));
    FaultPlan::one(Fault::new(connection, direction, point, FaultAction::Reset))
}

fn destination() {
    let addr = setting("ADDR").unwrap();
    let listener = TcpListener::bind(&addr, TcpOptions::default()).unwrap();
    println!("CHILD listening {}", listener.local_addr());
    let mut options = DestinationOptions::default();
    options.session.stall_timeout = PATIENCE;
    options.session.commit_timeout = PATIENCE;
    options.journal = setting("JOURNAL").map(Into::into);
    let mut receiver = Receiver::bind(Box::new(listener), options).unwrap();
    let config: GuestConfig = GUEST.parse().unwrap();
    let mut there = None;
    let mut factory = |hello: &Hello| {
        let guest = Shared::new(&config, memory(hello.regions.clone(), Backing::Anonymous));
        there = Some(guest.clone());
        let memory = Arc::new(guest.memory.clone());
        Ok(CreatedGuest { memory, guest: Box::new(guest.vm) })
    };
    let mut sink = |event: &EngineEvent| {
        if let EngineEvent::Destination { phase, .. } = event {
            die_at(&phase_name(phase));
        }
    };
    let cancel = CancelToken::new();
    // One that only answers for its predecessor ends when its parent has heard enough.
    let until = cancel.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().lines().next();
        until.cancel();
    });
    let result = receiver.receive(&mut factory, &cancel, &mut sink);
    let took_over = result.is_ok();
    if let Some(guest) = &there {
        let running = guest.vm.is_running();
        if running {
            run_on(guest);
            guest.audit();
            guest.vm.clone().resume().unwrap();
        }
        let why = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        println!("CHILD took_over={took_over} running={running} {why}");
    }
    // Stays to answer queries until the parent is done with the source.
    while !cancel.is_cancelled() {
        thread::sleep(Duration::from_millis(5));
    }
}

struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(role: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "endings::child", "--nocapture", "--test-threads=1"]);
        command.env("PRECOPY_CHILD_ROLE", role);
        for (name, value) in settings {
            command.env(format!("PRECOPY_CHILD_{name}"), value);
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = piped.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The child's next word; `None` when it has ended (or was killed).
    fn word(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).ok()? > 0 {
            if let Some(at) = line.find("CHILD ") {
                return Some(line[at + 6..].trim().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Waits for the end, which must come by itself.
    fn end(&mut self) {
        drop(self.child.stdin.take());
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < CHILD_LIMIT, "a child hangs");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a disturbed migration came to.
#[derive(Debug)]
struct Ending {
    source: Option<String>,
    destination: Option<String>,
}

impl Ending {
    fn source_runs(&self) -> bool {
        self.source.as_ref().is_some_and(|word| word.contains("running=true"))
    }

    fn destination_runs(&self) -> bool {
        self.destination.as_ref().is_some_and(|word| word.contains("running=true"))
    }

    fn source_said(&self, outcome: Outcome) -> bool {
        self.source.as_ref().is_some_and(|word| word.starts_with(&format!("{outcome:?}")))
    }
}

/// An address of the loopback network that only the destinations of this process listen at, and
/// that nobody connects from: a port that a killed destination has left is free for the next one.
/// Those that are not started again have one of their own.
fn address(restart: bool) -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let block = if restart { 64 } else { 160 };
    format!("127.{}.{middle}.{low}:0", block + high)
}

/// Two processes, disturbed; a killed destination is started again if `restart` says so.
fn disturbed(
    source_settings: &[(&str, &str)],
    destination_settings: &[(&str, &str)],
    restart: bool,
) -> Ending {
    let at = address(restart);
    let mut first = vec![("ADDR", at.as_str())];
    first.extend_from_slice(destination_settings);
    let mut destination = Process::start("destination", &first);
    let listening = destination.word().expect("a destination that listens");
    let addr = listening.strip_prefix("listening ").unwrap().to_owned();
    let mut settings = vec![("ADDR", addr.as_str())];
    settings.extend_from_slice(source_settings);
    let mut source = Process::start("source", &settings);
    let mut second = None;
    if restart {
        assert!(destination.word().is_none(), "it was to be killed");
        destination.end();
        let journal = destination_settings.iter().copied().filter(|(name, _)| *name == "JOURNAL");
        let again: Vec<(&str, &str)> =
            std::iter::once(("ADDR", addr.as_str())).chain(journal).collect();
        second = Some(Process::start("destination", &again));
    }
    let source_word = source.word();
    source.end();
    let destination_word = if second.is_some() { None } else { destination.word_or_end() };
    destination.end();
    if let Some(mut second) = second {
        second.end();
    }
    Ending { source: source_word, destination: destination_word }
}

impl Process {
    /// The word of a destination; one that no source ever got to is told to end first.
    fn word_or_end(&mut self) -> Option<String> {
        thread::sleep(Duration::from_millis(50));
        drop(self.child.stdin.take());
        self.word()
    }
}

fn brief(word: Option<&String>) -> String {
    word.map_or_else(|| "-".to_owned(), |word| word.chars().take(110).collect())
}

#[test]
fn killed_at_every_step() {
    let row = |what: &str, ending: &Ending| {
        let (source, destination) =
            (brief(ending.source.as_ref()), brief(ending.destination.as_ref()));
        println!("{what:<44} | {source} | {destination}");
        assert!(!(ending.source_runs() && ending.destination_runs()), "two runners: {ending:?}");
    };
    for phase in [
        "negotiating",
        "attaching",
        "arming",
        "scanning",
        "round",
        "awaiting_ack",
        "harvesting",
        "pausing",
        "final_harvest",
        "final_round",
        "preparing",
        "committing",
    ] {
        let ending = disturbed(&[("DIE_AT", phase)], &[], false);
        row(&format!("source killed at {phase}"), &ending);
        assert!(ending.source.is_none(), "{ending:?}");
        // Commit may or may not have left before the kill.
        assert!(!ending.destination_runs() || phase == "committing", "{ending:?}");
    }
    let folder = std::env::temp_dir().join(format!("precopy-endings-{}", std::process::id()));
    // What a process of the same number left when it was killed would settle other migrations.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for phase in ["attaching", "receiving", "preparing", "ready", "committing", "running"] {
        for restart in [false, true] {
            let journal = folder.join(format!("{phase}-{restart}"));
            let journal = journal.to_str().unwrap();
            let settings: Vec<(&str, &str)> = if restart {
                vec![("DIE_AT", phase), ("JOURNAL", journal)]
            } else {
                vec![("DIE_AT", phase)]
            };
            let asks: &[_] = if restart { &[] } else { &[("ASKS_IN_VAIN", "1")] };
            let ending = disturbed(asks, &settings, restart);
            let again = if restart { ", restarted" } else { "" };
            row(&format!("destination killed at {phase}{again}"), &ending);
            let before_commit = !matches!(phase, "committing" | "running" | "ready");
            assert!(ending.source_runs() || !before_commit, "{ending:?}");
            if restart {
                assert!(
                    !ending.source_said(Outcome::InDoubt),
                    "the journal settles it: {ending:?}"
                );
            }
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn cut_at_every_step() {
    let forth = ["Hello", "Attach", "Announce", "Pages", "RoundEnd", "State", "Prepare", "Commit"];
    let back = ["Accept", "ChannelsReady", "RoundAck", "Ready", "Committed"];
    let cuts = forth.map(|kind| (kind, "")).into_iter().chain(back.map(|kind| (kind, "1")));
    for (kind, reply) in cuts {
        let ending = disturbed(&[("CUT", kind), ("CUT_BACK", reply)], &[], false);
        let (source, destination) =
            (brief(ending.source.as_ref()), brief(ending.destination.as_ref()));
        println!("link reset at {kind:<15} | {source} | {destination}");
        assert!(!(ending.source_runs() && ending.destination_runs()), "two runners: {ending:?}");
        assert!(ending.source_runs() || ending.destination_runs(), "no runner: {ending:?}");
        // The destination was there to be asked: nothing stays in doubt.
        assert!(!ending.source_said(Outcome::InDoubt), "{ending:?}");
        assert_eq!(ending.destination_runs(), kind == "Committed", "{ending:?}");
    }
}
