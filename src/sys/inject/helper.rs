// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The helper: a forked copy of this process that does the ptrace part.
//!
//! It lives for a millisecond or so, and does nothing but system calls: other threads of the
//! original may have held locks when it was forked, the allocator's among them. So nothing here
//! allocates, formats, panics or returns.

use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, pid_t, user_regs_struct};

use super::raw::{self, Thread};
use super::target;
use crate::limits;
use crate::sys::uffd::UFFD_USER_MODE_ONLY;

/// Most threads that are tried.
pub(super) const THREADS: usize = 8;

/// Code segment of code of 64 bits.
const CODE_64: u64 = 0x33;
/// In place of a system call's number: the thread is in none.
const NO_CALL: u64 = u64::MAX;

const O_TRACESYSGOOD: c_long = 1;
const O_SUSPEND_SECCOMP: c_long = 1 << 21;
const EVENT_STOP: c_int = 128;
/// A stop at a system call's begin or end, as `O_TRACESYSGOOD` has it.
const CALL_STOP: c_int = libc::SIGTRAP | 0x80;

/// How often a thread may be met inside a restartable sequence, and how long it then gets.
const RSEQ_TRIES: u32 = 100;
const RSEQ_SLEEP: Duration = Duration::from_micros(50);

/// What the helper is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    /// The descriptor that stands for the process.
    pub(super) process: c_int,
    /// Threads to try, in this order, up to the first 0.
    pub(super) threads: [pid_t; THREADS],
    /// Address of a `syscall` instruction; 0 if none is known.
    pub(super) gadget: u64,
    /// Whether seccomp must be suspended.
    pub(super) confined: bool,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Report {
    /// How it ended.
    pub(super) step: Step,
    /// The system's answer, or a signal's number.
    pub(super) code: u64,
    /// How long the thread was stopped.
    pub(super) pause_ns: u64,
}

impl Report {
    pub(super) const BYTES: usize = 24;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let numbers = [self.step as u64, self.code, self.pause_ns];
        for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *place = number.to_ne_bytes();
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |at: usize| numbers.get(at).map(|bytes| u64::from_ne_bytes(*bytes));
        let step = number(0)?;
        let step = Step::ALL.into_iter().find(|known| *known as u64 == step)?;
        Some(Self { step, code: number(1)?, pause_ns: number(2)? })
    }
}

/// How far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub(super) enum Step {
    /// To the end.
    Done = 1,
    /// The system does not let it trace.
    Seize,
    /// The seccomp filter may not be suspended.
    Suspend,
    /// No thread stopped in time.
    Stop,
    /// The thread has ended.
    Gone,
    /// Its code is of 32 bits.
    ThirtyTwoBit,
    /// There is no `syscall` instruction.
    NoGadget,
    /// Its registers or signals could not be read or written.
    Registers,
    /// The system call was refused.
    Call,
    /// A signal came in its place.
    Signal,
    /// The descriptor could not be taken.
    Fetch,
}

impl Step {
    pub(super) const ALL: [Self; 11] = [
        Self::Done,
        Self::Seize,
        Self::Suspend,
        Self::Stop,
        Self::Gone,
        Self::ThirtyTwoBit,
        Self::NoGadget,
        Self::Registers,
        Self::Call,
        Self::Signal,
        Self::Fetch,
    ];
}

/// Why it did not work: how far it came, and the system's answer.
#[derive(Clone, Copy)]
struct Failure(Step, u64);

impl Failure {
    /// The system's answer at a step; a thread that is not there any more has ended.
    fn at(step: Step) -> impl Fn(Errno) -> Self {
        move |refused| match refused {
            Errno::ESRCH | Errno::ECHILD => Self(Step::Gone, 0),
            refused => Self(step, u64::from((refused as i32).unsigned_abs())),
        }
    }
}

/// Does the work and ends the process. Only for a process that was just forked for it, with all
/// signals blocked: it closes all descriptors but two.
pub(super) fn run(orders: &Orders, socket: c_int) -> ! {
    raw::leave_session();
    raw::take_name();
    raw::default_child_signal();
    // Peers of the original must not wait for the copies here; and there is room now for one more,
    // however many the original has.
    raw::close_all_but(socket, orders.process);
    let (report, uffd) = try_all(orders);
    raw::send(socket, &mut report.to_bytes(), uffd);
    raw::end()
}

