// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a process could not be attached to.

use std::io;

/// A userfaultfd could not be opened in another process. Unless the variant says otherwise, that
/// process runs on as if nothing had been tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// Only x86-64 is known here.
    #[error(
        "Attaching to another process is not supported on {}; on x86_64 it is",
        std::env::consts::ARCH
    )]
    Architecture,
    /// This kernel cannot track in this way.
    #[error(
        "This kernel cannot track the writes of another process; Linux 6.7 or later is needed, \
         with CONFIG_USERFAULTFD"
    )]
    Kernel {
        /// What is missing.
        #[source]
        source: io::Error,
    },
    /// No such process, or no longer.
    #[error("Process {pid} has ended")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// Nothing but the entry that its parent has not read yet.
    #[error("Process {pid} is a zombie: it has ended, and waits for its parent to notice")]
    Zombie {
        /// The process.
        pid: u32,
    },
    /// The process that asks.
    #[error("Process {pid} is this one: track its memory with the pagemap tracker")]
    Oneself {
        /// The process.
        pid: u32,
    },
    /// A part of the kernel.
    #[error("Process {pid} is a thread of the kernel and has no memory of its own")]
    KernelThread {
        /// The process.
        pid: u32,
    },
    /// A debugger has it.
    #[error(
        "Process {pid} is traced already, by process {tracer} (gdb, strace, ...): end that first"
    )]
    Traced {
        /// The process.
        pid: u32,
        /// Who traces it.
        tracer: u32,
    },
    /// The system does not let this process trace that one.
    #[error("Not permitted to attach to process {pid}: {advice}")]
    NotPermitted {
        /// The process.
        pid: u32,
        /// What would be needed.
        advice: &'static str,
    },
    /// Its seccomp filter may kill it for an unexpected system call.
    #[error(
        "Process {pid} is confined by seccomp, which might kill it for the system call that is \
         needed: run as root (CAP_SYS_ADMIN), which may suspend the filter for that moment"
    )]
    Confined {
        /// The process.
        pid: u32,
    },
    /// Code of 32 bits.
    #[error("Process {pid} runs code of 32 bits; only processes of 64 bits can be attached to")]
    ThirtyTwoBit {
        /// The process.
        pid: u32,
    },
    /// None of its threads stopped in time.
    #[error(
        "No thread of process {pid} could be stopped in time: they wait in the kernel (state D), \
         or are frozen; try again"
    )]
    Busy {
        /// The process.
        pid: u32,
    },
    /// No system call instruction.
    #[error("Found no system call instruction in process {pid}: neither a vDSO nor a libc?")]
    NoGadget {
        /// The process.
        pid: u32,
    },
    /// The system call in the process was refused.
    #[error("Process {pid} could not {what}")]
    Refused {
        /// The process.
        pid: u32,
        /// What it was to do, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A signal came in place of the system call's end; it was put aside.
    #[error("Process {pid} got signal {signal} in the system call: does it filter system calls?")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        signal: i32,
    },
    /// The process waits inside the system call.
    #[error(
        "Process {pid} has not finished a system call that it was made to do; process {helper} \
         (a copy of this one) waits to put its registers back: do not kill it"
    )]
    Stuck {
        /// The process.
        pid: u32,
        /// The one that waits.
        helper: u32,
    },
    /// The helper ended without a word.
    #[error(
        "The helper process that attached to process {pid} was killed; if that was inside its \
         work of some 50 us, process {pid} may fail"
    )]
    HelperLost {
        /// The process.
        pid: u32,
    },
    /// The system refused something else.
    #[error("Could not {what} to attach to process {pid}")]
    System {
        /// The process.
        pid: u32,
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
impl InjectError {
    /// Whether it is this machine, or what its user may do here, that forbids it.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        matches!(
            self,
            Self::Architecture
                | Self::Kernel { .. }
                | Self::NotPermitted { .. }
                | Self::Confined { .. }
        )
    }
}
