// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvmguest demo`: a guest goes through a row of processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::Context;
use command::Exit;

use super::args::DemoArgs;
use super::host;
use super::lines::{Line, say};

/// A further process of this program, in a row of them. Ends when this one drops it.
struct Host {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Host {
    /// Starts one that passes its guest on to `next`; returns where it listens.
    fn start(args: &DemoArgs, next: Option<&str>) -> anyhow::Result<(Self, String)> {
        let program = std::env::current_exe().context("Where is this program?")?;
        let start = &args.start;
        let run_for = start.run.run_for.as_secs_f64();
        let mut child = Command::new(program)
            .args(["receive", "--listen=127.0.0.1:0", "--json", "--stop-at-eof"])
            .arg(format!("--memory-max-mib={}", start.guest.memory_mib))
            .arg(format!("--run-for={run_for}"))
            .args(start.migration.again())
            .args(next.map(|next| format!("--pass-on={next}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("Could not start a further process")?;
        let output = child.stdout.take().context("The further process has no output")?;
        let mut host = Self { child, lines: BufReader::new(output) };
        match host.line()? {
            Some(Line::Listening { address }) => Ok((host, address)),
            other => anyhow::bail!("A further process did not come up: {other:?}"),
        }
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> anyhow::Result<Option<Line>> {
        let mut text = String::new();
        let read = self.lines.read_line(&mut text).context("Could not hear a further process")?;
        if read == 0 {
            return Ok(None);
        }
        let line = serde_json::from_str(&text);
        Ok(Some(line.with_context(|| format!("A further process said {text:?}"))?))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Gone already is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let (guest, stop) = host::start(&args.start)?;
    let mut hosts = Vec::new();
    let mut next: Option<String> = None;
    for _ in 0..args.migrations {
        let (host, address) = Host::start(args, next.as_deref())?;
        hosts.push(host);
        next = Some(address);
    }
    let (migration, run) = (&args.start.migration, &args.start.run);
    let json = run.json;
    let exit = host::run_and_pass_on(&guest, next.as_deref(), migration, run, &stop)?;
    drop(guest);
    if exit != Exit::Done {
        return Ok(exit);
    }
    let (mut pauses, mut steps) = (Vec::new(), 0);
    // The last one started is the first one to get the guest.
    for mut host in hosts.into_iter().rev() {
        let mut ended = false;
        while let Some(line) = host.line()? {
            say(&line, json)?;
            match line {
                Line::TakenOver { report } => pauses.push(report.paused),
                Line::Audit(audit) => {
                    anyhow::ensure!(audit.clean, "The guest is harmed: {}", audit.text);
                    steps = audit.steps;
                }
                Line::Sent { .. } | Line::Ended { .. } => ended = true,
                _ => {}
            }
        }
        let status = host.child.wait().context("Could not wait for a further process")?;
        anyhow::ensure!(ended && status.success(), "A further process ended early: {status}");
    }
    if !json {
        let longest = pauses.iter().max().copied().unwrap_or_default();
        println!(
            "{} migrations, {steps} steps, every word as it must be; longest pause, as the \
             destinations saw it, {longest:.1?}",
            pauses.len()
        );
    }
    Ok(Exit::Done)
}
