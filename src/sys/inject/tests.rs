// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of attaching: victims are copies of the test program that do what a variable says.
#![allow(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe};

use super::helper::{Report, Step};
use super::{InjectError, attach, launch, target};
use crate::bitmap::DenseBitmap;
use crate::dirty::{DirtyError, DirtyTracker, ProcessTracker};
use crate::sys::{
    Backing, Categories, Mapping, Pagemap, Process, ProcessMap, Query, RegionBuffer, UffdMode,
    Userfaultfd,
};
use crate::units::{GuestAddress, PageIndex, PageSize};

const VICTIM: &str = "PRECOPY_TEST_VICTIM";
/// How often things that are tried at random are tried.
const ROUNDS: &str = "PRECOPY_ATTACH_ROUNDS";

fn rounds(default: u64) -> u64 {
    std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Not a test by itself: the processes that the others attach to.
#[test]
fn victim() {
    let Ok(orders) = std::env::var(VICTIM) else { return };
    let words: Vec<&str> = orders.split(' ').collect();
    match words[0] {
        "hammer" => hammer(words[1].parse().unwrap()),
        "block" => block(words[1]),
        "spin" => spin(),
        "wait" => wait(),
        "confined" => {
            kill_for_userfaultfd();
            wait();
        }
        "keep" => keep(words[1].parse().unwrap(), words[2].parse().unwrap()),
        "again" => again(words[1].parse().unwrap()),
        "remap" => remap(),
        "try" => {
            let process = Process::open(words[1].parse().unwrap()).unwrap();
            say(&attach(&process).map_or_else(|error| error.to_string(), |_| "done".to_owned()));
        }
        what => panic!("{what}"),
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{what}").unwrap();
    out.flush().unwrap();
}

/// Waits until a line comes, or the other end is gone.
fn listen() {
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Memory of which the tests know where it is.
fn wait() {
    let memory = Mapping::new(4 << 20, Backing::Anonymous).unwrap();
    memory.words().iter().for_each(|word| word.store(1, SeqCst));
    say(&memory.addresses().start.to_string());
    listen();
    let before = minor_faults();
    memory.words().iter().step_by(512).for_each(|word| word.store(2, SeqCst));
    say(&(minor_faults() - before).to_string());
    listen();
}

fn minor_faults() -> i64 {
    nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)
        .unwrap()
        .minor_page_faults()
}

/// Threads that do what threads do, and check that nothing came out wrong.
fn hammer(threads: usize) {
    let stop = AtomicBool::new(false);
    let (turns, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let slept = (Mutex::new(0u64), Condvar::new());
    let block = Mapping::new(threads * 4096, Backing::Anonymous).unwrap();
    thread::scope(|scope| {
        for number in 0..threads {
            let (stop, turns, wrong, slept, block) = (&stop, &turns, &wrong, &slept, &block);
            scope.spawn(move || {
                let mut turn = 0;
                while !stop.load(SeqCst) {
                    turn += 1;
                    let fine = one_turn(number, turn, slept, block);
                    wrong.fetch_add(u64::from(!fine), SeqCst);
                    turns.fetch_add(1, SeqCst);
                }
            });
        }
        say("running");
        listen();
        stop.store(true, SeqCst);
    });
    say(&format!("{} {}", turns.load(SeqCst), wrong.load(SeqCst)));
}

fn one_turn(number: usize, turn: u64, slept: &(Mutex<u64>, Condvar), block: &Mapping) -> bool {
    let (from, into) = pipe().unwrap();
    let (mut from, mut into) = (std::fs::File::from(from), std::fs::File::from(into));
    let sent = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number as u64;
    into.write_all(&sent.to_ne_bytes()).unwrap();
    let mut got = [0; 8];
    from.read_exact(&mut got).unwrap();
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&from), PollFlags::POLLIN)];
    let polled = poll(&mut fds, PollTimeout::from(u8::from(turn.is_multiple_of(8))));
    if turn.is_multiple_of(4) {
        thread::sleep(Duration::from_micros(20));
    }
    if turn.is_multiple_of(5) {
        let guard = slept.0.lock().unwrap();
        drop(slept.1.wait_timeout(guard, Duration::from_micros(50)).unwrap());
        slept.1.notify_one();
    }
    let word = &block.words()[number * 512 + usize::try_from(turn % 512).unwrap()];
    word.store(sent, SeqCst);
    let sum = |salt: f64| (0..200).fold(salt, |sum, at| (sum + f64::from(at)).sqrt() + salt);
    let computed = sum(sent as f64).to_bits() == sum(std::hint::black_box(sent as f64)).to_bits();
    u64::from_ne_bytes(got) == sent && polled == Ok(0) && word.load(SeqCst) == sent && computed
}

