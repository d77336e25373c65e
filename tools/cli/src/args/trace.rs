// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces: what is to be read, made and shown.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use precopy::trace::{Coding, WriterOptions};

use super::{GuestArgs, TrackerName};
use crate::parse;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace import tools/lab/traces/web-50.trace.zst web-50.ptrace
  precopy trace info web-50.ptrace
  precopy trace synth zipf+bursts --for 60s bursts.ptrace
  precopy trace record --guest web --for 60s web.ptrace
  precopy trace cat web-50.ptrace --from 10s --for 1s")]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum TraceCommand {
    /// Turn a text trace, compressed or not, into a binary one
    Import(ImportArgs),
    /// Say what a trace is like: dirty rate, working sets, hot pages, bursts
    Info(TraceInfoArgs),
    /// Record what a guest writes
    Record(Box<RecordArgs>),
    /// Make the trace of a synthetic guest
    Synth(SynthArgs),
    /// Print a trace as text
    Cat(CatArgs),
    /// Keep what is whole of a trace that was cut off or damaged
    Salvage(SalvageArgs),
}

/// How a trace file is written.
#[derive(clap::Args, Debug)]
pub(crate) struct FileArgs {
    /// How ticks are stored
    #[arg(long, value_enum, default_value_t = CodingName::Modelled)]
    pub(crate) coding: CodingName,
    /// Time after which a chunk is closed: a damaged byte loses one, a longer one is smaller
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse::time)]
    pub(crate) chunk: Duration,
    /// Write over a file that exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what is told of it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl FileArgs {
    /// The same for a writer.
    pub(crate) fn options(&self) -> WriterOptions {
        WriterOptions { chunk: self.chunk, coding: self.coding.into() }
    }
}

/// How ticks are stored.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodingName {
    /// Differences in as few bytes as each needs: quickest
    Plain,
    /// The same, compressed with LZ4
    Lz4,
    /// In an arithmetic code: smallest
    Modelled,
}

impl From<CodingName> for Coding {
    fn from(name: CodingName) -> Self {
        match name {
            CodingName::Plain => Self::Plain,
            CodingName::Lz4 => Self::Lz4,
            CodingName::Modelled => Self::Modelled,
        }
    }
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace import tools/lab/traces/web-50.trace.zst web-50.ptrace
  precopy trace import tools/lab/traces/web-50.trace.zst web-50.ptrace \\
      --companion tools/lab/traces/web-50.json
  zstdcat tools/lab/traces/web-50.trace.zst | precopy trace import - web-50.ptrace --json

The text is `dirty trace text v1`: a line of JSON, then one line for each tick. The companion's
requests of each second become those of the ticks, spread evenly over the second.")]
pub(crate) struct ImportArgs {
    /// The text, plain or compressed with Zstandard; `-` reads standard input
    #[arg(value_name = "TEXT")]
    pub(crate) from: PathBuf,
    /// The trace to write
    #[arg(value_name = "TRACE")]
    pub(crate) to: PathBuf,
    /// The JSON file beside the text, with requests and counts of zero pages
    #[arg(long, value_name = "FILE")]
    pub(crate) companion: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace cat web-50.ptrace | zstd -19 > web-50.trace.zst
  precopy trace cat web-50.ptrace --from 10s --for 1s")]
pub(crate) struct CatArgs {
    /// The trace
    #[arg(value_name = "TRACE")]
    pub(crate) trace: PathBuf,
    /// Begin with the first tick that ends after this time of the trace
    #[arg(long, value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) from: Option<Duration>,
    /// End after so much of the trace
    #[arg(long = "for", value_name = "TIME", value_parser = parse::seconds)]
    pub(crate) time: Option<Duration>,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace salvage cut-off.ptrace whole.ptrace")]
pub(crate) struct SalvageArgs {
    /// The damaged trace
    #[arg(value_name = "DAMAGED")]
    pub(crate) from: PathBuf,
    /// The trace to write
    #[arg(value_name = "TRACE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) file: FileArgs,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace info web-50.ptrace
  precopy trace info --json *.ptrace

The working set of a window is the mean number of distinct pages over all windows of that length.
Dispersion is the variance of the page events in bins of a length over their mean: 1 if they came
independently. With --json there is one object a line for each trace.")]
pub(crate) struct TraceInfoArgs {
    /// The traces
    #[arg(value_name = "TRACE", required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace synth --list
  precopy trace synth zipf:rate=20000,exponent=1.1 zipf.ptrace
  precopy trace synth zipf+gc-ring+bursts+diurnal mixed.ptrace --memory 64GiB --for 10m
  precopy trace synth jump jump.ptrace --seed 7

A guest is a list of writers and modulators, joined by `+`. Writers say which pages are written,
modulators change the rate of all of them over time. Same guest, size and seed: same trace.")]
pub(crate) struct SynthArgs {
    /// Writers and modulators: `name[:parameter=value,...][+...]`
    #[arg(value_name = "GUEST", required_unless_present = "list")]
    pub(crate) guest: Option<String>,
    /// The trace to write
    #[arg(value_name = "TRACE", required_unless_present = "list")]
    pub(crate) to: Option<PathBuf>,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = parse::size)]
    pub(crate) memory: u64,
    /// Length of the trace
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse::time)]
    pub(crate) time: Duration,
    /// Length of a tick
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse::time)]
    pub(crate) tick: Duration,
    /// Seed of everything that is random
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) file: FileArgs,
    /// List writers and modulators with their parameters
    #[arg(long, conflicts_with_all = ["guest", "to"])]
    pub(crate) list: bool,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  precopy trace record --guest web --for 60s web.ptrace
  precopy trace record --guest web --memory 512MiB --users 100 --for 2m small.ptrace
  precopy trace record --guest counters --pattern zipf --rate 50000 --for 10s counters.ptrace
  precopy trace record --guest counters --tracker pagemap --json counters.ptrace
  precopy trace record --pid 4242 --for 30s program.ptrace
  precopy trace record --pid $(pidof qemu-system-x86_64) --largest --tick 5ms vm.ptrace

