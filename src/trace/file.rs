// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace in a file, which any number of readers may read at once.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{Trace, TraceError, TraceReader};

/// A trace in a file. Each reading opens it anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceFile {
    path: PathBuf,
}

impl TraceFile {
    /// The trace at `path`, which is looked at when it is opened.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Trace for TraceFile {
    type Source = TraceReader<BufReader<File>>;

    fn open(&self) -> Result<Self::Source, TraceError> {
        let file =
            File::open(&self.path).map_err(|source| TraceError::Read { offset: 0, source })?;
        TraceReader::new(BufReader::new(file))
    }
}