/// A thread that waits in one system call until it is told to go on, and says what it returned.
fn block(call: &str) {
    let (from, into) = pipe().unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            say(&nix::unistd::gettid().to_string());
            let answer = wait_in(call, from);
            format!("{answer} after {}", began.elapsed().as_millis())
        });
        listen();
        // Nobody reads it if the call has returned already.
        let _ = std::fs::File::from(into).write_all(b"x");
        say(&thread.join().unwrap());
    });
}

fn wait_in(call: &str, from: OwnedFd) -> String {
    let readable = || PollFd::new(std::os::fd::AsFd::as_fd(&from), PollFlags::POLLIN);
    match call {
        "read" => format!("{:?}", nix::unistd::read(&from, &mut [0; 8])),
        "poll" => format!("{:?}", poll(&mut [readable()], PollTimeout::NONE)),
        "poll-timeout" => format!("{:?}", poll(&mut [readable()], 60_000u16)),
        "sleep" => {
            let time = libc::timespec { tv_sec: 1, tv_nsec: 0 };
            // SAFETY: the pointer is to a live local.
            let answer = unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
            format!("Ok({answer})")
        }
        "epoll" => {
            let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
            epoll.add(&from, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
            let mut events = [EpollEvent::empty()];
            format!("{:?}", epoll.wait(&mut events, EpollTimeout::NONE))
        }
        "futex" => {
            let (sender, receiver) = std::sync::mpsc::channel();
            thread::spawn(move || {
                let read = nix::unistd::read(&from, &mut [0; 8]);
                sender.send(read).unwrap();
            });
            format!("{:?}", receiver.recv().unwrap())
        }
        what => panic!("{what}"),
    }
}

/// A thread that makes no system call.
fn spin() {
    let (stop, turns) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            say(&nix::unistd::gettid().to_string());
            let (mut hash, mut sum, mut wrong) = (1u64, 0.0f64, 0u64);
            while !stop.load(SeqCst) {
                let before = (hash, sum);
                for at in 0..1000u64 {
                    hash = (hash ^ at).wrapping_mul(0x100_0000_01b3).rotate_left(7);
                    sum = (sum + at as f64).sqrt();
                }
                let (mut other, mut again) = std::hint::black_box(before);
                for at in 0..1000u64 {
                    other = (other ^ at).wrapping_mul(0x100_0000_01b3).rotate_left(7);
                    again = (again + at as f64).sqrt();
                }
                wrong += u64::from(other != hash || again.to_bits() != sum.to_bits());
                turns.fetch_add(1, SeqCst);
            }
            wrong
        });
        listen();
        stop.store(true, SeqCst);
        say(&format!("{} {}", turns.load(SeqCst), thread.join().unwrap()));
    });
}

/// Kills the process for userfaultfd(2), and lets everything else pass.
fn kill_for_userfaultfd() {
    let op =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let number = u32::try_from(libc::SYS_userfaultfd).unwrap();
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: the program is valid and outlives the call; all threads are to have it.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    assert_eq!(answer, 0);
}

/// Attaches to a process and protects its memory, until it is killed.
fn keep(pid: u32, start: usize) {
    let process = Process::open(pid).unwrap();
    let attachment = attach(&process).unwrap();
    let addresses = start..start + (4 << 20);
    attachment.uffd().register(&addresses).unwrap();
    protect(&Pagemap::of(&process).unwrap(), addresses.clone());
    assert_eq!(protected(&process, addresses), 1024);
    say("protected");
    listen();
}

/// Attaches to a process again and again, until it is killed.
fn again(pid: u32) {
    let process = Process::open(pid).unwrap();
    say("running");
    loop {
        attach(&process).unwrap();
    }
}

fn protect(pagemap: &Pagemap, addresses: std::ops::Range<usize>) {
    let query = Query { all_of: Categories::WRITTEN, protect: true, ..Query::default() };
    pagemap.scan(addresses, query, &mut RegionBuffer::new(), |_, _| {}).unwrap();
}

