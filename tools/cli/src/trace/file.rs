// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace file that is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::Path;

use anyhow::Context;
use precopy::trace::Written;
use serde::Serialize;

use crate::exit::usage;
use crate::show;

/// Creates the file, unless there is one that nobody said may go.
pub(super) fn create(path: &Path, force: bool) -> anyhow::Result<BufWriter<File>> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    match options.open(path) {
        Ok(file) => Ok(BufWriter::with_capacity(1 << 18, file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(usage(format!(
            "{} exists; choose another name, or write over it with --force",
            path.display()
        ))),
        Err(error) => Err(error).with_context(|| format!("Could not create {}", path.display())),
    }
}

/// Takes a file away that holds nothing of use, because what was to make it failed.
pub(super) fn discard_if_failed<T>(result: anyhow::Result<T>, path: &Path) -> anyhow::Result<T> {
    if result.is_err() {
        // It may be gone already; the error that is reported is the other one.
        let _ = fs::remove_file(path);
    }
    result
}

/// Nothing to be printed beside what was written.
#[derive(Debug, Serialize)]
pub(super) struct Nothing {}

/// What was written, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Said<'a, More: Serialize> {
    trace: &'a Path,
    #[serde(flatten)]
    written: Written,
    #[serde(flatten)]
    more: More,
}

/// Prints what was written, as a sentence or as JSON.
pub(super) fn say<More: Serialize>(
    path: &Path,
    written: Written,
    more: More,
    json: bool,
) -> anyhow::Result<()> {
    if json {
        let said = Said { trace: path, written, more };
        println!("{}", serde_json::to_string_pretty(&said)?);
        return Ok(());
    }
    println!(
        "{}: {} ticks in {}, {} page events in {} runs, {} chunks, {}",
        path.display(),
        show::count(written.ticks),
        show::time(std::time::Duration::from_nanos(written.end.as_nanos())),
        show::count(written.page_events),
        show::count(written.runs),
        written.chunks,
        show::bytes(written.bytes),
    );
    Ok(())
}
