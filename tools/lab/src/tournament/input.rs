// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The traces of a plan, read into memory.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use precopy::bitmap::DenseBitmap;
use precopy::policy::nearest;
use precopy::sim::{ReplayOptions, TraceGuest, VirtualGuest as _};
use precopy::trace::synth::SynthTrace;
use precopy::trace::{MemoryTrace, TickSource as _, Trace as _, TraceHeader, TraceTick};
use precopy::units::{PageRun, PageSize, Tick};

use super::plan::{Origin, Plan, Split, Synth, TraceSpec};
use crate::traces::{self, OpenError, Shipped};

/// Tick of synthetic traces.
const SYNTH_TICK: Duration = Duration::from_millis(10);
/// Most runs of pages of a synthetic trace, which take 16 bytes each.
const SYNTH_RUNS_MAX: usize = 100_000_000;
/// Most files of a folder.
const FILES_MAX: usize = 1000;

/// A trace that the plan names cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A file or folder cannot be read.
    #[error("Line {line} of the plan: cannot read {}; {hint}paths are relative to the plan's \
        folder", path.display())]
    Io {
        /// The line.
        line: usize,
        /// The nearest name in its folder.
        hint: String,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no trace, or damaged.
    #[error("Line {line} of the plan: {name} is no trace that can be read")]
    Trace {
        /// The line.
        line: usize,
        /// The file.
        name: String,
        /// What is wrong with it.
        source: OpenError,
    },
    /// A folder without traces.
    #[error("Line {line} of the plan: {} holds {count} files *.ptrace or *.trace.zst; there may \
        be 1 to {max}", path.display())]
    Folder {
        /// The line.
        line: usize,
        /// The path.
        path: PathBuf,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// Two traces of the same name.
    #[error("Line {line} of the plan: there are two traces {name:?}; give one another name")]
    Repeated {
        /// The line of the second.
        line: usize,
        /// The name.
        name: String,
    },
    /// A trace of which nothing can be replayed.
    #[error("Line {line} of the plan: {name} is unusable: {why}")]
    Unusable {
        /// The line.
        line: usize,
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
}

/// A trace in memory, with what the plan says of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Input {
    /// Name in tables.
    pub name: String,
    /// Kind of guest.
    pub family: String,
    /// Train or test.
    pub split: Split,
    /// How much faster than recorded it runs.
    pub speed: f64,
    /// The trace, at that speed.
    pub trace: MemoryTrace,
    /// Pages that hold something at the start of a migration.
    pub populated: Arc<DenseBitmap>,
    /// Hash of everything that is replayed, as recorded: the same at every speed.
    pub fingerprint: u64,
}

impl Input {
    /// Length of the trace.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.trace.end().map_or(Duration::ZERO, |end| end.since(Tick::ZERO))
    }

    /// Writes per second: pages reported, over the length.
    #[must_use]
    pub fn reports_per_s(&self) -> f64 {
        let pages: u64 = self.trace.ticks().iter().map(TraceTick::pages).sum();
        pages as f64 / self.length().as_secs_f64().max(1e-9)
    }

    /// Where the second begins in which most pages are reported.
    #[must_use]
    pub fn busiest_second(&self) -> Duration {
        let ticks = self.trace.ticks();
        let (mut from, mut sum, mut best) = (0, 0, (0, Tick::ZERO));
        for tick in ticks {
            sum += tick.pages();
            while tick.end.since(ticks[from].end) >= Duration::from_secs(1) {
                sum -= ticks[from].pages();
                from += 1;
            }
            if sum > best.0 {
                let begin = from.checked_sub(1).map_or(Tick::ZERO, |before| ticks[before].end);
                best = (sum, begin);
            }
        }
        best.1.since(Tick::ZERO)
    }
}

/// Reads all traces of a plan; `folder` is the plan's.
///
/// # Errors
/// [`InputError`] names the plan's line and the file.
pub fn load(plan: &Plan, folder: &Path) -> Result<Vec<Input>, InputError> {
    let mut inputs: Vec<Input> = Vec::new();
    for spec in &plan.traces {
        let line = spec.line;
        match &spec.origin {
            Origin::Recording(recording) => inputs.push(shipped(spec, *recording)?),
            Origin::File(path) => inputs.push(file(spec, &folder.join(path), spec.name.clone())?),
            Origin::Synth(guest) => inputs.push(synthetic(spec, guest)?),
            Origin::Folder(path) => {
                let folder = folder.join(path);
                for path in files(&folder, line)? {
                    let name = spec.name.as_ref().map(|name| format!("{name}/{}", stem(&path)));
                    inputs.push(file(spec, &path, name)?);
                }
            }
        }
        let mut names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InputError::Repeated { line, name: pair[0].to_owned() });
        }
    }
    Ok(inputs)
}

/// The error of a file or folder, with the nearest name that there is if this one is not.
fn missing(line: usize, path: &Path, source: io::Error) -> InputError {
    let mut hint = String::new();
    if source.kind() == io::ErrorKind::NotFound
        && let (Some(folder), Some(name)) = (path.parent(), path.file_name())
    {
        let entries = fs::read_dir(folder).into_iter().flatten().take(FILES_MAX).flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names: Vec<String> = names.collect();
        let near = nearest(&name.to_string_lossy(), names.iter().map(String::as_str));
        hint = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
    }
    InputError::Io { line, hint, path: path.to_owned(), source }
}

fn files(folder: &Path, line: usize) -> Result<Vec<PathBuf>, InputError> {
    let io = |source| missing(line, folder, source);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.to_str().is_some_and(|path| SUFFIXES.iter().any(|end| path.ends_with(end))) {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            break;
        }
    }
    if files.is_empty() || files.len() > FILES_MAX {
        let (path, count) = (folder.to_owned(), files.len());
        return Err(InputError::Folder { line, path, count, max: FILES_MAX });
    }
    // The order of a folder is no order.
    files.sort();
    Ok(files)
}