/// Tries one thread after the other until one has stopped.
fn try_all(orders: &Orders) -> (Report, Option<c_int>) {
    let mut report = Report { step: Step::Stop, code: 0, pause_ns: 0 };
    for thread in orders.threads.into_iter().take_while(|thread| *thread != 0) {
        let began = raw::now();
        let answer = try_one(Thread(thread), orders);
        let pause = raw::now().saturating_sub(began);
        report.pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        match answer {
            Ok(uffd) => {
                report.step = Step::Done;
                return (report, Some(uffd));
            }
            Err(Failure(step, code)) => (report.step, report.code) = (step, code),
        }
        // Another thread may be better off (of one that is ending, the system says that it is not
        // permitted); once registers were touched, something is wrong with all of them.
        if !matches!(report.step, Step::Seize | Step::Stop | Step::Gone | Step::ThirtyTwoBit) {
            break;
        }
    }
    (report, None)
}

/// Attaches to a thread, works with it, and lets it go, whatever comes.
fn try_one(thread: Thread, orders: &Orders) -> Result<c_int, Failure> {
    let options = O_TRACESYSGOOD | if orders.confined { O_SUSPEND_SECCOMP } else { 0 };
    let seized = thread.request(raw::SEIZE, options).and_then(|()| {
        // From here on the end of this process lets the thread go.
        thread.request(raw::INTERRUPT, 0)
    });
    if let Err(refused) = seized {
        let without = O_TRACESYSGOOD;
        let suspend = orders.confined && thread.request(raw::SEIZE, without).is_ok();
        return Err(Failure::at(if suspend { Step::Suspend } else { Step::Seize })(refused));
    }
    let until = raw::now().saturating_add(limits::ATTACH_STOP_TIMEOUT);
    stop(thread, Some(until))?;
    let done = work(thread, orders, until);
    let released = thread.request(raw::DETACH, 0);
    let uffd = done?;
    released.map_err(Failure::at(Step::Registers))?;
    Ok(uffd)
}

/// Waits for the stop that was asked for; signals on the way are passed on.
fn stop(thread: Thread, until: Option<Duration>) -> Result<(), Failure> {
    loop {
        let status = thread.wait(until).map_err(Failure::at(Step::Stop))?;
        let Some(status) = status else { return Err(Failure(Step::Stop, 0)) };
        if !libc::WIFSTOPPED(status) {
            return Err(Failure(Step::Gone, 0));
        }
        if status >> 16 == EVENT_STOP {
            return Ok(());
        }
        let signal = c_long::from(libc::WSTOPSIG(status));
        thread.request(raw::CONT, signal).map_err(Failure::at(Step::Stop))?;
    }
}

/// With the thread stopped, and to be stopped like that again in the end.
fn work(thread: Thread, orders: &Orders, until: Duration) -> Result<c_int, Failure> {
    let registers = outside_sequences(thread, until)?;
    if registers.cs != CODE_64 {
        return Err(Failure(Step::ThirtyTwoBit, 0));
    }
    let gadget = gadget(thread, &registers, orders).ok_or(Failure(Step::NoGadget, 0))?;
    let failed = Failure::at(Step::Registers);
    let mask = thread.signal_mask().map_err(&failed)?;
    thread.set_signal_mask(u64::MAX).map_err(&failed)?;
    let fetched = open_and_fetch(thread, &registers, gadget, orders.process);
    // A thread that has ended has no registers to be put back.
    let restored = thread
        .set_registers(&registers)
        .and_then(|()| thread.set_signal_mask(mask))
        .and_then(|()| thread.request(raw::INTERRUPT, 0))
        .and_then(|()| thread.request(raw::CONT, 0));
    // The kernel takes an interrupted system call up again only after a stop of this kind, and
    // the thread comes to it before it runs any of its own code.
    let settled = restored.map_err(&failed).and_then(|()| stop(thread, None));
    let uffd = fetched?;
    settled?;
    Ok(uffd)
}

