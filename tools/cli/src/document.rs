// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happened, as a file of JSON.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Makes sure that a file can be written, before that of which it will tell is begun. Leaves none
/// behind that was not there.
pub(crate) fn prepare(path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let tried = match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop)
        }
        opened => opened.map(drop),
    };
    tried.with_context(|| failed(path))
}

/// The same for the folder of a report, which is made.
pub(crate) fn prepare_folder(path: &Path) -> anyhow::Result<()> {
    let made = fs::create_dir_all(path).and_then(|()| tempfile::tempfile_in(path));
    made.map(drop)
        .with_context(|| format!("Cannot write to the folder {}; name another one", path.display()))
}

/// Writes it to a file, if one is named.
pub(crate) fn write(document: &impl Serialize, path: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text(document)?).with_context(|| failed(path))
}

/// As it is written and printed.
pub(crate) fn text(document: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

fn failed(path: &Path) -> String {
    format!("Could not write {}", path.display())
}