/// Maps other memory into the middle of what it had, and writes to the first and last page of it.
fn remap() {
    let memory = Mapping::new(4 << 20, Backing::Anonymous).unwrap();
    memory.words().iter().step_by(512).for_each(|word| word.store(1, SeqCst));
    let start = memory.addresses().start;
    say(&start.to_string());
    listen();
    let place: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start + (1 << 20));
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: replaces a part of the mapping above, which stays readable and writable.
    let mapped = unsafe { libc::mmap(place, 1 << 20, protection, flags, -1, 0) };
    assert_eq!(mapped, place);
    for turn in 0..3 {
        memory.words()[256 * 512].store(turn, SeqCst);
        memory.words()[511 * 512].store(turn, SeqCst);
        say("written");
        listen();
    }
}

/// Pages that are write-protected.
fn protected(process: &Process, addresses: std::ops::Range<usize>) -> usize {
    let query = Query {
        all_of: Categories::PRESENT,
        none_of: Categories::WRITTEN,
        report: Categories::PRESENT,
        ..Query::default()
    };
    let mut pages = 0;
    let pagemap = Pagemap::of(process).unwrap();
    pagemap
        .scan(addresses, query, &mut RegionBuffer::new(), |found, _| pages += found.len() / 4096)
        .unwrap();
    pages
}

struct Victim {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Victim {
    fn start(orders: &str) -> Self {
        Self::run(Command::new(std::env::current_exe().unwrap()), orders)
    }

    fn run(mut command: Command, orders: &str) -> Self {
        let mut child = command
            .args(["--exact", "sys::inject::tests::victim", "--nocapture", "--quiet"])
            .env(VICTIM, orders)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the child has ended");
            if let Some(said) = line.strip_prefix('@') {
                return said.trim_end().to_owned();
            }
        }
    }

    fn numbers(&mut self) -> Vec<u64> {
        self.hear().split(' ').map(|word| word.parse().unwrap()).collect()
    }

    fn go_on(&mut self) {
        writeln!(self.input).unwrap();
    }

