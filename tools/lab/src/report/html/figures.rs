// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The figures of the paper: response times around a migration, percentiles over time.

use super::super::chart::{Axis, Chart, Item, Plot, strip, thin_dots, thin_line};
use super::super::data::{Fig2, Fig3, Fig3Kind, Fig3Panel, Migration, Point, Report};
use super::super::format::{count, moment, seconds, sig};
use super::super::markup::Node;
use super::super::{curve, paper};
use super::page::{Page, badge, cell, details, number, p, table};
use webvm::site::Action;

/// Dots of the whole run and of the part around the migration.
const DOTS: usize = 6_000;
const DOTS_ZOOM: usize = 4_000;

pub(super) fn fig2(page: &mut Page, report: &Report) {
    let Some(fig2) = &report.fig2 else { return };
    let migration = &fig2.migration;
    let whole = (0.0, fig2.steady_s.max(migration.end_s));
    let length = migration.end_s - migration.begin_s;
    let zoom = if length > 0.0 {
        let from = (migration.begin_s - 0.25 * length).max(0.0);
        (from, (migration.end_s + 0.5 * length).min(whole.1))
    } else {
        whole
    };
    let count_of = |range: (f64, f64)| {
        fig2.samples.iter().filter(|s| range.0 <= s.x && s.x <= range.1).count()
    };
    let response = response_chart(fig2, "fig2", whole, DOTS);
    let around = response_chart(fig2, "fig2-zoom", zoom, DOTS_ZOOM);
    let throughput = throughput_chart(fig2, whole);
    let rounds = strip("fig2-rounds", &migration.rounds, &time_axis(zoom));
    let mut inside = vec![
        p(what_happened(fig2)),
        page.figure(
            response,
            format!(
                "Response time of HomePage (s) against time in steady state (s). {} \
                 The limit is one on percentiles, not on single requests.",
                shown(count_of(whole), DOTS)
            ),
        ),
        page.figure(throughput, "Completed operations per second, all actions, same time axis."),
        page.figure(
            around,
            format!("The same around the migration. {}", shown(count_of(zoom), DOTS_ZOOM)),
        ),
    ];
    if !migration.rounds.is_empty() {
        inside.push(page.figure(
            rounds,
            "Rounds of the migration, same time axis as above: number, pages, rate on the wire \
             (MB/s, 10\u{2076} bytes). Red: the guest is paused. What has no room is in the table \
             and under the pointer.",
        ));
        inside.push(details("Rounds as a table", rounds_table(migration)));
    }
    inside.push(runs_table(fig2));
    page.section("fig2", "Fig. 2: one migration", inside);
}

fn what_happened(fig2: &Fig2) -> String {
    let Migration { begin_s, pause_s, resume_s, end_s, .. } = fig2.migration;
    let who = format!("HomePage with {} users, seed {}.", fig2.users, fig2.seed);
    if end_s <= begin_s {
        return format!("{who} No migration handed the guest over; what happened is said above.");
    }
    format!(
        "{who} One migration, begun at {} s, paused at {} s, resumed at {} s: {} s in all, {} s of \
         them with the guest standing still. In the paper: 44 s and 3 s.",
        moment(begin_s),
        moment(pause_s),
        moment(resume_s),
        moment(resume_s - begin_s),
        sig(resume_s - pause_s),
    )
}

fn shown(all: usize, most: usize) -> String {
    if all <= most {
        format!("All {} samples are drawn.", count(all as u64))
    } else {
        format!(
            "{} of {} samples are drawn: the slowest tenth of them whole, of the others every \
             so-many-th; report.json and the CSV file have all.",
            count(most as u64),
            count(all as u64)
        )
    }
}

fn time_axis((from, to): (f64, f64)) -> Axis {
    Axis::exact(from, to, 10, "time in steady state (s)")
}

fn with_migration(plot: Plot, migration: &Migration, flags: bool) -> Plot {
    if migration.end_s <= migration.begin_s {
        return plot;
    }
    let shade = |name: &str, kind, from, to| Item::Shade { name: name.to_owned(), kind, from, to };
    let plot = plot
        .with(shade("pre-copy", "precopy", migration.begin_s, migration.pause_s))
        .with(shade("downtime", "downtime", migration.pause_s, migration.resume_s));
    if !flags {
        return plot;
    }
    let flag = |x: f64, what: &str| Item::Flag { x, label: format!("{what} {} s", moment(x)) };
    plot.with(flag(migration.begin_s, "begin"))
        .with(flag(migration.pause_s, "pause"))
        .with(flag(migration.resume_s, "resume"))
}

