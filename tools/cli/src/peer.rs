// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A destination in a process of its own, started by this one.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context;

use crate::lines::Line;

/// A child that runs another subcommand of this program and talks in lines of JSON.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    /// Its end tells the child to stop, also when this process is killed.
    input: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts this program with other arguments. Ctrl-C does not reach it: this process decides.
    pub(crate) fn spawn(arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("Where is this program?")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("Could not start a second process")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("The second process has no output")?;
        Ok(Self { child, input, lines: BufReader::new(output) })
    }

    /// Starts a destination on a free port of loopback; returns its address, too.
    pub(crate) fn receiver(more: &[&str]) -> anyhow::Result<(Self, String)> {
        let mut arguments =
            vec!["receive", "--listen", "127.0.0.1:0", "--once", "--json", "--stop-at-eof"];
        arguments.extend(more);
        let mut peer = Self::spawn(&arguments)?;
        match peer.line()? {
            Some(Line::Listening { address }) => Ok((peer, address)),
            other => anyhow::bail!("The destination did not come up: {other:?}"),
        }
    }

    /// The next line of text; `None` at the end.
    pub(crate) fn text(&mut self) -> anyhow::Result<Option<String>> {
        let mut text = String::new();
        let read = self.lines.read_line(&mut text).context("Could not hear the second process")?;
        Ok((read > 0).then_some(text))
    }

    /// The next line; `None` at the end.
    pub(crate) fn line(&mut self) -> anyhow::Result<Option<Line>> {
        let Some(text) = self.text()? else { return Ok(None) };
        let line = serde_json::from_str(&text);
        Ok(Some(line.with_context(|| format!("The second process said {text:?}"))?))
    }

    /// Tells it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        while self.text()?.is_some() {}
        self.child.wait().context("Could not wait for the second process")?;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Ok(None) = self.child.try_wait() {
            // Gone already is as good as killed.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