    fn process(&self) -> Process {
        Process::open(self.child.id()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Attaches to one thread.
fn attach_to(process: &Process, thread: i32) -> Result<super::Attachment, InjectError> {
    let mut target = target::look(process)?;
    target.threads = vec![thread];
    launch::attach_by(process, &target)
}

/// Whether processes can be attached to here; says so if not.
fn can_attach() -> bool {
    let mut victim = Victim::start("wait");
    victim.hear();
    match attach(&victim.process()) {
        Ok(_) => true,
        Err(why) => {
            crate::skipped(format_args!("{why}"));
            false
        }
    }
}

/// No userfaultfd is left, and nobody traces it.
fn assert_untouched(process: &Process) {
    // The helper of a process that was killed goes on for a moment.
    let left = || {
        let files = std::fs::read_dir(process.proc("fd")).unwrap().flatten();
        let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let open = links.filter(|link| link.to_string_lossy().contains("userfaultfd")).count();
        let status = std::fs::read_to_string(process.proc("status")).unwrap();
        (open, status.contains("TracerPid:\t0"))
    };
    let until = Instant::now() + Duration::from_secs(10);
    while left() != (0, true) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(left(), (0, true));
}

#[test]
fn busy_threads_come_to_no_harm() {
    fn wait_for_end(helper: u32) {
        println!("process {helper} needed longer than it may");
        let path = format!("/proc/{helper}/stat");
        for _ in 0..600 {
            // A zombie has ended.
            if std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("process {helper} still waits to put registers back");
    }

    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("hammer 32");
    victim.hear();
    let process = victim.process();
    let mut pauses = Vec::new();
    for round in 0..rounds(10) {
        // By any of its threads, not only by the best.
        let target = target::look(&process).unwrap();
        let at = usize::try_from(round).unwrap() % target.threads.len();
        match attach_to(&process, target.threads[at]) {
            Ok(attachment) => pauses.push(attachment.pause()),
            // Too busy to be answered in time: whoever was left behind must still end its work.
            Err(InjectError::Stuck { helper, .. }) => wait_for_end(helper),
            Err(error) => panic!("{round}: {error}"),
        }
    }
    pauses.sort_unstable();
    println!("median {:?}, longest {:?}", pauses[pauses.len() / 2], pauses.last().unwrap());
    assert_untouched(&process);
    victim.go_on();
    let said = victim.numbers();
    assert!(said[0] > 100 && said[1] == 0, "turns and wrong results: {said:?}");
}

/// System calls that a thread waits in are taken up again, with what is left of their time.
#[test]
fn interrupted_system_calls_go_on() {
    if !can_attach() {
        return;
    }
    for call in ["read", "poll", "poll-timeout", "sleep", "futex", "epoll"] {
        let mut victim = Victim::start(&format!("block {call}"));
        let thread = i32::try_from(victim.numbers()[0]).unwrap();
        let process = victim.process();
        let place = process.proc(format!("task/{thread}/syscall"));
        let waits = || std::fs::read_to_string(&place).is_ok_and(|call| !call.starts_with('r'));
        while !waits() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
        for _ in 0..5 {
            attach_to(&process, thread).unwrap();
            thread::sleep(Duration::from_millis(5));
            if call == "epoll" {
                break;
            }
        }
        victim.go_on();
        let said = victim.hear();
        let (answer, millis) = said.split_once(" after ").unwrap();
        match call {
            "sleep" => {
                let millis: u64 = millis.parse().unwrap();
                assert!(answer == "Ok(0)" && millis >= 1000, "{said}");
            }
            // As after any stop (signal(7)).
            "epoll" => assert!(["Ok(1)", "Err(EINTR)"].contains(&answer), "{said}"),
            _ => assert_eq!(answer, "Ok(1)", "{call}"),
        }
    }
}

/// A thread in user mode goes on where it was, by the vDSO's system call instruction.
#[test]
fn computing_threads_come_to_no_harm() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("spin");
    let thread = i32::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    for _ in 0..rounds(6) {
        attach_to(&process, thread).unwrap();
    }
    assert_untouched(&process);
    victim.go_on();
    let said = victim.numbers();
    assert!(said[0] > 0 && said[1] == 0, "turns and wrong results: {said:?}");
}

/// A process that is stopped stays stopped, and goes on when it is told to.
#[test]
fn stopped_processes_stay_stopped() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("wait");
    victim.hear();
    victim.signal(Signal::SIGSTOP);
    let process = victim.process();
    let state = || {
        let stat = std::fs::read_to_string(process.proc("stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    while state() != 'T' {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..3 {
        attach(&process).unwrap();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(state(), 'T');
    }
    victim.signal(Signal::SIGCONT);
    victim.go_on();
    victim.hear();
}

/// What a process that is killed held is released: no page stays protected.
#[test]
fn nothing_stays_protected_when_the_tracker_is_killed() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("wait");
    let start = usize::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    let mut keeper = Victim::start(&format!("keep {} {start}", victim.child.id()));
    assert_eq!(keeper.hear(), "protected");
    let addresses = start..start + (4 << 20);
    assert_eq!(protected(&process, addresses.clone()), 1024);
    keeper.signal(Signal::SIGKILL);
    keeper.child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while protected(&process, addresses.clone()) > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(protected(&process, addresses), 0);
    let maps = std::fs::read_to_string(process.proc("smaps")).unwrap();
    assert!(!maps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" uw")));
    assert_untouched(&process);
    victim.go_on();
    let faults = victim.numbers()[0];
    assert!(faults < 100, "{faults} faults in writing 1024 pages");
}

/// Whoever attaches is killed at any moment; the helper ends the work, or nothing was begun.
#[test]
fn being_killed_while_attaching_does_no_harm() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("hammer 4");
    victim.hear();
    let process = victim.process();
    for round in 0..rounds(6) {
        let mut killer = Victim::start(&format!("again {}", victim.child.id()));
        killer.hear();
        thread::sleep(Duration::from_micros(1000 + round * 977 % 4000));
        killer.signal(Signal::SIGKILL);
        killer.child.wait().unwrap();
        assert_untouched(&process);
    }
    victim.go_on();
    let said = victim.numbers();
    assert!(said[0] > 0 && said[1] == 0, "turns and wrong results: {said:?}");
}