/// The registers of the stopped thread, once it is not inside a restartable sequence (rseq(2)):
/// the kernel would take a look at its changed registers and forget that it is in one.
fn outside_sequences(thread: Thread, until: Duration) -> Result<user_regs_struct, Failure> {
    let failed = Failure::at(Step::Registers);
    for _ in 0..RSEQ_TRIES {
        let registers = thread.registers().map_err(&failed)?;
        if registers.orig_rax != NO_CALL || !in_sequence(thread, registers.rip) {
            return Ok(registers);
        }
        thread.request(raw::CONT, 0).map_err(&failed)?;
        raw::sleep(RSEQ_SLEEP);
        thread.request(raw::INTERRUPT, 0).map_err(&failed)?;
        stop(thread, Some(until))?;
    }
    Err(Failure(Step::Stop, 0))
}

fn in_sequence(thread: Thread, at: u64) -> bool {
    let word = |address: u64| thread.peek(address).unwrap_or(0);
    // `struct rseq` has the pointer `rseq_cs` at 8; `struct rseq_cs` `start_ip` at 8 and
    // `post_commit_offset` at 16.
    let (rseq, none) = (thread.rseq(), 0);
    let sequence = if rseq == none { none } else { word(rseq.wrapping_add(8)) };
    sequence != none
        && at.wrapping_sub(word(sequence.wrapping_add(8))) < word(sequence.wrapping_add(16))
}

/// Where the thread finds a `syscall` instruction: the one that it waits in, if it does, for then
/// nothing but the number and an argument differs.
fn gadget(thread: Thread, registers: &user_regs_struct, orders: &Orders) -> Option<u64> {
    let own = registers.rip.wrapping_sub(target::SYSCALL.len() as u64);
    let code = thread.peek(own).unwrap_or(0).to_le_bytes();
    if registers.orig_rax != NO_CALL && code.starts_with(&target::SYSCALL) {
        return Some(own);
    }
    Some(orders.gadget).filter(|gadget| *gadget != 0)
}

fn open_and_fetch(
    thread: Thread,
    registers: &user_regs_struct,
    gadget: u64,
    process: c_int,
) -> Result<c_int, Failure> {
    // Asynchronous write protection works with the rights of any user.
    let flags = UFFD_USER_MODE_ONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let flags = u64::from(flags.unsigned_abs());
    let theirs = call(thread, registers, gadget, libc::SYS_userfaultfd, flags)?;
    let ours = raw::fetch(process, theirs);
    // If it is not there any more, another thread has closed it, and the number may be another
    // file's by now.
    if ours != Err(Errno::EBADF) {
        call(thread, registers, gadget, libc::SYS_close, theirs.unsigned_abs())?;
    }
    ours.map_err(Failure::at(Step::Fetch))
}

/// Has the thread do a system call, and leaves it stopped at its end. In between it may wait for
/// any time; nobody else can put its registers back, so this waits, too.
fn call(
    thread: Thread,
    original: &user_regs_struct,
    gadget: u64,
    number: c_long,
    argument: u64,
) -> Result<c_long, Failure> {
    let failed = Failure::at(Step::Registers);
    let mut registers = *original;
    registers.rip = gadget;
    registers.rax = number.unsigned_abs();
    registers.rdi = argument;
    // The system call that it was in is not to be taken up yet.
    registers.orig_rax = NO_CALL;
    thread.set_registers(&registers).map_err(&failed)?;
    to_call_stop(thread)?;
    // From here on it is in the call; what follows may as well be its own code.
    registers.rip = original.rip;
    registers.orig_rax = number.unsigned_abs();
    thread.set_registers(&registers).map_err(&failed)?;
    to_call_stop(thread)?;
    let answer = thread.registers().map_err(&failed)?.rax.cast_signed();
    if answer < 0 { Err(Failure(Step::Call, answer.unsigned_abs())) } else { Ok(answer) }
}

/// Lets the thread run up to the next begin or end of a system call.
fn to_call_stop(thread: Thread) -> Result<(), Failure> {
    loop {
        thread.request(raw::SYSCALL, 0).map_err(Failure::at(Step::Registers))?;
        let status = thread.wait(None).map_err(Failure::at(Step::Registers))?.unwrap_or(0);
        if !libc::WIFSTOPPED(status) {
            return Err(Failure(Step::Gone, 0));
        }
        match libc::WSTOPSIG(status) {
            CALL_STOP => return Ok(()),
            // The whole process is being stopped or continued; the thread still has work to do.
            _ if status >> 16 == EVENT_STOP => {}
            // All signals are blocked, but for those that the kernel forces on a thread.
            signal => return Err(Failure(Step::Signal, u64::from(signal.unsigned_abs()))),
        }
    }
}
