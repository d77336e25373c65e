// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be known of a process before it is touched: whether it can be attached to, and by
//! which of its threads.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::libc::{
    self, SYS_clock_nanosleep, SYS_epoll_pwait, SYS_epoll_wait, SYS_futex, SYS_ioctl,
    SYS_nanosleep, SYS_poll, SYS_ppoll, SYS_pselect6, SYS_select, SYS_wait4, c_long,
};

use super::InjectError;
use crate::limits;
use crate::sys::process::{Process, ProcessMapping};

/// Machine code of `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Bytes of a mapping in which the instruction is looked for at a time.
const SEARCH_BYTES: usize = 1 << 16;
/// And how many of all mappings.
const SEARCH_BYTES_MAX: usize = 16 << 20;

/// Time that a process which does not look right gets to be found out as ending.
const ENDING: Duration = Duration::from_millis(100);
/// How often it gets that time while all that it does is to end: as many threads do, or one with
/// much memory, on a busy machine.
const ENDINGS: u32 = 100;

// Flags of a task in `/proc/PID/stat`: `include/linux/sched.h`.
const PF_EXITING: u32 = 0x4;
const PF_SIGNALED: u32 = 0x400;
const PF_KTHREAD: u32 = 0x20_0000;

/// What is read from the process beforehand.
#[derive(Debug)]
pub(super) struct Target {
    /// Its threads, the ones first that stop soonest and with the least harm.
    pub(super) threads: Vec<i32>,
    /// Whether a seccomp filter is on in all of them.
    pub(super) confined: bool,
    /// Address of a `syscall` instruction; 0 if there is none.
    pub(super) gadget: usize,
}

/// Looks at a process.
pub(super) fn look(process: &Process) -> Result<Target, InjectError> {
    let pid = process.pid();
    if pid == std::process::id() {
        return Err(InjectError::Oneself { pid });
    }
    let status = fs::read_to_string(process.proc("status")).map_err(|_| gone(process))?;
    let tracer = field(&status, "TracerPid:").parse().unwrap_or(0);
    if tracer != 0 {
        return Err(InjectError::Traced { pid, tracer });
    }
    let (confined, threads) = threads(process).ok_or_else(|| gone(process))?;
    if field(&status, "VmSize:").is_empty() {
        let of_kernel = flags(process, "stat").is_some_and(|flags| flags & PF_KTHREAD != 0);
        return Err(if of_kernel { InjectError::KernelThread { pid } } else { gone(process) });
    }
    let gadget = gadget(process).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => refused(process),
        Some(libc::ESRCH | libc::ENOENT) => gone(process),
        _ => InjectError::System { pid, what: "read its memory map", source: error },
    })?;
    Ok(Target { threads, confined, gadget })
}

/// What a line of `/proc/PID/status` says, up to the first space.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).unwrap_or("")
}