/// A process that is killed while somebody attaches: an error, at once.
#[test]
fn being_killed_while_attached_to_is_an_error() {
    if !can_attach() {
        return;
    }
    for round in 0..rounds(6) {
        let mut victim = Victim::start("hammer 4");
        victim.hear();
        let process = Arc::new(victim.process());
        let attacker = thread::spawn(move || {
            loop {
                if let Err(error) = attach(&process) {
                    return error;
                }
            }
        });
        thread::sleep(Duration::from_micros(3000 + round * 1777 % 6000));
        victim.signal(Signal::SIGKILL);
        let began = Instant::now();
        let error = attacker.join().unwrap();
        let expected = matches!(error, InjectError::Gone { .. } | InjectError::Zombie { .. });
        assert!(expected, "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "it took too long");
    }
}

#[test]
fn what_cannot_be_attached_to_is_named() {
    if !can_attach() {
        return;
    }
    assert!(Process::open(0).is_err() && Process::open(u32::MAX).is_err());
    let own = Process::open(std::process::id()).unwrap();
    assert!(matches!(attach(&own), Err(InjectError::Oneself { .. })));
    if let Ok(kernel) = Process::open(2) {
        let answer = attach(&kernel);
        assert!(matches!(answer, Err(InjectError::KernelThread { .. })), "{answer:?}");
    }
    let mut victim = Victim::start("wait");
    victim.hear();
    let process = victim.process();
    let tracer = Thread::seize(&victim);
    let traced = attach(&process);
    drop(tracer);
    let us = nix::unistd::gettid().as_raw().unsigned_abs();
    assert!(
        matches!(traced, Err(InjectError::Traced { tracer, .. }) if tracer != 0 || tracer == us)
    );
    victim.child.kill().unwrap();
    while process.is_alive() {
        thread::sleep(Duration::from_millis(1));
    }
    let zombie = attach(&process);
    assert!(matches!(zombie, Err(InjectError::Zombie { .. })), "{zombie:?}");
    victim.child.wait().unwrap();
    assert!(matches!(attach(&process), Err(InjectError::Gone { .. })));
}

/// A thread that traces the victim until it is dropped, as a debugger would.
struct Thread {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Thread {
    fn seize(victim: &Victim) -> Self {
        let pid = victim.child.id().cast_signed();
        let (stop, stopped) = std::sync::mpsc::channel();
        let (seized, is_seized) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            super::raw::Thread(pid).request(super::raw::SEIZE, 0).unwrap();
            seized.send(()).unwrap();
            let _ = stopped.recv();
        });
        is_seized.recv().unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A filter that kills for userfaultfd(2) is suspended by root, and others are told.
#[test]
fn seccomp_is_not_set_off() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("confined");
    victim.hear();
    let process = victim.process();
    match attach(&process) {
        Ok(_) => {}
        Err(InjectError::Confined { .. }) => crate::skipped("seccomp cannot be suspended"),
        Err(error) => panic!("{error}"),
    }
    victim.go_on();
    victim.hear();
    let mut status = std::fs::read_to_string(process.proc("status")).unwrap();
    status.retain(|c| c != '\t');
    assert!(status.contains("Seccomp:2"), "the filter is still on");
    with_unprivileged(|run| {
        let mut victim = Victim::run(run(), "confined");
        victim.hear();
        let mut other = Victim::run(run(), &format!("try {}", victim.child.id()));
        let said = other.hear();
        assert!(said.contains("confined by seccomp"), "{said}");
        victim.go_on();
        victim.hear();
    });
}

/// Without privilege: one's own processes, and no others.
#[test]
fn rights_are_respected() {
    if !can_attach() {
        return;
    }
    with_unprivileged(|run| {
        let mut ours = Victim::start("wait");
        ours.hear();
        let mut theirs = Victim::run(run(), "wait");
        theirs.hear();
        let mut other = Victim::run(run(), &format!("try {}", ours.child.id()));
        let said = other.hear();
        assert!(said.contains("Not permitted") && said.contains("root"), "{said}");
        let mut other = Victim::run(run(), &format!("try {}", theirs.child.id()));
        let said = other.hear();
        let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        if yama.is_ok_and(|scope| scope.trim() != "0") {
            assert!(said.contains("yama"), "{said}");
        } else {
            assert_eq!(said, "done");
        }
    });
}

/// Runs a test with a way to start copies of this program as nobody; says so if there is none.
fn with_unprivileged(test: impl FnOnce(&dyn Fn() -> Command)) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        crate::skipped("only root can start processes of another user");
        return;
    }
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let number = COPIES.fetch_add(1, SeqCst);
    let name = format!("precopy-attach-{}-{number}", std::process::id());
    let copy = std::env::temp_dir().join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    test(&|| {
        let mut command = Command::new(&copy);
        command.uid(65534).gid(65534).current_dir("/");
        command
    });
    std::fs::remove_file(&copy).unwrap();
}

