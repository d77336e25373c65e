// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whoever is attached to comes to no harm: computing, waiting, stopped, or killed.

use super::*;

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
    for call in ["read", "poll", "poll-timeout", "futex", "epoll"] {
        let (answer, _) = interrupted(call).expect(call);
        match call {
            // As after any stop (signal(7)).
            "epoll" => assert!(["Ok(1)", "Err(EINTR)"].contains(&&*answer), "{answer}"),
            _ => assert_eq!(answer, "Ok(1)", "{call}"),
        }
    }
    // A busy machine may come to it only after the time.
    let slept = [1, 8, 64].map(|seconds| (seconds * 1000, format!("sleep {seconds}")));
    let slept = slept.iter().find_map(|(least, call)| Some((least, interrupted(call)?)));
    let (least, (answer, millis)) = slept.expect("no sleep was long enough");
    assert!(answer == "Ok(0)" && millis >= *least, "{answer} after {millis} ms");
}

/// What a system call returned, and after how many milliseconds, in which a thread was attached to
/// several times. `None` if it was over before that.
fn interrupted(call: &str) -> Option<(String, u64)> {
    let mut victim = start(&format!("block {call}"));
    let thread = i32::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    let place = process.proc(format!("task/{thread}/syscall"));
    while std::fs::read_to_string(&place).ok()?.starts_with('r') {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(20));
    for _ in 0..5 {
        match attach_to(&process, thread) {
            Ok(_) => {}
            Err(_) if call.starts_with("sleep") => return None,
            Err(error) => panic!("{call}: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
        if call == "epoll" {
            break;
        }
    }
    victim.tell("");
    let said = victim.hear();
    let (answer, millis) = said.split_once(" after ").unwrap();
    Some((answer.to_owned(), millis.parse().unwrap()))
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
    // A thread that is let go must get a processor to stop again.
    let stops = || {
        let is_stopped = |thread: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        let began = Instant::now();
        while !std::fs::read_dir(process.proc("task")).unwrap().flatten().all(is_stopped) {
            assert!(began.elapsed() < PATIENCE, "a thread goes on");
            thread::sleep(Duration::from_millis(1));
        }
    };
    stops();
    for _ in 0..3 {
        attach(&process).unwrap();
        stops();
    }
    victim.signal(Signal::SIGCONT);
    victim.tell("");
    victim.hear();
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
        let victim = raw::Thread(thread);
        victim.request(raw::SEIZE, 0).unwrap();
        victim.request(raw::INTERRUPT, 0).unwrap();
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
