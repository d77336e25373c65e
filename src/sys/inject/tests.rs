// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of attaching, to copies of the test program.

mod victims;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use super::helper::{Report, Step};
use super::{InjectError, attach, launch, target};
use crate::bitmap::DenseBitmap;
use crate::dirty::{DirtyError, DirtyTracker, ProcessTracker};
use crate::sys::test_child::{TestChild, protected};
use crate::sys::{Process, ProcessMap, UffdMode, Userfaultfd};
use crate::units::{GuestAddress, PageIndex, PageSize};

/// The test that the processes run.
const VICTIM: &str = "sys::inject::tests::victims::victim";
/// How often things that are tried at random are tried.
const ROUNDS: &str = "PRECOPY_ATTACH_ROUNDS";

fn rounds(default: u64) -> u64 {
    std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn start(orders: &str) -> TestChild {
    TestChild::start(VICTIM, orders)
}

/// Attaches to one thread.
fn attach_to(process: &Process, thread: i32) -> Result<super::Attachment, InjectError> {
    let mut target = target::look(process)?;
    target.threads = vec![thread];
    launch::attach_by(process, &target)
}

/// Whether processes can be attached to here; says so if this machine forbids it.
fn can_attach() -> bool {
    let mut victim = start("wait");
    victim.hear();
    match attach(&victim.process()) {
        Ok(_) => true,
        Err(why) if why.is_of_the_machine() => {
            crate::skipped(format_args!("{why}"));
            false
        }
        Err(why) => panic!("{why}"),
    }
}

/// No userfaultfd is left, no thread's signals are blocked, and nobody traces it.
fn assert_untouched(process: &Process) {
    // The helper of a process that was killed goes on for a moment.
    let left = || {
        let files = std::fs::read_dir(process.proc("fd")).unwrap().flatten();
        let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let open = links.filter(|link| link.to_string_lossy().contains("userfaultfd")).count();
        let threads = std::fs::read_dir(process.proc("task")).unwrap().flatten();
        let status = threads.map(|thread| std::fs::read_to_string(thread.path().join("status")));
        let is_free = |status: String| {
            status.contains("TracerPid:\t0") && status.contains("SigBlk:\t0000000000000000")
        };
        // A thread that is gone by now has no status.
        (open, status.flatten().all(is_free))
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
    let mut victim = start("hammer 32");
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
    victim.tell("");
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
        let mut victim = start(&format!("block {call}"));
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
        victim.tell("");
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
    let mut victim = start("spin");
    let thread = i32::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    for _ in 0..rounds(6) {
        attach_to(&process, thread).unwrap();
    }
    assert_untouched(&process);
    victim.tell("");
    let said = victim.numbers();
    assert!(said[0] > 0 && said[1] == 0, "turns and wrong results: {said:?}");
}

/// A process that is stopped stays stopped, and goes on when it is told to.
#[test]
fn stopped_processes_stay_stopped() {
    if !can_attach() {
        return;
    }
    let mut victim = start("wait");
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
    victim.tell("");
    victim.hear();
}

/// What a process that is killed held is released: no page stays protected.
#[test]
fn nothing_stays_protected_when_the_tracker_is_killed() {
    if !can_attach() {
        return;
    }
    let mut victim = start("wait");
    let base = usize::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    let mut keeper = start(&format!("keep {} {base}", victim.child.id()));
    assert_eq!(keeper.hear(), "protected");
    let addresses = base..base + (4 << 20);
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
    victim.tell("");
    let faults = victim.numbers()[0];
    assert!(faults < 100, "{faults} faults in writing 1024 pages");
}

/// Whoever attaches is killed at any moment; the helper ends the work, or nothing was begun.
#[test]
fn being_killed_while_attaching_does_no_harm() {
    if !can_attach() {
        return;
    }
    let mut victim = start("hammer 4");
    victim.hear();
    let process = victim.process();
    for round in 0..rounds(6) {
        let mut killer = start(&format!("again {}", victim.child.id()));
        killer.hear();
        thread::sleep(Duration::from_micros(1000 + round * 977 % 4000));
        killer.signal(Signal::SIGKILL);
        killer.child.wait().unwrap();
        assert_untouched(&process);
    }
    victim.tell("");
    let said = victim.numbers();
    assert!(said[0] > 0 && said[1] == 0, "turns and wrong results: {said:?}");
}

/// A process that is killed while somebody attaches: an error that says so, and not the one of
/// whoever waited in vain.
#[test]
fn being_killed_while_attached_to_is_an_error() {
    if !can_attach() {
        return;
    }
    for round in 0..rounds(6) {
        let mut victim = start("hammer 4");
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
        let error = attacker.join().unwrap();
        let expected = matches!(error, InjectError::Gone { .. } | InjectError::Zombie { .. });
        assert!(expected, "{error:?}");
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
    let kernel = Process::open(2).ok().filter(|process| {
        std::fs::read_to_string(process.proc("comm")).is_ok_and(|name| name == "kthreadd\n")
    });
    if let Some(kernel) = kernel {
        let answer = attach(&kernel);
        assert!(matches!(answer, Err(InjectError::KernelThread { .. })), "{answer:?}");
    } else {
        crate::skipped("no thread of the kernel is to be seen here");
    }
    let mut victim = start("wait");
    victim.hear();
    let process = victim.process();
    let (tracer, tracing) = Thread::seize(&victim);
    let traced = attach(&process);
    drop(tracer);
    assert!(matches!(traced, Err(InjectError::Traced { tracer: by, .. }) if by == tracing));
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
    /// The thread, and its number.
    fn seize(victim: &TestChild) -> (Self, u32) {
        let pid = victim.child.id().cast_signed();
        let (stop, stopped) = std::sync::mpsc::channel();
        let (seized, is_seized) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            super::raw::Thread(pid).request(super::raw::SEIZE, 0).unwrap();
            seized.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
            let _ = stopped.recv();
        });
        let number = is_seized.recv().unwrap();
        (Self { stop, thread: Some(thread) }, number)
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
    let mut victim = start("confined");
    victim.hear();
    let process = victim.process();
    match attach(&process) {
        Ok(_) => {}
        Err(InjectError::Confined { .. }) => crate::skipped("seccomp cannot be suspended"),
        Err(error) => panic!("{error}"),
    }
    victim.tell("");
    victim.hear();
    let mut status = std::fs::read_to_string(process.proc("status")).unwrap();
    status.retain(|c| c != '\t');
    assert!(status.contains("Seccomp:2"), "the filter is still on");
    with_unprivileged(|run| {
        let mut victim = TestChild::run(run(), VICTIM, "confined");
        victim.hear();
        let mut other = TestChild::run(run(), VICTIM, &format!("try {}", victim.child.id()));
        let said = other.hear();
        assert!(said.contains("confined by seccomp"), "{said}");
        victim.tell("");
        victim.hear();
    });
}

/// A thread with a filter of its own is left alone where another one has none.
#[test]
fn a_confined_thread_is_passed_over() {
    if !can_attach() {
        return;
    }
    let mut victim = start("confined-thread");
    let confined = i32::try_from(victim.numbers()[0]).unwrap();
    victim.tell("");
    victim.hear();
    let process = victim.process();
    let target = target::look(&process).unwrap();
    if target.confined {
        crate::skipped("all that runs here is confined");
        return;
    }
    assert!(!target.threads.is_empty() && !target.threads.contains(&confined), "{target:?}");
    attach(&process).unwrap();
    victim.tell("");
    victim.hear();
}

/// Descriptors run out: of the process that attaches, which needs none for its helper; and of the
/// other one, which then goes on where it was.
#[test]
fn descriptors_run_out() {
    if !can_attach() {
        return;
    }
    let mut victim = start("wait");
    victim.hear();
    let mut other = start(&format!("try-full {}", victim.child.id()));
    assert_eq!(other.hear(), "done");
    let mut full = start("full");
    full.hear();
    let refused = attach(&full.process());
    assert!(
        matches!(&refused, Err(InjectError::Refused { source, .. })
        if source.raw_os_error() == Some(libc::EMFILE)),
        "{refused:?}"
    );
    full.tell("");
    full.hear();
    assert_untouched(&full.process());
}

/// Without privilege: one's own processes, and no others.
#[test]
fn rights_are_respected() {
    if !can_attach() {
        return;
    }
    with_unprivileged(|run| {
        let mut ours = start("wait");
        ours.hear();
        let mut theirs = TestChild::run(run(), VICTIM, "wait");
        theirs.hear();
        let mut other = TestChild::run(run(), VICTIM, &format!("try {}", ours.child.id()));
        let said = other.hear();
        assert!(said.contains("Not permitted") && said.contains("root"), "{said}");
        let mut other = TestChild::run(run(), VICTIM, &format!("try {}", theirs.child.id()));
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
        let report = Report { step, code: 7, pause_ns: 9 };
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
        let mut victim = start("remap");
        let start = usize::try_from(victim.numbers()[0]).unwrap();
        let place = [(GuestAddress::new(0), start..start + (4 << 20))];
        let map = ProcessMap::new(Arc::new(victim.process()), PageSize::BASE, &place).unwrap();
        let mut tracker = ProcessTracker::attach(Arc::new(map)).unwrap().follow(follows);
        tracker.arm().unwrap();
        let mut set = DenseBitmap::new(1024);
        tracker.harvest(&mut set).unwrap();
        assert_eq!(set.count(), 0);
        victim.tell("");
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
            victim.tell("");
            victim.hear();
            set.clear_all();
            tracker.harvest(&mut set).unwrap();
            assert!(set.count() == 2 && written.iter().all(|page| set.contains(*page)), "{set:?}");
        }
        tracker.disarm().unwrap();
        assert_eq!(protected(&victim.process(), start..start + (4 << 20)), 0);
    }
}

/// What cannot be released keeps nothing else protected.
#[test]
fn memory_beside_unmapped_memory_is_released() {
    if !can_attach() {
        return;
    }
    let mut victim = start("unmap");
    let starts = victim.numbers().into_iter().map(|start| usize::try_from(start).unwrap());
    let parts = starts.map(|start| (GuestAddress::new(start as u64), start..start + (2 << 20)));
    let parts: Vec<_> = parts.collect();
    let map = ProcessMap::new(Arc::new(victim.process()), PageSize::BASE, &parts).unwrap();
    let mut tracker = ProcessTracker::attach(Arc::new(map)).unwrap();
    tracker.arm().unwrap();
    victim.tell("");
    victim.hear();
    let (process, released) = (victim.process(), tracker.disarm());
    assert_eq!(protected(&process, parts[1].1.clone()), 0, "{released:?}");
    assert!(released.is_err());
}

/// What the module's documentation says of a helper that is killed in the midst of it: a thread
/// that waits in a system call sees that call return.
#[test]
fn a_lost_helper_leaves_a_waiting_thread_alive() {
    if !can_attach() {
        return;
    }
    let mut victim = start("block poll");
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
    victim.tell("");
    let said = victim.hear();
    assert!(said.starts_with("Ok("), "{said}");
}
