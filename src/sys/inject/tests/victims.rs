// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the processes do that the tests attach to.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::unistd::pipe;

use crate::sys::test_child::{attach, orders, protected, say};
use crate::sys::{Backing, Categories, Mapping, Pagemap, Process, Query, RegionBuffer};

/// Not a test by itself: the processes that the others attach to.
#[test]
fn victim() {
    let Some(orders) = orders() else { return };
    let words: Vec<&str> = orders.split(' ').collect();
    match words[0] {
        "hammer" => hammer(words[1].parse().unwrap()),
        "block" => block(words[1], words.get(2).map_or(0, |word| word.parse().unwrap())),
        "spin" => spin(),
        "wait" => wait(),
        "confined" => {
            kill_for_userfaultfd(libc::SECCOMP_FILTER_FLAG_TSYNC);
            wait();
        }
        "confined-thread" => {
            thread::spawn(|| {
                kill_for_userfaultfd(0);
                say(&nix::unistd::gettid().to_string());
                thread::park();
            });
            listen();
            wait();
        }
        "full" => {
            let _held = all_descriptors_but(0);
            wait();
        }
        "keep" => keep(words[1].parse().unwrap(), words[2].parse().unwrap()),
        "again" => again(words[1].parse().unwrap()),
        "remap" => remap(),
        "unmap" => unmap(),
        "try" | "try-full" => {
            let process = Process::open(words[1].parse().unwrap()).unwrap();
            // Two is what it takes to begin.
            let _held = (words[0] == "try-full").then(|| all_descriptors_but(2));
            say(&attach(&process).map_or_else(|error| error.to_string(), |_| "done".to_owned()));
        }
        what => panic!("{what}"),
    }
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
    getrusage(UsageWho::RUSAGE_SELF).unwrap().minor_page_faults()
}

/// Turns of each thread after it was told to end.
const LAST_TURNS: u64 = 8;

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
                let (mut turn, mut last_turns) = (0, 0);
                // Every thread must be able to go on.
                while last_turns < LAST_TURNS {
                    turn += 1;
                    last_turns += u64::from(stop.load(SeqCst));
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
    let (mut from, mut into) = (File::from(from), File::from(into));
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

/// A thread that waits in one system call until it is told to go on, or for so many seconds, and
/// says what it returned.
fn block(call: &str, seconds: i64) {
    let (from, into) = pipe().unwrap();
    let began = Instant::now();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            say(&nix::unistd::gettid().to_string());
            let answer = wait_in(call, seconds, from);
            format!("{answer} after {}", began.elapsed().as_millis())
        });
        listen();
        // Nobody reads it if the call has returned already.
        let _ = File::from(into).write_all(b"x");
        say(&thread.join().unwrap());
    });
}

fn wait_in(call: &str, seconds: i64, from: OwnedFd) -> String {
    let readable = || PollFd::new(std::os::fd::AsFd::as_fd(&from), PollFlags::POLLIN);
    match call {
        "read" => format!("{:?}", nix::unistd::read(&from, &mut [0; 8])),
        "poll" => format!("{:?}", poll(&mut [readable()], PollTimeout::NONE)),
        "poll-timeout" => format!("{:?}", poll(&mut [readable()], 60_000u16)),
        "sleep" => {
            let time = libc::timespec { tv_sec: seconds, tv_nsec: 0 };
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
            loop {
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
                if stop.load(SeqCst) {
                    return wrong;
                }
            }
        });
        listen();
        stop.store(true, SeqCst);
        let wrong = thread.join().unwrap();
        say(&format!("{} {wrong}", turns.load(SeqCst)));
    });
}

/// Has two mappings, and gives the one with the lower addresses back.
fn unmap() {
    let mut maps = [(); 2].map(|()| Mapping::new(2 << 20, Backing::Anonymous).unwrap());
    maps.sort_by_key(|map| map.addresses().start);
    maps.iter().flat_map(Mapping::words).for_each(|word| word.store(1, SeqCst));
    let starts = maps.each_ref().map(|map| map.addresses().start.to_string());
    say(&starts.join(" "));
    let [first, _second] = maps;
    listen();
    drop(first);
    say("unmapped");
    listen();
}

/// Opens all files that this process may, but for so many.
fn all_descriptors_but(free: usize) -> Vec<File> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).unwrap();
    let mut held: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    held.truncate(held.len() - free);
    held
}

/// Kills the process for userfaultfd(2), and lets everything else pass, from this thread on, and
/// from the others with the flag for that.
fn kill_for_userfaultfd(flags: libc::c_ulong) {
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
    // SAFETY: the program is valid and outlives the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
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

/// Maps other memory into the middle of what it had, and writes to the first and last page of it;
/// and in place of another page one that nobody may touch, as for a guard.
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
    let guard = place.wrapping_byte_add(2 << 20);
    // SAFETY: replaces a page of the mapping above that nobody touches any more.
    let mapped = unsafe { libc::mmap(guard, 4096, libc::PROT_NONE, flags, -1, 0) };
    assert_eq!(mapped, guard);
    for turn in 0..3 {
        memory.words()[256 * 512].store(turn, SeqCst);
        memory.words()[511 * 512].store(turn, SeqCst);
        say("written");
        listen();
    }
}