/// Why a process that was there cannot be found.
pub(super) fn gone(process: &Process) -> InjectError {
    let pid = process.pid();
    let stat = fs::read_to_string(process.proc("stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    if state == Some(true) { InjectError::Zombie { pid } } else { InjectError::Gone { pid } }
}

/// Why the system says no, which it also does while a process is ending.
pub(super) fn refused(process: &Process) -> InjectError {
    let pid = process.pid();
    if ends(process) {
        return gone(process);
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let advice = match scope.trim() {
        "1" | "2" => {
            "kernel.yama.ptrace_scope restricts tracing; run as root or with CAP_SYS_PTRACE, or \
             set it to 0 (sysctl kernel.yama.ptrace_scope=0)"
        }
        "3" => {
            "kernel.yama.ptrace_scope=3 forbids tracing to everybody until the next boot; \
             change it in the boot configuration"
        }
        _ => {
            "run as the same user as that process, or as root (CAP_SYS_PTRACE; containers often \
             take it away), and mind that programs with set-uid or file capabilities are for \
             root only"
        }
    };
    InjectError::NotPermitted { pid, advice }
}

/// Whether a process has ended, or does so in the time that it takes.
fn ends(process: &Process) -> bool {
    for _ in 0..ENDINGS {
        if process.ends_within(ENDING) {
            return true;
        }
        let mut threads = fs::read_dir(process.proc("task")).into_iter().flatten().flatten();
        if !threads.all(|thread| is_ending(process, &thread.path())) {
            return false;
        }
    }
    false
}

/// Whether a thread is on its way out, or will be as soon as it gets a processor.
fn is_ending(process: &Process, thread: &Path) -> bool {
    let flags = flags(process, thread.join("stat"));
    let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
    let pending = u64::from_str_radix(field(&status, "SigPnd:"), 16).unwrap_or(0);
    flags.is_none_or(|flags| flags & (PF_EXITING | PF_SIGNALED) != 0)
        || pending >> (libc::SIGKILL - 1) & 1 != 0
}

/// The flags of a process or thread; `None` if it is gone.
fn flags(process: &Process, stat: impl AsRef<Path>) -> Option<u32> {
    let stat = fs::read_to_string(process.proc(stat)).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse().ok()
}

/// The threads that live, best first, and whether a seccomp filter is on in them. Each thread may
/// have a filter of its own: where some have none, only those count. `None` if no thread lives.
fn threads(process: &Process) -> Option<(bool, Vec<i32>)> {
    let entries = fs::read_dir(process.proc("task")).into_iter().flatten().flatten();
    let mut found: Vec<(bool, u8, i32)> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .take(limits::ATTACH_THREADS_MAX)
        .filter_map(|thread| Some((is_confined(process, thread)?, rank(process, thread)?, thread)))
        .collect();
    found.sort_unstable();
    let (confined, ..) = *found.first()?;
    found.retain(|(is, ..)| *is == confined);
    Some((confined, found.into_iter().map(|(.., thread)| thread).collect()))
}

/// Whether a seccomp filter is on in a thread; `None` if it has ended.
fn is_confined(process: &Process, thread: i32) -> Option<bool> {
    let status = fs::read_to_string(process.proc(format!("task/{thread}/status"))).ok()?;
    Some(!matches!(field(&status, "Seccomp:"), "0" | ""))
}

/// How well a thread serves; `None` if it has ended. Best is one that waits in a system call which
/// the kernel takes up again by itself. Some return EINTR after a stop (signal(7)), which a
/// program has to expect, but need not meet because of us.
fn rank(process: &Process, thread: i32) -> Option<u8> {
    const RESTARTED: [c_long; 8] = [
        SYS_futex,
        SYS_poll,
        SYS_ppoll,
        SYS_select,
        SYS_pselect6,
        SYS_nanosleep,
        SYS_clock_nanosleep,
        SYS_wait4,
    ];
    const NOT_RESTARTED: [c_long; 3] = [SYS_epoll_wait, SYS_epoll_pwait, SYS_ioctl];
    let stat = fs::read_to_string(process.proc(format!("task/{thread}/stat"))).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    match after_name.chars().next()? {
        'Z' | 'X' | 'x' => return None,
        'D' => return Some(5),
        _ => {}
    }
    let call = fs::read_to_string(process.proc(format!("task/{thread}/syscall")));
    let call = call.unwrap_or_default();
    let number = call.split_whitespace().next().unwrap_or("");
    Some(match number.parse::<c_long>() {
        Ok(number) if RESTARTED.contains(&number) => 0,
        Ok(number) if NOT_RESTARTED.contains(&number) => 3,
        Ok(number) if number >= 0 => 1,
        Ok(_) => 4,
        Err(_) => 2,
    })
}

/// Looks for a `syscall` instruction: in the vDSO, which has one in every process of 64 bits, and
/// else in any code.
fn gadget(process: &Process) -> io::Result<usize> {
    let mut code: Vec<ProcessMapping> = process.mappings()?;
    code.retain(|mapping| mapping.executable && mapping.readable);
    code.sort_by_key(|mapping| mapping.path.as_os_str() != "[vdso]");
    let mut left = SEARCH_BYTES_MAX;
    let mut buffer = vec![0; SEARCH_BYTES];
    for mapping in code {
        let mut at = mapping.addresses.start;
        while at < mapping.addresses.end && left > 0 {
            let bytes = (mapping.addresses.end - at).min(SEARCH_BYTES);
            let part = &mut buffer[..bytes];
            left = left.saturating_sub(bytes);
            if process.read(std::iter::once(at..at + bytes), part).is_err() {
                break;
            }
            if let Some(found) = part.windows(2).position(|two| two == SYSCALL) {
                return Ok(at + found);
            }
            at += bytes;
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_is_told_from_what_lives() {
        let own = Process::open(std::process::id()).unwrap();
        let is = |flag: u32| flags(&own, "stat").unwrap() & flag != 0;
        assert!(!is(PF_KTHREAD) && !is(PF_EXITING) && !ends(&own));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let path = process.proc(format!("task/{}", child.id()));
        assert!(!is_ending(&process, &path));
        child.kill().unwrap();
        assert!(ends(&process) && is_ending(&process, &path));
        child.wait().unwrap();
        assert!(ends(&process) && is_ending(&process, &path), "nothing is left");
    }
}
