// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The system calls that the helper makes, one a function. None allocates, locks or panics, so
//! that a process that was forked off one with many threads may call them.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_ulong, pid_t, user_regs_struct};

// Numbers of `include/uapi/linux/ptrace.h` that libc lacks on some systems.
pub(super) const CONT: c_long = 7;
pub(super) const DETACH: c_long = 17;
pub(super) const SYSCALL: c_long = 24;
pub(super) const SEIZE: c_long = 0x4206;
pub(super) const INTERRUPT: c_long = 0x4207;
const PEEKDATA: c_long = 2;
const GETREGS: c_long = 12;
const SETREGS: c_long = 13;
const GETSIGMASK: c_long = 0x420a;
const SETSIGMASK: c_long = 0x420b;
const GET_RSEQ_CONFIGURATION: c_long = 0x420f;

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RseqConfiguration {
    pointer: u64,
    bytes: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

const _: () = assert!(size_of::<RseqConfiguration>() == 24);

/// A thread that is traced, or is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thread(pub(super) pid_t);

impl Thread {
    /// A request whose last argument is a number (`CONT`, `DETACH`, `SYSCALL`, `SEIZE`,
    /// `INTERRUPT`).
    pub(super) fn request(self, request: c_long, number: c_long) -> Result<(), Errno> {
        // SAFETY: integers only; the requests listed above touch no memory of this process.
        let answer = unsafe { libc::syscall(libc::SYS_ptrace, request, self.0, 0, number) };
        Errno::result(answer).map(drop)
    }

    /// A request by which the kernel reads or writes `data`.
    fn exchange<T: Copy>(self, request: c_long, address: u64, data: &mut T) -> Result<(), Errno> {
        let data = ptr::from_mut(data);
        // SAFETY: callers pair each request with the type that the kernel has for it; the pointer
        // is to an exclusively borrowed value of that type, which the kernel does not keep.
        let answer = unsafe { libc::syscall(libc::SYS_ptrace, request, self.0, address, data) };
        Errno::result(answer).map(drop)
    }

    pub(super) fn registers(self) -> Result<user_regs_struct, Errno> {
        // SAFETY: a structure of integers, for which zeros are valid.
        let mut registers = unsafe { MaybeUninit::<user_regs_struct>::zeroed().assume_init() };
        self.exchange(GETREGS, 0, &mut registers)?;
        Ok(registers)
    }

    pub(super) fn set_registers(self, registers: &user_regs_struct) -> Result<(), Errno> {
        self.exchange(SETREGS, 0, &mut registers.clone())
    }

    /// The blocked signals. While a system call has others in their place, the ones that come
    /// back after it.
    pub(super) fn signal_mask(self) -> Result<u64, Errno> {
        let mut mask = 0u64;
        self.exchange(GETSIGMASK, size_of::<u64>() as u64, &mut mask)?;
        Ok(mask)
    }

    pub(super) fn set_signal_mask(self, mut mask: u64) -> Result<(), Errno> {
        self.exchange(SETSIGMASK, size_of::<u64>() as u64, &mut mask)
    }

    /// Eight bytes of its memory.
    pub(super) fn peek(self, address: u64) -> Result<u64, Errno> {
        let mut word = 0u64;
        self.exchange(PEEKDATA, address, &mut word)?;
        Ok(word)
    }

    /// Where it keeps its restartable sequence (rseq(2)); 0 if it has none or the kernel does not
    /// tell (Linux before 5.13).
    pub(super) fn rseq(self) -> u64 {
        let mut configuration = RseqConfiguration::default();
        let bytes = size_of::<RseqConfiguration>() as u64;
        match self.exchange(GET_RSEQ_CONFIGURATION, bytes, &mut configuration) {
            Ok(()) => configuration.pointer,
            Err(_) => 0,
        }
    }

    /// Waits for it to stop or end; `None` if it does neither by `until`, a time of [`now`].
    pub(super) fn wait(self, until: Option<Duration>) -> Result<Option<c_int>, Errno> {
        loop {
            let mut status = 0;
            let flags = libc::__WALL | if until.is_some() { libc::WNOHANG } else { 0 };
            // SAFETY: the pointer is to a live integer.
            let waited = unsafe { libc::waitpid(self.0, &raw mut status, flags) };
            match (Errno::result(waited), until) {
                (Err(Errno::EINTR), _) => {}
                (Err(refused), _) => return Err(refused),
                (Ok(0), Some(until)) => {
                    let Some(left) = until.checked_sub(now()).filter(|left| !left.is_zero()) else {
                        return Ok(None);
                    };
                    // A look now and then, should the signal not come.
                    await_child(left.min(Duration::from_millis(5)));
                }
                (Ok(_), _) => return Ok(Some(status)),
            }
        }
    }
}

/// Waits for SIGCHLD, which is blocked and so cannot be missed.
fn await_child(time: Duration) {
    let set: u64 = 1 << (libc::SIGCHLD - 1);
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(0),
        tv_nsec: c_long::from(time.subsec_nanos().cast_signed()),
    };
    let no_info = ptr::null_mut::<libc::siginfo_t>();
    // SAFETY: the pointers are to live locals; the set has the kernel's length, which is passed.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            no_info,
            &raw const time,
            size_of::<u64>(),
        )
    };
}

/// The monotonic clock.
pub(super) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub(super) fn sleep(time: Duration) {
    let time =
        libc::timespec { tv_sec: 0, tv_nsec: c_long::from(time.subsec_nanos().cast_signed()) };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

/// A session and a process group of its own.
pub(super) fn leave_session() {
    // SAFETY: takes nothing; a process that was just forked leads no group.
    unsafe { libc::setsid() };
}

/// A name that tells an administrator what this is.
pub(super) fn take_name() {
    // SAFETY: the pointer is to a constant that ends with a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"precopy-attach".as_ptr() as c_ulong) };
}

/// SIGCHLD as it is by default: sent for every stop, and kept while it is blocked.
pub(super) fn default_child_signal() {
    // SAFETY: the default action is no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Closes all descriptors but two (Linux 5.9 and later).
pub(super) fn close_all_but(one: c_int, other: c_int) {
    let (low, high) = (one.min(other), one.max(other));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, c_int::MAX)] {
        if first <= last {
            // SAFETY: integers only; the caller's process is a copy with one thread, and nobody in
            // it refers to other descriptors any more.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// A copy of another process's descriptor.
pub(super) fn fetch(process: c_int, fd: c_long) -> Result<c_int, Errno> {
    // SAFETY: integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0) };
    c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EOVERFLOW)
}

/// Room for a control message of one descriptor.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    fd: c_int,
    pad: c_int,
}

/// Sends bytes and perhaps a descriptor over a Unix socket. If nobody is there, nobody cares.
pub(super) fn send(socket: c_int, bytes: &mut [u8], fd: Option<c_int>) {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // The length that CMSG_LEN and CMSG_SPACE give for an int on systems of 64 bits.
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<c_int>(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fd: fd.unwrap_or(-1),
        pad: 0,
    };
    // SAFETY: a structure of integers and pointers, for which zeros are valid.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if fd.is_some() {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<Control>();
    }
    // SAFETY: all pointers in the message are to live locals of the lengths given.
    unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
}

/// Ends this process without running anything of the original's.
pub(super) fn end() -> ! {
    // SAFETY: does not return, and touches nothing.
    unsafe { libc::_exit(0) }
}
