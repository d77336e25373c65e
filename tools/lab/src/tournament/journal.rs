// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finished runs on disk, one a line, so that a tournament that was killed goes on.
//!
//! A line is `{"key":"...","run":{...}}`. The key names a run by everything that decides how it
//! goes, the program's build first; a line that is cut off or of another build is passed over.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::record::RunRecord;

/// Longest line; a record has about 2 KiB.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most lines that are read.
const LINES_MAX: usize = 50_000_000;

/// The journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be opened or read.
    #[error("Cannot use the journal {}; name another folder, or remove the file", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A run cannot be written down. What was written before is whole.
    #[error(
        "Cannot append to the journal {}; the disk may be full: make room, and the same command \
         goes on from there",
        path.display()
    )]
    Append {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    run: &'a RunRecord,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    run: RunRecord,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    build: u64,
    finished: BTreeMap<String, RunRecord>,
    passed_over: usize,
}

impl Journal {
    /// Opens a journal, or begins one, for runs of this build of the program: any text that
    /// differs whenever the program does.
    ///
    /// # Errors
    /// [`JournalError::Open`].
    pub fn open(path: &Path, build: &str) -> Result<Self, JournalError> {
        let error = |source| JournalError::Open { path: path.to_owned(), source };
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = open.map_err(error)?;
        let mut hasher = DefaultHasher::new();
        build.hash(&mut hasher);
        let build = hasher.finish();
        let (finished, passed_over) = read(&mut file, build).map_err(error)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), build, finished, passed_over })
    }

    fn name(&self, key: u64) -> String {
        format!("{}{key:016x}", prefix(self.build))
    }

    /// The run of this key, if it is finished.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<&RunRecord> {
        self.finished.get(&self.name(key))
    }

    /// Runs of this build that were there when it was opened.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.finished.len()
    }

    /// Lines that could not be read.
    #[must_use]
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Writes runs down.
    ///
    /// # Errors
    /// [`JournalError::Append`].
    pub fn append<'r>(
        &self,
        runs: impl IntoIterator<Item = (u64, &'r RunRecord)>,
    ) -> Result<(), JournalError> {
        let write = || {
            let mut text = Vec::new();
            for (key, run) in runs {
                serde_json::to_writer(&mut text, &Line { key: &self.name(key), run })?;
                text.push(b'\n');
            }
            // All at once: whoever is killed leaves at most one line cut off.
            self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
        };
        write().map_err(|source| JournalError::Append { path: self.path.clone(), source })
    }
}

/// How the keys of a build begin.
fn prefix(build: u64) -> String {
    format!("{build:016x}")
}

/// All whole lines of a build, and how many lines are damaged. Lines of other builds are not
/// kept: a folder that is used for weeks holds many. Ends the last line if it was cut off.
fn read(file: &mut File, build: u64) -> io::Result<(BTreeMap<String, RunRecord>, usize)> {
    let build = prefix(build);
    let (mut finished, mut passed_over, mut cut) = (BTreeMap::new(), 0, false);
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::new(&mut *file);
    let mut text = Vec::new();
    for _ in 0..LINES_MAX {
        text.clear();
        if reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        cut = text.last() != Some(&b'\n');
        match serde_json::from_slice::<Entry>(&text) {
            Ok(line) if line.key.starts_with(&build) => {
                finished.insert(line.key, line.run);
            }
            Ok(_) => {}
            Err(_) => passed_over += 1,
        }
    }
    if cut {
        file.write_all(b"\n")?;
    }
    Ok((finished, passed_over))
}
