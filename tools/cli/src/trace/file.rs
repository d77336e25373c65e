// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace file that is written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use precopy::trace::{WriterOptions, Written, salvage};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::exit::usage;
use crate::show;

fn exists(path: &Path) -> anyhow::Error {
    let path = path.display();
    usage(format!("{path} exists; choose another name, or write over it with --force"))
}

/// Creates a file of which even a part is of use, unless there is one that nobody said may go.
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(error).with_context(|| format!("Could not create {}", path.display())),
    }
}

/// A file that appears under its name whole or not at all: what stood there before stands until
/// then, and if the work fails.
#[derive(Debug)]
pub(super) struct Whole {
    path: PathBuf,
    force: bool,
    sink: BufWriter<NamedTempFile>,
}

impl Whole {
    /// A file that will have this name; `from` is what it is made from, which it cannot replace.
    pub(super) fn new(path: &Path, force: bool, from: Option<&Path>) -> anyhow::Result<Self> {
        if let Ok(there) = fs::metadata(path) {
            let same = from.and_then(|from| fs::metadata(from).ok());
            if same.is_some_and(|from| (from.dev(), from.ino()) == (there.dev(), there.ino())) {
                let path = path.display();
                return Err(usage(format!("{path} cannot replace itself: choose another name")));
            }
            if !there.is_file() {
                return Err(usage(format!("{} is no file that can be replaced", path.display())));
            }
            if !force {
                return Err(exists(path));
            }
        }
        // The file that a link leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut builder = tempfile::Builder::new();
        // As any other file: what the user's mask leaves of it.
        builder.prefix(".precopy-").permissions(Permissions::from_mode(0o666));
        let file = builder
            .tempfile_in(folder.unwrap_or_else(|| Path::new(".")))
            .with_context(|| format!("Could not create {}", path.display()))?;
        Ok(Self { path, force, sink: BufWriter::with_capacity(1 << 18, file) })
    }

    /// Where its content goes.
    pub(super) fn sink(&mut self) -> &mut impl Write {
        &mut self.sink
    }

    /// Gives it its name.
    pub(super) fn keep(self) -> anyhow::Result<()> {
        let Self { path, force, sink } = self;
        let file = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
        let kept = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        match kept {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(error) => Err(error.error)
                .with_context(|| format!("Could not name the file {}", path.display())),
        }
    }
}

/// Takes a file away that holds nothing of use, because what was to make it failed; one of which
/// something can be had stays.
pub(super) fn discard_if_failed<T>(result: anyhow::Result<T>, path: &Path) -> anyhow::Result<T> {
    result.map_err(|error| {
        if ticks(path) > 0 {
            let path = path.display();
            return error.context(format!(
                "{path} was cut off; `precopy trace salvage {path} OTHER` saves what it has"
            ));
        }
        if fs::metadata(path).is_ok_and(|file| file.is_file()) {
            // It may be gone already; the error that is reported is the other one.
            let _ = fs::remove_file(path);
        }
        error
    })
}

/// How many ticks of a file can be salvaged.
fn ticks(path: &Path) -> u64 {
    let saved = File::open(path)
        .ok()
        .and_then(|file| salvage(BufReader::new(file), io::sink(), WriterOptions::default()).ok());
    saved.map_or(0, |saved| saved.written.ticks)
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

#[cfg(test)]
mod tests {
    use precopy::trace::{TraceHeader, TraceTick, TraceWriter};
    use precopy::units::{PageIndex, PageRun, Tick};

    use super::*;

    #[test]
    fn a_file_of_which_something_can_be_had_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.ptrace");
        let failed = || discard_if_failed(Err::<(), _>(anyhow::anyhow!("full disk")), &path);
        let options =
            WriterOptions { chunk: std::time::Duration::from_millis(1), ..Default::default() };
        let header = TraceHeader::new(64, "test");
        let begin = || TraceWriter::new(File::create(&path).unwrap(), &header, options).unwrap();
        drop(begin());
        failed().unwrap_err();
        assert!(!path.exists(), "a header alone is of no use");
        let mut writer = begin();
        for at in 1..5 {
            let run = PageRun::new(PageIndex::new(at), 1);
            writer.push(&TraceTick::new(Tick::from_nanos(at * 2_000_000), vec![run])).unwrap();
        }
        drop(writer);
        let told = format!("{:#}", failed().unwrap_err());
        assert!(path.exists() && told.contains("salvage") && told.contains("full disk"), "{told}");
        // What is no file is nobody's to remove.
        discard_if_failed(Err::<(), _>(anyhow::anyhow!("x")), Path::new("/dev/null")).unwrap_err();
        assert!(Path::new("/dev/null").exists());
    }
}
