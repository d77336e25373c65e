// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy paper`: the paper's experiments, and their report.

mod live;

use std::sync::Mutex;
use std::time::Instant;

use command::Stop;
use indicatif::{ProgressBar, ProgressStyle};
use lab::paper::experiments::{self, Options};
use lab::paper::pool::Watch;
use lab::report::data::{Machine, Mode, Parameter, Report, RunInfo};
use precopy::policy::StrategySpec;
use webvm::site::SiteConfig;

use crate::args::{Experiment, HostArgs, PaperArgs};
use crate::exit::{Exit, usage};
use crate::{document, system};

/// Shows how far the runs have come, and passes Ctrl-C on.
struct Progress {
    bar: ProgressBar,
    stop: Stop,
    runs: Mutex<u64>,
}

impl Progress {
    fn new(stop: Stop) -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, stop, runs: Mutex::new(0) }
    }
}

impl Watch for Progress {
    fn progress(&self, what: &str, done: usize, all: usize) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(what.to_owned());
        *self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
    }

    fn is_cancelled(&self) -> bool {
        self.stop.requests() > 0
    }
}

/// Heading of the reports.
const TITLE: &str = "The cost of live migration under Web 2.0 load, again";
/// Runs of each case in virtual time.
const SEEDS: u64 = 5;

/// Runs the command.
pub(crate) fn run(args: &PaperArgs) -> anyhow::Result<Exit> {
    if args.live.live { live::run(args) } else { virtually(args) }
}

/// The destination of a live experiment, in a process of its own.
pub(crate) fn host(args: &HostArgs) -> anyhow::Result<Exit> {
    lab::live::serve(std::io::stdin(), &mut std::io::stdout(), args.die_at_commit)?;
    Ok(Exit::Done)
}

fn virtually(args: &PaperArgs) -> anyhow::Result<Exit> {
    let options = options(args)?;
    document::prepare_folder(&args.out)?;
    let stop = Stop::install()?;
    let progress = Progress::new(stop.clone());
    let began = Instant::now();
    let mut report = Report { run: describe(args, &options), ..Report::default() };
    let wants = |one: Experiment| args.experiment == Experiment::All || args.experiment == one;
    if wants(Experiment::Capacity) {
        report.capacity = Some(experiments::capacity(&options, &progress)?);
    }
    if wants(Experiment::Fig2) {
        report.fig2 = experiments::fig2(&options, &progress)?;
        report.wws = Some(experiments::working_sets(&options, &progress)?);
    }
    if wants(Experiment::Fig3) {
        report.fig3 = Some(experiments::fig3(&options, &progress)?);
    }
    if wants(Experiment::Table2) {
        report.table2 = Some(experiments::table2(&options, &progress)?);
    }
    if wants(Experiment::Contrast) {
        report.contrast = experiments::contrast(&options, &progress)?;
    }
    if wants(Experiment::Sensitivity) {
        report.sensitivity = experiments::sensitivity(&options, &progress)?;
    }
    if wants(Experiment::Policies) {
        report.policies = experiments::rank(&options, &progress)?;
    }
    if wants(Experiment::Predictions) {
        report.predictions = experiments::predictions(&progress)?;
    }
    if args.experiment == Experiment::All {
        report.checks = lab::paper::model::checks(&options, &progress)?;
        report.traces = lab::paper::model::against_traces(&options)?;
    }
    progress.bar.finish_and_clear();
    if stop.requests() > 0 {
        let runs = *progress.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.run.partial = Some(format!(
            "Interrupted by Ctrl-C after {runs} runs: what was not run by then is missing."
        ));
    }
    report.run.wall_s = began.elapsed().as_secs_f64();
    publish(args, &mut report)?;
    Ok(if stop.requests() > 0 { Exit::Cancelled } else { Exit::Done })
}

fn options(args: &PaperArgs) -> anyhow::Result<Options> {
    let mut options = Options::default();
    options.seeds = (1..=args.seeds.unwrap_or(SEEDS)).collect();
    if let Some(policy) = &args.policy {
        options.policy = StrategySpec::parse(policy).map_err(usage)?;
    }
    if let Some(rate) = args.bandwidth_cap {
        #[expect(clippy::cast_precision_loss, reason = "bytes per second")]
        let rate = rate as f64;
        options.bandwidth_bytes_per_s = rate;
    }
    options.tax = slowdown(args)?.unwrap_or(options.tax);
    options.site.clone_from(&args.site);
    // A setting that makes no sense is a usage error, not one of the first run.
    options.scenario(experiments::USERS, 1).map_err(usage)?;
    Ok(options)
}

fn slowdown(args: &PaperArgs) -> anyhow::Result<Option<f64>> {
    match args.slowdown {
        Some(given) if !(0.0..=0.95).contains(&given) => {
            Err(usage(format!("--slowdown is {given}; it must be from 0 to 0.95")))
        }
        given => Ok(given),
    }
}

/// Writes the report, and prints the most important of it.
fn publish(args: &PaperArgs, report: &mut Report) -> anyhow::Result<()> {
    lab::paper::explain(report);
    let written = lab::report::write(&args.out, report)?;
    if args.json {
        println!("{}", std::fs::read_to_string(&written.json)?);
    } else {
        print!("{}", lab::report::text::render(report, &written.claims));
        println!("\nReport: {}", written.html.display());
    }
    Ok(())
}

/// Where this runs.
pub(crate) fn machine() -> Machine {
    Machine {
        cores: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_mib: system::available_bytes().unwrap_or(0) >> 20,
        description: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// A parameter worth knowing.
pub(crate) fn parameter(name: &str, value: impl std::fmt::Display, source: &str) -> Parameter {
    Parameter { name: name.to_owned(), value: value.to_string(), source: source.to_owned() }
}

/// The settings of the site that results hang on.
pub(crate) fn site_parameters(site: &SiteConfig) -> Vec<Parameter> {
    vec![
        parameter("processor, C0", format!("{} op/s", site.capacity), "calibrated"),
        parameter("private pages of an action, w", site.private_pages, "measured"),
        parameter("kernel pages, K", site.kernel_pages, "measured"),
        parameter("writes to them by an action", site.kernel_writes, "fitted"),
        parameter("their Zipf exponent", site.kernel_zipf, "fitted"),
    ]
}

fn describe(args: &PaperArgs, options: &Options) -> RunInfo {
    let site = options.scenario(experiments::USERS, 1).map(|s| s.site).unwrap_or_default();
    let bandwidth_mb_s = options.bandwidth_bytes_per_s / 1e6;
    let mut parameters = vec![
        parameter("guest memory", "2 GiB", "paper, 4.4"),
        parameter("link", format!("{bandwidth_mb_s} MB/s, shared with the site"), "1 Gb/s"),
        parameter("slowdown by a migration", options.tax, "Clark 2005: 0.12-0.2"),
    ];
    parameters.extend(site_parameters(&site));
    RunInfo {
        title: TITLE.to_owned(),
        command: format!("precopy paper {:?}", args.experiment).to_lowercase(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: Mode::Virtual,
        policy: options.policy.to_string(),
        seeds: options.seeds.clone(),
        parameters,
        machine: machine(),
        ..RunInfo::default()
    }
}