const SUFFIXES: [&str; 2] = [".trace.zst", ".ptrace"];

fn stem(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bare = SUFFIXES.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    bare.unwrap_or(name)
}

fn shipped(spec: &TraceSpec, recording: Shipped) -> Result<Input, InputError> {
    let name = spec.name.clone().unwrap_or_else(|| recording.name.to_owned());
    let trace = traces::text(recording.bytes).map_err(|source| unreadable(spec, &name, source))?;
    input(spec, name, trace.header(), trace.ticks().to_vec())
}

fn synthetic(spec: &TraceSpec, guest: &Synth) -> Result<Input, InputError> {
    let name = spec.name.clone().unwrap_or_else(|| guest.spec.to_string());
    let unusable = |why: String| InputError::Unusable { line: spec.line, name: name.clone(), why };
    let (pages, length) = (guest.memory_mib * 256, Duration::from_secs(guest.length_s));
    let trace = SynthTrace::new(guest.spec.clone(), pages, SYNTH_TICK, length, guest.seed);
    let trace = trace.map_err(|error| unusable(error.to_string()))?;
    let header = trace.header().clone();
    let mut source = trace.open().map_err(|error| unusable(error.to_string()))?;
    let (mut ticks, mut tick, mut runs) = (Vec::new(), TraceTick::default(), 0);
    while source.next_tick(&mut tick).map_err(|error| unusable(error.to_string()))? {
        runs += tick.runs.len();
        if runs > SYNTH_RUNS_MAX {
            let most = SYNTH_RUNS_MAX / 1_000_000;
            return Err(unusable(format!(
                "it writes more than {most} million runs of pages; make it shorter or calmer"
            )));
        }
        ticks.push(std::mem::take(&mut tick));
    }
    input(spec, name.clone(), &header, ticks)
}

fn file(spec: &TraceSpec, path: &Path, name: Option<String>) -> Result<Input, InputError> {
    let name = name.unwrap_or_else(|| stem(path));
    let read = || MemoryTrace::read(&mut traces::open(path)?.open()?);
    let trace = read().map_err(|error| match error {
        OpenError::Io(source) => missing(spec.line, path, source),
        source => unreadable(spec, &name, source),
    })?;
    input(spec, name, trace.header(), trace.ticks().to_vec())
}

fn unreadable(spec: &TraceSpec, name: &str, source: OpenError) -> InputError {
    InputError::Trace { line: spec.line, name: name.to_owned(), source }
}

/// A trace of these ticks at the plan's speed.
pub(super) fn input(
    spec: &TraceSpec,
    name: String,
    header: &TraceHeader,
    mut ticks: Vec<TraceTick>,
) -> Result<Input, InputError> {
    if header.page_size != PageSize::BASE {
        let why = format!(
            "its pages have {} bytes; the simulator's have 4096",
            header.page_size.bytes_u32()
        );
        return Err(InputError::Unusable { line: spec.line, name, why });
    }
    let fingerprint = fingerprint(header, &ticks);
    let mut header = header.clone();
    header.tick = header.tick.div_f64(spec.speed);
    for tick in &mut ticks {
        let time = tick.end.since(Tick::ZERO).div_f64(spec.speed);
        tick.end = Tick::ZERO + time;
    }
    // Two ticks may end in the same nanosecond now, and one may end at the beginning.
    ticks.retain(|tick| tick.end > Tick::ZERO);
    for at in 1..ticks.len() {
        if ticks[at].end <= ticks[at - 1].end {
            ticks[at].end = ticks[at - 1].end + Duration::from_nanos(1);
        }
    }
    if ticks.is_empty() {
        let why = "it has no tick".to_owned();
        return Err(InputError::Unusable { line: spec.line, name, why });
    }
    let trace = MemoryTrace::new(header, ticks);
    let populated = Arc::new(populated(&trace));
    let (family, split, speed) = (spec.family.clone(), spec.split, spec.speed);
    Ok(Input { name, family, split, speed, trace, populated, fingerprint })
}

fn fingerprint(header: &TraceHeader, ticks: &[TraceTick]) -> u64 {
    let mut hasher = DefaultHasher::new();
    header.pages.hash(&mut hasher);
    let runs = |runs: &[PageRun], hasher: &mut DefaultHasher| {
        runs.len().hash(hasher);
        runs.iter().for_each(|run| (run.start().get(), run.pages()).hash(hasher));
    };
    runs(header.populated.as_deref().unwrap_or_default(), &mut hasher);
    for tick in ticks {
        (tick.end, tick.requests, tick.in_flight, tick.guest_time).hash(&mut hasher);
        runs(&tick.runs, &mut hasher);
        for (run, content) in &tick.content {
            (run.start().get(), run.pages(), format!("{content:?}")).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// What holds something when a migration begins: what the header says with whatever the trace
/// writes, or as the simulator assumes if the header says nothing.
fn populated(trace: &MemoryTrace) -> DenseBitmap {
    let pages = trace.header().pages;
    match TraceGuest::new(trace.clone(), &ReplayOptions::default()) {
        Ok(guest) => guest.populated().unwrap_or_else(|| DenseBitmap::full(pages)),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tournament::plan::EXAMPLE;

    #[test]
    fn a_file_that_is_not_there_is_told_with_the_nearest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("web-20.ptrace"), b"").unwrap();
        let text = EXAMPLE.replacen("recording = \"web-20\"", "file = \"web-2.ptrace\"", 1);
        let error = load(&Plan::parse(&text).unwrap(), folder.path()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("web-2.ptrace; did you mean \"web-20.ptrace\"?"), "{told}");
    }
}
