// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports on disk: every file whole or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use super::data::{Report, SCHEMA_VERSION};
use super::judge::{Judged, judge};
use super::{csv, html};

/// Most bytes of the page. What cannot be drawn in less would not be read either.
pub const MAX_HTML_BYTES: usize = 5_000_000;

/// Why a report was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The folder is not there and cannot be made.
    #[error("Cannot make the folder {}; name another with room for the report", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written: a full disk, above all. What stood there before still stands.
    #[error(
        "Cannot write {} ({bytes} bytes); the disk may be full or the folder read-only: make room \
         or name another folder",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Its size, had it been written.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A file's contents cannot be made from the data.
    #[error("Cannot turn the data into {name}; this is a fault of the program, please report it")]
    Encode {
        /// The file.
        name: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The page is larger than it may be.
    #[error("report.html would have {bytes} bytes, more than {max}: {cure}")]
    TooLarge {
        /// What it would have.
        bytes: usize,
        /// What it may have.
        max: usize,
        /// What makes it smaller.
        cure: &'static str,
    },
}

/// What was written.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// All data.
    pub json: PathBuf,
    /// One file per figure and table.
    pub csv: Vec<PathBuf>,
    /// The verdicts that are in them.
    pub claims: Vec<Judged>,
}

/// What `report.json` holds: the report, and the verdicts made from it.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    claims: &'a [Judged],
}

/// Writes a report into a folder, which is made if need be: CSV files, then `report.json`, then
/// `report.html`. Each file appears whole or not at all, and the page last, so that a page that
/// is there has all its data beside it.
///
/// # Errors
/// A folder or file that cannot be written (the error names it and its size), or a page larger
/// than [`MAX_HTML_BYTES`].
pub fn write(dir: &Path, report: &Report) -> Result<Written, ReportError> {
    fs::create_dir_all(dir)
        .map_err(|source| ReportError::Folder { path: dir.to_owned(), source })?;
    let mut report = report.clone();
    report.schema_version = SCHEMA_VERSION;
    let claims = judge(&report);
    // Everything is made before the first byte is written.
    let page = html::render(&report, &claims);
    if page.len() > MAX_HTML_BYTES {
        let cure =
            "fewer policies, predictions, checks or parameters in one report make it smaller";
        return Err(ReportError::TooLarge { bytes: page.len(), max: MAX_HTML_BYTES, cure });
    }
    let json = serde_json::to_vec(&Document { report: &report, claims: &claims })
        .map_err(|error| ReportError::Encode { name: "report.json", source: error.into() })?;
    let sheets = csv::files(&report, &claims)
        .map_err(|source| ReportError::Encode { name: "the CSV files", source })?;
    let csv = sheets.iter().map(|(name, bytes)| put(dir, name, bytes)).collect::<Result<_, _>>()?;
    let json = put(dir, "report.json", &json)?;
    let html = put(dir, "report.html", page.as_bytes())?;
    Ok(Written { html, json, csv, claims })
}

/// A file, by way of another that takes its name when all of it is on the disk.
pub(super) fn put(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, ReportError> {
    let path = dir.join(name);
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".report-");
        // As any other file: what the user's mask leaves of it.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(dir)?;
        file.write_all(bytes)?;
        // A disk may be found full only here.
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => Err(ReportError::Write { path, bytes: bytes.len(), source }),
    }
}