/// A program of 32 bits that only waits: `mov eax, 29 (pause); int 0x80; jmp`.
#[test]
fn programs_of_32_bits_are_refused() {
    use std::os::unix::fs::OpenOptionsExt;
    if !can_attach() {
        return;
    }
    let code: &[u8] = &[0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let (base, header) = (0x0804_8000u32, 52 + 32);
    let length = u32::try_from(header as usize + code.len()).unwrap();
    let elf = [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        [half(2), half(3), word(1), word(base + header), word(52), word(0), word(0)].concat(),
        [half(52), half(32), half(1), half(40), half(0), half(0)].concat(),
        [word(1), word(0), word(base), word(base), word(length), word(length)].concat(),
        [word(5), word(4096), code.to_vec()].concat(),
    ]
    .concat();
    let path = std::env::temp_dir().join(format!("precopy-32-{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o755).open(&path).unwrap();
    file.write_all(&elf).unwrap();
    drop(file);
    // Another thread may just have forked with the file open for writing.
    let mut started = Command::new(&path).spawn();
    while matches!(&started, Err(error) if error.raw_os_error() == Some(libc::ETXTBSY)) {
        started = Command::new(&path).spawn();
    }
    std::fs::remove_file(&path).unwrap();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            crate::skipped(format_args!("this kernel runs no programs of 32 bits: {error}"));
            return;
        }
    };
    let answer = attach(&Process::open(child.id()).unwrap());
    let alive = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(answer, Err(InjectError::ThirtyTwoBit { .. })), "{answer:?}");
    assert!(alive);
}

#[test]
fn reports_survive_the_way() {
    for step in Step::ALL {
        let report = Report { step, code: 7, thread: 8, pause_ns: 9 };
        assert_eq!(Report::from_bytes(report.to_bytes()), Some(report));
    }
    assert_eq!(Report::from_bytes([0; Report::BYTES]), None);
    assert!(Userfaultfd::check(UffdMode::UserOnly).is_ok() || !can_attach());
}

/// A process that maps something else into tracked memory: an error, or followed if asked.
#[test]
fn remapped_memory_is_noticed() {
    if !can_attach() {
        return;
    }
    for follows in [false, true] {
        let mut victim = Victim::start("remap");
        let start = usize::try_from(victim.numbers()[0]).unwrap();
        let place = [(GuestAddress::new(0), start..start + (4 << 20))];
        let map = ProcessMap::new(Arc::new(victim.process()), PageSize::BASE, &place).unwrap();
        let mut tracker = ProcessTracker::attach(Arc::new(map)).unwrap().follow(follows);
        tracker.arm().unwrap();
        let mut set = DenseBitmap::new(1024);
        tracker.harvest(&mut set).unwrap();
        assert_eq!(set.count(), 0);
        victim.go_on();
        victim.hear();
        let answer = tracker.harvest(&mut set);
        if !follows {
            assert!(matches!(answer, Err(DirtyError::Remapped { .. })), "{answer:?}");
            continue;
        }
        answer.unwrap();
        let written = [256, 511].map(PageIndex::new);
        assert!(written.iter().all(|page| set.contains(*page)));
        assert_eq!(tracker.changes().load(SeqCst), 1);
        for _ in 0..2 {
            victim.go_on();
            victim.hear();
            set.clear_all();
            tracker.harvest(&mut set).unwrap();
            assert!(set.count() == 2 && written.iter().all(|page| set.contains(*page)), "{set:?}");
        }
        tracker.disarm().unwrap();
        assert_eq!(protected(&victim.process(), start..start + (4 << 20)), 0);
    }
}

/// What the module's documentation says of a helper that is killed in the midst of it: a thread
/// that waits in a system call sees that call return.
#[test]
fn a_lost_helper_leaves_a_waiting_thread_alive() {
    if !can_attach() {
        return;
    }
    let mut victim = Victim::start("block poll");
    let thread = i32::try_from(victim.numbers()[0]).unwrap();
    let place = victim.process().proc(format!("task/{thread}/syscall"));
    while !std::fs::read_to_string(&place).unwrap().starts_with("7 ") {
        thread::sleep(Duration::from_millis(1));
    }
    let tracer = thread::spawn(move || {
        let victim = super::raw::Thread(thread);
        victim.request(super::raw::SEIZE, 0).unwrap();
        victim.request(super::raw::INTERRUPT, 0).unwrap();
        victim.wait(None).unwrap();
        let mut registers = victim.registers().unwrap();
        registers.rip -= 2;
        registers.rax = libc::SYS_userfaultfd.unsigned_abs();
        registers.rdi = 1;
        registers.orig_rax = u64::MAX;
        victim.set_registers(&registers).unwrap();
    });
    // The end of the thread that traces is the end of the tracing.
    tracer.join().unwrap();
    victim.go_on();
    let said = victim.hear();
    assert!(said.starts_with("Ok("), "{said}");
}