With --pid a process that runs is recorded as it is: it is attached to for some 100 us, and each
first write to a page in a tick costs it about a microsecond. Nothing is left behind in it.
A file that was cut off (kill, full disk) keeps what it has: see `precopy trace salvage`. Ctrl-C
ends the recording early, and the file is whole.")]
pub(crate) struct RecordArgs {
    /// The trace to write
    #[arg(value_name = "TRACE")]
    pub(crate) to: PathBuf,
    /// Which guest is started and recorded
    #[arg(long = "guest", value_enum, default_value_t = RecordGuest::Web)]
    pub(crate) kind: RecordGuest,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// How long to record
    #[arg(
        long = "for",
        visible_alias = "seconds",
        value_name = "TIME",
        default_value = "60s",
        value_parser = parse::seconds
    )]
    pub(crate) time: Duration,
    /// From one harvest to the next
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse::time)]
    pub(crate) tick: Duration,
    /// How long the guest runs before it is recorded, for the site after its users came in
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse::time)]
    pub(crate) warm_up: Duration,
    /// What finds the counters' writes
    #[arg(long, value_enum, default_value_t = TrackerName::Marked)]
    pub(crate) tracker: TrackerName,
    /// Concurrent users of the site [default: 600 for 2 GiB, in proportion]
    #[arg(long, value_name = "N")]
    pub(crate) users: Option<u32>,
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

/// What can be recorded.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordGuest {
    /// The Web 2.0 site, with users
    Web,
    /// Pages that count their writes
    Counters,
}

/// A process that runs already, and which of its memory is recorded.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "A running process")]
pub(crate) struct ProcessArgs {
    /// Record this process in place of a guest of our own
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Only these addresses, in hexadecimal as in /proc/PID/maps; may be given more than once
    #[arg(long = "range", value_name = "FROM-TO", requires = "pid")]
    #[arg(value_parser = parse::addresses)]
    pub(crate) ranges: Vec<Range<usize>>,
    /// Only the largest mapping
    #[arg(long, requires = "pid", conflicts_with = "ranges")]
    pub(crate) largest: bool,
    /// All writable mappings of any size and kind, not only private and shared memory
    #[arg(long, requires = "pid", conflicts_with_all = ["ranges", "largest"])]
    pub(crate) all: bool,
    /// Leave out smaller mappings
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1MiB",
        value_parser = parse::size,
        requires = "pid"
    )]
    pub(crate) above: u64,
}