fn response_chart(fig2: &Fig2, id: &str, range: (f64, f64), most: usize) -> Chart {
    let inside: Vec<Point> =
        fig2.samples.iter().filter(|s| range.0 <= s.x && s.x <= range.1).copied().collect();
    let finite = inside.iter().map(|sample| sample.y).filter(|y| y.is_finite());
    let limit_s = paper::limit_s(Action::HomePage);
    let top = finite.fold(limit_s * 1.1, f64::max);
    let title = "Response time of HomePage against time, with the migration marked";
    let y = Axis::linear(0.0, top, 5, "response time (s)");
    let plot = with_migration(
        Plot::new(id, title, time_axis(range), y).size(super::super::chart::WIDTH, 320.0),
        &fig2.migration,
        true,
    );
    plot.with(Item::Dots {
        name: "one HomePage".to_owned(),
        series: 1,
        points: thin_dots(&inside, most),
    })
    .with(Item::Limit { y: limit_s, label: "limit 1 s".to_owned() })
    .draw()
}

fn throughput_chart(fig2: &Fig2, range: (f64, f64)) -> Chart {
    let top = fig2.throughput.iter().map(|p| p.y).fold(1.0, f64::max);
    let title = "Operations per second against time";
    let y = Axis::linear(0.0, top, 4, "operations/s");
    let plot = Plot::new("fig2-throughput", title, time_axis(range), y)
        .size(super::super::chart::WIDTH, 210.0);
    with_migration(plot, &fig2.migration, false)
        .with(Item::Line {
            name: "operations per second".to_owned(),
            series: 1,
            dashed: false,
            mark: None,
            points: thin_line(&fig2.throughput, 1_600),
        })
        .draw()
}

fn rounds_table(migration: &Migration) -> Node {
    let rows = migration.rounds.iter().map(|round| {
        vec![
            number(round.number.to_string()),
            number(seconds(round.begin_s)),
            number(sig(round.end_s - round.begin_s)),
            number(count(round.pages)),
            number(sig(round.bytes as f64 / 1e6)),
            number(round.rate_mb_s().map_or_else(|| "\u{2013}".to_owned(), sig)),
            cell(if round.paused { "paused" } else { "running" }),
        ]
    });
    table(&["Round", "Begin (s)", "Length (s)", "Pages", "Sent (MB)", "MB/s", "Guest"], rows)
}

fn runs_table(fig2: &Fig2) -> Node {
    let rows = fig2.runs.iter().map(|run| {
        vec![
            number(run.seed.to_string()),
            number(sig(run.total_s)),
            number(sig(run.downtime_probe_s)),
            number(sig(run.downtime_gap_s)),
            number(sig(run.downtime_engine_s)),
            number(sig(run.recovery_s)),
            number(count(run.dropped)),
            number(run.rounds.to_string()),
            number(sig(run.sent_mb)),
            number(format!("{} at {} s", sig(run.peak_s), sig(run.peak_after_resume_s))),
            number(format!(
                "{} \u{2192} {}",
                sig(run.response_before_s),
                sig(run.response_during_s)
            )),
        ]
    });
    let header = [
        "Seed",
        "Total (s)",
        "Down: prober (s)",
        "Down: longest gap (s)",
        "Down: engine (s)",
        "Recovery (s)",
        "Dropped",
        "Rounds",
        "Sent (MB)",
        "Peak (s), after resume",
        "HomePage before \u{2192} during (s)",
    ];
    table(&header, rows)
}

pub(super) fn fig3(page: &mut Page, report: &Report) {
    let Some(fig3) = &report.fig3 else { return };
    let mut inside = vec![p(format!(
        "90th and 99th percentile of HomePage over the last 5 minutes, {} users. Lines: mean of \
         the runs, as in the paper's Fig. 3; bands: least to greatest run. The first window ends \
         300 s into steady state.",
        fig3.users
    ))];
    for (at, panel) in fig3.panels.iter().enumerate() {
        let chart = panel_chart(fig3, panel, at + 1);
        let caption = format!(
            "{}: percentiles of HomePage (s) in the 300 s that end at the time shown (s); {} \
             runs. Shaded: migrations of the first run.",
            kind_name(panel.kind),
            panel.runs.len()
        );
        inside.push(page.figure(chart, caption));
    }
    inside.push(table(
        &["Panel", "Paper: p90", "Ours: p90", "Paper: p99", "Ours: p99", "Runs over the limit"],
        fig3.panels.iter().map(verdict_row),
    ));
    page.section("fig3", "Fig. 3: percentiles over time", inside);
}

