// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes a report of made-up numbers, to see every section of one without running anything.
//!
//!     cargo run -p lab --example sample_report -- DIR [--partial] [--text]

mod sample;

use std::path::PathBuf;

use anyhow::Context as _;
use lab::report;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1).peekable();
    let usage = "usage: sample_report DIR [--partial] [--text]";
    let dir = args.next().map(PathBuf::from).context(usage)?;
    let (mut partial, mut text) = (false, false);
    for arg in args {
        match arg.to_str() {
            Some("--partial") => partial = true,
            Some("--text") => text = true,
            _ => anyhow::bail!("Unknown argument {}; {usage}", arg.display()),
        }
    }
    let mut report = sample::report();
    if partial {
        report.run.partial = Some("interrupted in the capacity search".to_owned());
    }
    let written = report::write(&dir, &report)?;
    if text {
        print!("{}", report::text::render(&report, &written.claims));
    }
    println!("{}", written.html.display());
    Ok(())
}
