// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One CSV file for each figure and table; the header names the units.

use std::io;

use webvm::site::Action;

use super::data::{Fig3Kind, Report, Spread};
use super::judge::Judged;
use super::paper;
use super::rank::ranked;

/// A file to be: its name and its contents.
pub(super) type File = (&'static str, Vec<u8>);

/// A file under construction.
struct Sheet {
    name: &'static str,
    writer: csv::Writer<Vec<u8>>,
}

impl Sheet {
    fn new(name: &'static str, header: &[&str]) -> io::Result<Self> {
        let mut sheet = Self { name, writer: csv::Writer::from_writer(Vec::new()) };
        sheet.row(header)?;
        Ok(sheet)
    }

    fn row<T: AsRef<[u8]>>(&mut self, cells: impl IntoIterator<Item = T>) -> io::Result<()> {
        self.writer.write_record(cells).map_err(io::Error::other)
    }

    fn done(self) -> io::Result<File> {
        let bytes = self.writer.into_inner().map_err(|full| io::Error::other(full.to_string()))?;
        Ok((self.name, bytes))
    }
}

/// Full precision; nothing for what is not a number.
fn number(value: f64) -> String {
    if value.is_nan() { String::new() } else { value.to_string() }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(String::new, number)
}

/// Median, least, greatest, number of runs.
fn spread(spread: &Spread) -> [String; 4] {
    let runs = spread.values().len().to_string();
    [optional(spread.median()), optional(spread.min()), optional(spread.max()), runs]
}

/// Headers of [`spread`] for a quantity.
fn spread_header(header: &mut Vec<String>, name: &str) {
    for part in ["median", "min", "max", "runs"] {
        header.push(format!("{name} {part}"));
    }
}

/// Files for the sections that a report has.
pub(super) fn files(report: &Report, claims: &[Judged]) -> io::Result<Vec<File>> {
    let mut files = vec![claims_file(claims)?, table1()?];
    fig2(report, &mut files)?;
    fig3(report, &mut files)?;
    table2(report, &mut files)?;
    capacity(report, &mut files)?;
    contrast(report, &mut files)?;
    sensitivity(report, &mut files)?;
    policies(report, &mut files)?;
    curves(report, &mut files)?;
    checks(report, &mut files)?;
    predictions(report, &mut files)?;
    Ok(files)
}

fn claims_file(claims: &[Judged]) -> io::Result<File> {
    let header =
        ["id", "section", "quote", "paper", "ours median", "min", "max", "unit", "verdict", "why"];
    let mut sheet = Sheet::new("claims.csv", &header)?;
    for judged in claims {
        let claim = judged.claim;
        let [median, min, max, _] = spread(&judged.values);
        let unit = match claim.quantity.unit() {
            "%" => "share",
            "" => "1 = yes",
            unit => unit,
        };
        let texts = [claim.id, claim.section, claim.quote, claim.paper].map(str::to_owned);
        let verdict = judged.verdict.name().to_owned();
        let ends = [median, min, max, unit.to_owned(), verdict, judged.why.clone()];
        sheet.row(texts.into_iter().chain(ends))?;
    }
    sheet.done()
}

fn table1() -> io::Result<File> {
    let mut sheet = Sheet::new("table1.csv", &["action", "limit (s)"])?;
    for action in Action::ALL {
        sheet.row([action.name().to_owned(), number(paper::limit_s(action))])?;
    }
    sheet.done()
}

fn fig2(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    let Some(fig2) = &report.fig2 else { return Ok(()) };
    let header = ["completed (s)", "HomePage response time (s)"];
    let mut sheet = Sheet::new("fig2-response.csv", &header)?;
    for sample in &fig2.samples {
        sheet.row([number(sample.x), number(sample.y)])?;
    }
    files.push(sheet.done()?);
    let mut sheet = Sheet::new("fig2-throughput.csv", &["second (s)", "operations per second"])?;
    for second in &fig2.throughput {
        sheet.row([number(second.x), number(second.y)])?;
    }
    files.push(sheet.done()?);
    let header = ["round", "begin (s)", "end (s)", "pages", "bytes", "MB/s", "guest paused"];
    let mut sheet = Sheet::new("fig2-rounds.csv", &header)?;
    for round in &fig2.migration.rounds {
        sheet.row([
            round.number.to_string(),
            number(round.begin_s),
            number(round.end_s),
            round.pages.to_string(),
            round.bytes.to_string(),
            optional(round.rate_mb_s()),
            round.paused.to_string(),
        ])?;
    }
    files.push(sheet.done()?);
    let header = [
        "seed",
        "total (s)",
        "downtime by prober (s)",
        "longest gap (s)",
        "downtime by engine (s)",
        "recovery (s)",
        "dropped",
        "rounds",
        "sent (MB)",
        "peak (s)",
        "peak after resume (s)",
        "mean before (s)",
        "mean during pre-copy (s)",
    ];
    let mut sheet = Sheet::new("fig2-runs.csv", &header)?;
    for run in &fig2.runs {
        sheet.row([
            run.seed.to_string(),
            number(run.total_s),
            number(run.downtime_probe_s),
            number(run.downtime_gap_s),
            number(run.downtime_engine_s),
            number(run.recovery_s),
            run.dropped.to_string(),
            run.rounds.to_string(),
            number(run.sent_mb),
            number(run.peak_s),
            number(run.peak_after_resume_s),
            number(run.response_before_s),
            number(run.response_during_s),
        ])?;
    }
    files.push(sheet.done()?);
    Ok(())
}

fn fig3(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    let Some(fig3) = &report.fig3 else { return Ok(()) };
    let header = ["panel", "percentile", "seed", "window end (s)", "HomePage response time (s)"];
    let mut sheet = Sheet::new("fig3.csv", &header)?;
    for panel in &fig3.panels {
        let name = match panel.kind {
            Fig3Kind::None => "none",
            Fig3Kind::One => "one",
            Fig3Kind::TwoClose => "two close",
            Fig3Kind::TwoSpaced => "two spaced",
        };
        for run in &panel.runs {
            for (percentile, curve) in [("90", &run.p90), ("99", &run.p99)] {
                for point in curve {
                    let seed = run.seed.to_string();
                    let texts = [name.to_owned(), percentile.to_owned(), seed];
                    sheet.row(texts.into_iter().chain([number(point.x), number(point.y)]))?;
                }
            }
        }
    }
    files.push(sheet.done()?);
    Ok(())
}

fn table2(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    let Some(table2) = &report.table2 else { return Ok(()) };
    let header = [
        "action",
        "users",
        "p99 median (s)",
        "p99 min (s)",
        "p99 max (s)",
        "runs",
        "runs with few samples",
        "limit (s)",
        "paper (s)",
    ];
    let mut sheet = Sheet::new("table2.csv", &header)?;
    for cell in &table2.cells {
        let ends = [
            cell.undetermined.to_string(),
            number(paper::limit_s(cell.action)),
            optional(paper::table2_s(cell.action, cell.users)),
        ];
        let names = [cell.action.name().to_owned(), cell.users.to_string()];
        sheet.row(names.into_iter().chain(spread(&cell.p99_s)).chain(ends))?;
    }
    files.push(sheet.done()?);
    Ok(())
}

fn capacity(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    let Some(capacity) = &report.capacity else { return Ok(()) };
    let mut header: Vec<String> = ["users", "action", "limit (s)"].map(str::to_owned).to_vec();
    spread_header(&mut header, "p90 (s)");
    spread_header(&mut header, "p99 (s)");
    header.extend(["operations per second", "step passes", "what failed"].map(str::to_owned));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut sheet = Sheet::new("capacity.csv", &header)?;
    for step in &capacity.steps {
        for row in &step.actions {
            let limit = number(paper::limit_s(row.action));
            let names = [step.users.to_string(), row.action.name().to_owned(), limit];
            let throughput = optional(step.throughput.median());
            let ends = [throughput, step.pass.to_string(), step.reason.clone()];
            let values = spread(&row.p90_s).into_iter().chain(spread(&row.p99_s));
            sheet.row(names.into_iter().chain(values).chain(ends))?;
        }
    }
    files.push(sheet.done()?);
    Ok(())
}

/// A sheet whose rows are a few texts and then spreads.
fn spreads(
    name: &'static str,
    texts: &[&str],
    quantities: &[&str],
    rows: impl Iterator<Item = (Vec<String>, Vec<Spread>)>,
) -> io::Result<File> {
    let mut header: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
    for quantity in quantities {
        spread_header(&mut header, quantity);
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut sheet = Sheet::new(name, &header)?;
    for (texts, values) in rows {
        sheet.row(texts.into_iter().chain(values.iter().flat_map(spread)))?;
    }
    sheet.done()
}

fn contrast(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if report.contrast.is_empty() {
        return Ok(());
    }
    let quantities =
        ["busy workers", "dirtied in 3 s (MB)", "total (s)", "downtime (s)", "p99 (s)"];
    let rows = report.contrast.iter().map(|arm| {
        let busy = arm.busy_workers.clone();
        let dirtied = arm.dirtied_3s_mb.clone();
        let times = [arm.total_s.clone(), arm.downtime_s.clone(), arm.p99_s.clone()];
        (vec![arm.name.clone()], [busy, dirtied].into_iter().chain(times).collect())
    });
    files.push(spreads("contrast.csv", &["setting"], &quantities, rows)?);
    Ok(())
}

fn sensitivity(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if report.sensitivity.is_empty() {
        return Ok(());
    }
    let quantities = ["total (s)", "downtime (s)", "HomePage p90 (s)", "HomePage p99 (s)"];
    let rows = report.sensitivity.iter().flat_map(|swept| {
        swept.points.iter().map(|point| {
            let unit = swept.unit.clone();
            let texts = vec![swept.parameter.clone(), unit, number(point.value)];
            let values = [&point.total_s, &point.downtime_s, &point.p90_s, &point.p99_s];
            (texts, values.map(Clone::clone).to_vec())
        })
    });
    files.push(spreads("sensitivity.csv", &["parameter", "unit", "value"], &quantities, rows)?);
    Ok(())
}

fn policies(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if report.policies.is_empty() {
        return Ok(());
    }
    let quantities = [
        "rounds",
        "total (s)",
        "sent (MB)",
        "downtime by prober (s)",
        "longest gap (s)",
        "downtime by engine (s)",
    ];
    let rows = ranked(&report.policies).into_iter().map(|policy| {
        let counts = [policy.runs, policy.p90_kept, policy.p99_kept].map(|count| count.to_string());
        let values = [
            &policy.rounds,
            &policy.total_s,
            &policy.sent_mb,
            &policy.downtime_probe_s,
            &policy.downtime_gap_s,
            &policy.downtime_engine_s,
        ];
        let texts = [policy.name.clone()].into_iter().chain(counts).collect();
        (texts, values.map(Clone::clone).to_vec())
    });
    let texts = ["policy", "runs", "runs with p90 kept", "runs with p99 kept"];
    files.push(spreads("policies.csv", &texts, &quantities, rows)?);
    Ok(())
}

fn curves(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if let Some(wws) = &report.wws {
        let header = ["curve", "window (s)", "distinct memory (MB)", "sent by the link (MB)"];
        let mut sheet = Sheet::new("wws.csv", &header)?;
        for curve in &wws.curves {
            for point in &curve.points {
                let sent = number(point.x * wws.bandwidth_mb_s);
                sheet.row([curve.name.clone(), number(point.x), number(point.y), sent])?;
            }
        }
        files.push(sheet.done()?);
    }
    if let Some(traces) = &report.traces {
        let header = ["guest", "operations in the window", "distinct pages"];
        let mut sheet = Sheet::new("traces.csv", &header)?;
        for curve in [&traces.model].into_iter().chain(&traces.traces) {
            for point in &curve.points {
                sheet.row([curve.name.clone(), number(point.x), number(point.y)])?;
            }
        }
        files.push(sheet.done()?);
    }
    Ok(())
}

fn checks(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if !report.checks.is_empty() {
        let header = ["check", "measured", "unit", "at least", "at most", "passes", "source"];
        let mut sheet = Sheet::new("checks.csv", &header)?;
        for check in &report.checks {
            sheet.row([
                check.name.clone(),
                number(check.measured),
                check.unit.clone(),
                optional(check.low),
                optional(check.high),
                check.passes().to_string(),
                check.source.clone(),
            ])?;
        }
        files.push(sheet.done()?);
    }
    if !report.side_by_side.is_empty() {
        let rows = report.side_by_side.iter().map(|side| {
            let texts = vec![side.name.clone(), optional(side.tolerance)];
            (texts, vec![side.virtual_run.clone(), side.live_run.clone()])
        });
        let texts = ["figure", "allowed distance (share)"];
        files.push(spreads("live.csv", &texts, &["virtual", "live"], rows)?);
    }
    Ok(())
}

fn predictions(report: &Report, files: &mut Vec<File>) -> io::Result<()> {
    if report.predictions.is_empty() {
        return Ok(());
    }
    let header = ["case", "quantity", "predicted (s)", "low (s)", "high (s)", "measured (s)"];
    let mut sheet = Sheet::new("predictions.csv", &header)?;
    for case in &report.predictions {
        for (quantity, estimate) in [("total", case.total), ("downtime", case.downtime)] {
            sheet.row([
                case.name.clone(),
                quantity.to_owned(),
                number(estimate.predicted_s),
                number(estimate.low_s),
                number(estimate.high_s),
                number(estimate.measured_s),
            ])?;
        }
    }
    files.push(sheet.done()?);
    Ok(())
}