/// What a panel is about.
pub(in super::super) fn kind_name(kind: Fig3Kind) -> &'static str {
    match kind {
        Fig3Kind::None => "No migration",
        Fig3Kind::One => "One migration",
        Fig3Kind::TwoClose => "Two migrations in a short period",
        Fig3Kind::TwoSpaced => "Two migrations far apart",
    }
}

/// Whether the paper says that p90 and p99 are violated.
pub(in super::super) fn paper_violated(kind: Fig3Kind) -> (Option<bool>, Option<bool>) {
    match kind {
        Fig3Kind::None => (Some(false), Some(false)),
        Fig3Kind::One => (Some(false), Some(true)),
        Fig3Kind::TwoClose => (Some(true), Some(true)),
        // About the 99th percentile of spaced migrations it says nothing.
        Fig3Kind::TwoSpaced => (Some(false), None),
    }
}

fn verdict_row(panel: &Fig3Panel) -> Vec<Node> {
    let verdict = curve::violations(panel);
    let (p90, p99) = paper_violated(panel.kind);
    let says = |violated: Option<bool>| match violated {
        Some(violated) => badge(Some(!violated), if violated { "violated" } else { "kept" }),
        None => badge(None, "not said"),
    };
    let peak = |violated: bool, peak: f64| {
        let word = if violated { "violated" } else { "kept" };
        badge(Some(!violated), &format!("{word}, peak {} s", seconds(peak)))
    };
    let runs = panel.runs.len();
    vec![
        super::page::head(kind_name(panel.kind)),
        cell("").child(says(p90)),
        cell("").child(peak(verdict.p90_mean, verdict.p90_peak_s)),
        cell("").child(says(p99)),
        cell("").child(peak(verdict.p99_mean, verdict.p99_peak_s)),
        cell(format!("p90: {} of {runs}; p99: {} of {runs}", verdict.p90_runs, verdict.p99_runs)),
    ]
}

fn panel_chart(fig3: &Fig3, panel: &Fig3Panel, at: usize) -> Chart {
    let p90 = curve::mean_and_band(panel.runs.iter().map(|run| run.p90.as_slice()));
    let p99 = curve::mean_and_band(panel.runs.iter().map(|run| run.p99.as_slice()));
    let both = || p90.iter().chain(&p99);
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    let top = both().map(|p| finite(p.high)).fold(paper::limit_s(Action::HomePage) * 1.2, f64::max);
    let last = both().map(|p| finite(p.x)).fold(1.0, f64::max);
    let title = format!(
        "{}: 90th and 99th percentile of HomePage against time, {} users",
        kind_name(panel.kind),
        fig3.users
    );
    let x = Axis::exact(0.0, last, 10, "time in steady state (s)");
    let y = Axis::linear(0.0, top, 5, "response time (s)");
    let mut plot =
        Plot::new(&format!("fig3-{at}"), &title, x, y).size(super::super::chart::WIDTH, 290.0);
    let migrations = panel.runs.first().map(|run| run.migrations.as_slice()).unwrap_or_default();
    for (number, [from, to]) in migrations.iter().enumerate() {
        let name = if number == 0 { "migration".to_owned() } else { String::new() };
        let label = format!("migration {} at {} s", number + 1, sig(*from));
        plot = plot
            .with(Item::Shade { name, kind: "precopy", from: *from, to: *to })
            .with(Item::Flag { x: *from, label });
    }
    for (name, series, dashed, curve) in [("p99", 2, false, &p99), ("p90", 1, true, &p90)] {
        let band = curve::thin_band(curve, 300);
        plot = plot
            .with(Item::Band {
                name: format!("{name}, least to greatest run"),
                series,
                points: band,
            })
            .with(Item::Line {
                name: format!("{name}, mean of runs"),
                series,
                dashed,
                mark: None,
                points: thin_line(&curve::means(curve), 280),
            });
    }
    plot.with(Item::Limit { y: paper::limit_s(Action::HomePage), label: "limit 1 s".to_owned() })
        .draw()
}
