// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files of a tournament: all runs as CSV and Parquet, the summary as JSON, and one page.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::html::tournament::render;
use super::write::{ReportError, put};
use crate::tournament::record::RunRecord;
use crate::tournament::summary::Summary;
use crate::tournament::tables;

/// Most bytes of the page; it holds every run.
pub const MAX_HTML_BYTES: usize = 64_000_000;

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// The summary.
    pub json: PathBuf,
    /// All runs.
    pub csv: PathBuf,
    /// All runs; nothing if there are none.
    pub parquet: Option<PathBuf>,
}

/// Writes a tournament into a folder, which is made if need be: each file whole or not at all,
/// and the page last.
///
/// # Errors
/// A folder or file that cannot be written, or a page larger than [`MAX_HTML_BYTES`]: the other
/// files are there then.
pub fn write(dir: &Path, summary: &Summary, runs: &[RunRecord]) -> Result<Written, ReportError> {
    write_up_to(MAX_HTML_BYTES, dir, summary, runs)
}

fn write_up_to(
    max: usize,
    dir: &Path,
    summary: &Summary,
    runs: &[RunRecord],
) -> Result<Written, ReportError> {
    fs::create_dir_all(dir)
        .map_err(|source| ReportError::Folder { path: dir.to_owned(), source })?;
    let encode = |name| move |source| ReportError::Encode { name, source };
    let csv = tables::csv(runs, &summary.weights).map_err(encode("runs.csv"))?;
    let parquet = tables::parquet(runs, &summary.weights)
        .map_err(|error| encode("runs.parquet")(io::Error::other(error)))?;
    let json =
        serde_json::to_vec_pretty(summary).map_err(|error| encode("summary.json")(error.into()))?;
    let page = render(summary, runs, &csv, &json).map_err(encode("report.html"))?;
    // Hours of runs are in these: they come before the page is found to be too large.
    let csv = put(dir, "runs.csv", &csv)?;
    let parquet = (!parquet.is_empty()).then(|| put(dir, "runs.parquet", &parquet)).transpose()?;
    let json = put(dir, "summary.json", &json)?;
    if page.len() > max {
        let cure = "fewer runs in one tournament make it smaller; runs.csv, runs.parquet and \
                    summary.json beside it have everything";
        return Err(ReportError::TooLarge { bytes: page.len(), max, cure });
    }
    let html = put(dir, "report.html", page.as_bytes())?;
    Ok(Written { html, json, csv, parquet })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tournament::plan::{EXAMPLE, Plan};
    use crate::tournament::play::Played;
    use crate::tournament::summary::summarize;

    #[test]
    fn a_page_that_is_too_large_leaves_the_data() {
        let plan = Plan::parse(EXAMPLE).unwrap();
        let none = Played { runs: Vec::new(), planned: 0, kept: 0 };
        let dir = tempfile::tempdir().unwrap();
        let error = write_up_to(1000, dir.path(), &summarize(&plan, &[], &none), &[]).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("more than 1000: fewer runs in one tournament"), "{told}");
        assert!(dir.path().join("summary.json").is_file() && dir.path().join("runs.csv").is_file());
        assert!(!dir.path().join("report.html").exists());
    }
}
