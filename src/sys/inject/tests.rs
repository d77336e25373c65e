// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of attaching, to copies of the test program.

mod harm;
mod refusals;
mod tracked;
mod victims;

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use super::helper::{Report, Step};
use super::{InjectError, launch, once_it_has_code, raw, target};
use crate::bitmap::DenseBitmap;
use crate::dirty::{DirtyError, DirtyTracker, ProcessTracker};
use crate::sys::test_child::{PATIENCE, ProgramCopy, TestChild, attach, protected, until_not_busy};
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
    until_not_busy(|| launch::attach_by(process, &target))
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
    let (began, mut seen) = (Instant::now(), left());
    while seen != (0, true) && began.elapsed() < PATIENCE / 3 {
        thread::sleep(Duration::from_millis(5));
        seen = left();
    }
    assert_eq!(seen, (0, true));
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

#[test]
fn a_process_that_was_started_just_now_is_given_time() {
    let fresh = |tries: u32| {
        let mut made = 0;
        let result = once_it_has_code(|| {
            made += 1;
            if made < tries { Err(InjectError::NoGadget { pid: 7 }) } else { Ok(()) }
        });
        (made, result.is_ok())
    };
    assert_eq!(fresh(1), (1, true));
    assert_eq!(fresh(3), (3, true));
    let most = crate::limits::ATTACH_FRESH_TRIES;
    assert_eq!(fresh(most + 1), (most, false));
    // Any other refusal is final.
    let mut made = 0;
    let refused: Result<(), _> = once_it_has_code(|| {
        made += 1;
        Err(InjectError::Busy { pid: 7 })
    });
    assert!(matches!(refused, Err(InjectError::Busy { .. })) && made == 1);
}
