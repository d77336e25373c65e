// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running the system's programs, with a limit.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::RigError;

/// A program that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(30);
/// As much of what a program says goes into an error.
const STDERR_MAX: u64 = 2000;

/// Runs a program to its end.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<(), RigError> {
    let line = || format!("{program} {}", arguments.join(" "));
    let failed = |source| RigError::Program { line: line(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= end {
            child.kill().and_then(|()| child.wait()).map_err(failed)?;
            let status = format!("killed after {} s", LIMIT.as_secs());
            return Err(RigError::Failed { line: line(), status, stderr: String::new() });
        }
        sleep(Duration::from_millis(1));
    };
    if status.success() {
        return Ok(());
    }
    let mut stderr = Vec::new();
    if let Some(pipe) = child.stderr.take() {
        pipe.take(STDERR_MAX).read_to_end(&mut stderr).map_err(failed)?;
    }
    let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(RigError::Failed { line: line(), status: status.to_string(), stderr })
}
