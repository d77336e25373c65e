// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starts the helper and takes what it sends.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::helper::{self, Orders, Report, Step, THREADS};
use super::target::{self, Target};
use super::{Attachment, InjectError};
use crate::limits;
use crate::sys::process::Process;
use crate::sys::uffd::Userfaultfd;

/// Opens a userfaultfd in the process and takes it.
pub(super) fn attach(process: &Process) -> Result<Attachment, InjectError> {
    attach_by(process, &target::look(process)?)
}

/// The same, knowing what to expect.
pub(super) fn attach_by(process: &Process, target: &Target) -> Result<Attachment, InjectError> {
    let pid = process.pid();
    let system = |what| move |source| InjectError::System { pid, what, source };
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|refused| system("make a socket")(refused.into()))?;
    let helper = fork(&orders(process, target), &theirs).map_err(system("fork a helper"))?;
    drop(theirs);
    let answer = receive(&ours);
    if !matches!(&answer, Err(refused) if refused.kind() == io::ErrorKind::TimedOut) {
        reap(helper);
    }
    match answer {
        Ok(Some((report, fd))) => finish(process, report, fd),
        Ok(None) => Err(InjectError::HelperLost { pid }),
        Err(refused) if refused.kind() == io::ErrorKind::TimedOut => {
            Err(InjectError::Stuck { pid, helper: helper.unsigned_abs() })
        }
        Err(refused) => Err(system("hear from the helper")(refused)),
    }
}

fn orders(process: &Process, target: &Target) -> Orders {
    let mut threads = [0; THREADS];
    for (place, thread) in threads.iter_mut().zip(&target.threads) {
        *place = *thread;
    }
    let (process, gadget) = (process.fd().as_raw_fd(), target.gadget as u64);
    Orders { process, threads, gadget, confined: target.confined }
}

/// Forks the helper: its process number. It sends no signal when it ends, so that whoever waits
/// for children of this process never meets it.
fn fork(orders: &Orders, socket: &OwnedFd) -> io::Result<libc::pid_t> {
    let socket = socket.as_raw_fd();
    // No handler of this process may run in the helper.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: a fork (no flag is set, so nothing is shared) with 0 as the signal at the end. The
    // copy has only this thread; it runs nothing but `helper::run`, which needs no lock.
    let answer = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    if answer == 0 {
        helper::run(orders, socket);
    }
    let answer = Errno::result(answer);
    before.thread_set_mask()?;
    libc::pid_t::try_from(answer?).map_err(|_| Errno::EOVERFLOW.into())
}

/// What the helper has to say; `None` if it ended without a word.
fn receive(socket: &OwnedFd) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
    let began = super::raw::now();
    loop {
        let left = limits::ATTACH_TIMEOUT.saturating_sub(super::raw::now().saturating_sub(began));
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => break,
            Err(refused) => return Err(refused.into()),
        }
    }
    let mut bytes = [0; Report::BYTES];
    let mut control = nix::cmsg_space!([libc::c_int; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let length = message.bytes;
    let mut taken = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for fd in fds {
                // SAFETY: the kernel has just put this descriptor here, and nobody else knows it.
                taken = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let report = (length == Report::BYTES).then(|| Report::from_bytes(bytes)).flatten();
    Ok(report.map(|report| (report, taken)))
}

/// Takes the ended helper's entry from the table of processes.
fn reap(helper: libc::pid_t) {
    // It has only its end left to do. Whoever waits for all children may have been quicker.
    loop {
        // SAFETY: no pointer is passed but a null one, which is allowed.
        let reaped = unsafe { libc::waitpid(helper, std::ptr::null_mut(), libc::__WALL) };
        if Errno::result(reaped) != Err(Errno::EINTR) {
            return;
        }
    }
}

fn finish(
    process: &Process,
    report: Report,
    fd: Option<OwnedFd>,
) -> Result<Attachment, InjectError> {
    let pid = process.pid();
    let source = || io::Error::from_raw_os_error(i32::try_from(report.code).unwrap_or(0));
    Err(match (report.step, fd) {
        (Step::Done, Some(fd)) => {
            let uffd = Userfaultfd::adopt(fd).map_err(|source| InjectError::System {
                pid,
                what: "use the userfaultfd",
                source,
            })?;
            return Ok(Attachment { uffd, pause: Duration::from_nanos(report.pause_ns) });
        }
        (Step::Done, None) => InjectError::HelperLost { pid },
        (Step::Seize, _) => target::refused(process),
        (Step::Suspend, _) => InjectError::Confined { pid },
        (Step::Stop, _) => InjectError::Busy { pid },
        (Step::Gone, _) => target::gone(process),
        (Step::ThirtyTwoBit, _) => InjectError::ThirtyTwoBit { pid },
        (Step::NoGadget, _) => InjectError::NoGadget { pid },
        (Step::Signal, _) => {
            InjectError::Signal { pid, signal: i32::try_from(report.code).unwrap_or(0) }
        }
        (Step::Call, _) => {
            InjectError::Refused { pid, what: "open a userfaultfd", source: source() }
        }
        (Step::Fetch, _) => {
            InjectError::System { pid, what: "take the userfaultfd", source: source() }
        }
        (Step::Registers, _) => {
            InjectError::System { pid, what: "read and write registers", source: source() }
        }
    })
}
