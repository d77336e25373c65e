// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What cannot be attached to, and by whom.

use super::*;

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
            raw::Thread(pid).request(raw::SEIZE, 0).unwrap();
            seized.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
            let _ = stopped.recv();
            // Whoever joins the thread may go on before its end has let go of the victim.
            let victim = raw::Thread(pid);
            victim.request(raw::INTERRUPT, 0).unwrap();
            victim.wait(None).unwrap();
            victim.request(raw::DETACH, 0).unwrap();
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
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        crate::skipped("only root can start processes of another user");
        return;
    }
    let copy = ProgramCopy::new();
    test(&|| copy.unprivileged());
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
    // What a run left behind that was killed.
    let _ = std::fs::remove_file(&path);
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
