// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The claims and the tables of the paper, beside ours.

use std::collections::BTreeSet;

use webvm::site::Action;

use super::super::chart::{Axis, Item, Mark, Plot, WIDTH};
use super::super::data::{ActionPercentiles, Capacity, Point, Report, Spread, Table2};
use super::super::format::{seconds, sig, spread};
use super::super::judge::{Judged, Verdict};
use super::super::markup::{Node, el, text_el};
use super::super::paper;
use super::page::{Page, badge, cell, head, number, p, range, table};

pub(super) fn claims(page: &mut Page, claims: &[Judged]) {
    let of = |verdict| claims.iter().filter(|judged| judged.verdict == verdict).count();
    let rows = claims.iter().map(|judged| {
        let good = match judged.verdict {
            Verdict::Reproduced => Some(true),
            Verdict::NotReproduced => Some(false),
            Verdict::NotMeasured => None,
        };
        let reading = if judged.claim.reading.is_empty() {
            el("span")
        } else {
            text_el("span", format!("Read as: {}.", judged.claim.reading)).class("note block")
        };
        vec![
            cell(format!("\u{201c}{}\u{201d}", judged.claim.quote)).class("quote").child(reading),
            cell(judged.claim.section),
            cell(judged.claim.paper),
            cell(if judged.ours.is_empty() { "\u{2013}" } else { judged.ours.as_str() }),
            cell("").child(badge(good, judged.verdict.name())),
            cell(judged.why.as_str()),
        ]
    });
    let inside = [
        p(format!(
            "{} claims: {} reproduced, {} not reproduced, {} not measured. Quotes and figures \
             are the paper's ({}); ours are the median of the runs with least and greatest.",
            claims.len(),
            of(Verdict::Reproduced),
            of(Verdict::NotReproduced),
            of(Verdict::NotMeasured),
            paper::CITATION,
        )),
        table(&["The paper says", "Section", "Paper", "Ours", "Verdict", "Why"], rows)
            .with("id", "claims-table"),
    ];
    page.section("claims", "What the paper claims, and what came here", inside);
}

pub(super) fn table1(page: &mut Page) {
    let rows = Action::ALL
        .into_iter()
        .map(|action| vec![head(action.name()), number(sig(paper::limit_s(action)))]);
    let inside = [
        p("The 90th and the 99th percentile of the response times in any 5-minute window of \
           steady state must not exceed these (paper, Table 1)."),
        el("div").class("compact").child(table(&["Action", "Limit (s)"], rows)),
    ];
    page.section("table1", "Table 1: limits", inside);
}

pub(super) fn table2(page: &mut Page, report: &Report) {
    let Some(table2) = &report.table2 else { return };
    let listed: BTreeSet<u32> = table2.cells.iter().map(|cell| cell.users).collect();
    let users: Vec<u32> = listed.into_iter().rev().collect();
    let mut header = vec!["Action".to_owned(), "Limit (s)".to_owned()];
    header.extend(users.iter().map(|users| format!("{users} users (s)")));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let rows = Action::ALL.into_iter().map(|action| {
        let mut cells = vec![head(action.name()), number(sig(paper::limit_s(action)))];
        cells.extend(users.iter().map(|&users| table2_cell(table2, action, users)));
        cells
    });
    let inside = [
        p(format!(
            "Largest 99th percentile over all 5-minute windows with one migration in a run of \
             {} s: median over the seeds, least to greatest under it, the paper's number last. \
             \u{2713} within the limit, \u{2717} above it. Few samples: no window with 100, the \
             99th percentile is the maximum.",
            sig(table2.steady_s)
        )),
        table(&header, rows).with("id", "table2-table"),
        table2_chart(page, table2),
    ];
    page.section("table2", "Table 2: one migration at lower loads", inside);
}

fn table2_cell(table2: &Table2, action: Action, users: u32) -> Node {
    let same = |c: &&super::super::data::Table2Cell| c.action == action && c.users == users;
    let paper = paper::table2_s(action, users)
        .map_or_else(|| "not in the paper".to_owned(), |s| format!("paper {}", seconds(s)));
    let Some(found) = table2.cells.iter().find(same) else {
        return number("\u{2013}").child(text_el("span", paper).class("paper block"));
    };
    let Some(median) = found.p99_s.median() else {
        return number("\u{2013}").child(text_el("span", paper).class("paper block"));
    };
    let pass = median <= paper::limit_s(action);
    let ends = match (found.p99_s.min(), found.p99_s.max()) {
        (Some(min), Some(max)) => format!("{} \u{2026} {}", seconds(min), seconds(max)),
        _ => String::new(),
    };
    let mut node = el("td")
        .class(if pass { "number cell-pass" } else { "number cell-fail" })
        .child(badge(Some(pass), &seconds(median)))
        .child(text_el("span", ends).class("note block"))
        .child(text_el("span", paper).class("paper block"));
    if found.undetermined > 0 {
        let runs = found.p99_s.values().len();
        let small = format!("few samples in {} of {runs}", found.undetermined);
        node = node.child(text_el("span", small).class("note block"));
    }
    node
}

fn table2_chart(page: &mut Page, table2: &Table2) -> Node {
    let charts = Action::ALL.into_iter().map(|action| {
        let mut cells: Vec<_> = table2.cells.iter().filter(|c| c.action == action).collect();
        cells.sort_by_key(|cell| cell.users);
        let users: Vec<f64> = cells.iter().map(|cell| f64::from(cell.users)).collect();
        let ours: Vec<_> = cells
            .iter()
            .filter_map(|cell| {
                let told = format!("{} users: {} s", cell.users, spread(&cell.p99_s));
                let at = Point::new(f64::from(cell.users), cell.p99_s.median()?);
                Some((at, [cell.p99_s.min()?, cell.p99_s.max()?], told))
            })
            .collect();
        let theirs: Vec<_> = cells
            .iter()
            .filter_map(|cell| {
                let value = paper::table2_s(action, cell.users)?;
                let told = format!("paper, {} users: {} s", cell.users, seconds(value));
                Some((Point::new(f64::from(cell.users), value), [value, value], told))
            })
            .collect();
        let limit_s = paper::limit_s(action);
        let id = format!("table2-{}", action.name().to_lowercase());
        let title = format!("{action}: 99th percentile with one migration against users");
        let axis = Axis::linear(0.0, limit_s * 1.15, 4, "p99 (s)");
        let plot = Plot::new(&id, &title, Axis::at(&users, "users"), axis).size(WIDTH / 2.0, 230.0);
        let marks = |name: &str, series, mark, points| Item::Marks {
            name: name.to_owned(),
            series,
            mark,
            points,
        };
        let chart = plot
            .with(marks("ours: median, least to greatest run", 1, Mark::Circle, ours))
            .with(marks("paper", 2, Mark::Diamond, theirs))
            .with(Item::Limit { y: limit_s, label: format!("limit {} s", sig(limit_s)) })
            .draw();
        (action.name().to_owned(), chart)
    });
    page.multiples(
        charts.collect(),
        "Table 2 as charts: largest 99th percentile (s) against users, ours and the paper's. \
         Values above the frame lie on its upper edge.",
    )
}

pub(super) fn capacity(page: &mut Page, report: &Report) {
    let Some(capacity) = &report.capacity else { return };
    let found = capacity.found_users.map_or_else(
        || "not even the least load tried keeps the service level".to_owned(),
        |users| format!("{users} users is the greatest load that keeps the service level"),
    );
    let rows = capacity.steps.iter().map(|step| {
        let percentiles = |which: fn(&ActionPercentiles) -> &Spread| {
            let worst = step.actions.iter().filter_map(|row| {
                let median = which(row).median()?;
                Some((median / paper::limit_s(row.action), row.action, median))
            });
            worst.max_by(|a, b| a.0.total_cmp(&b.0)).map_or_else(
                || "\u{2013}".to_owned(),
                |(_, action, median)| {
                    let limit = sig(paper::limit_s(action));
                    format!("{action} {} of {limit} s", seconds(median))
                },
            )
        };
        vec![
            head(format!("{}", step.users)),
            range(&step.throughput),
            cell(percentiles(|row| &row.p90_s)),
            cell(percentiles(|row| &row.p99_s)),
            cell("").child(badge(Some(step.pass), if step.pass { "passes" } else { "fails" })),
            cell(step.reason.as_str()),
        ]
    });
    let header =
        ["Users", "Operations/s", "Nearest to its limit, p90", "p99", "Verdict", "What failed"];
    let summary = table(&header, rows);
    let inside = [
        p(format!("{found}; the paper found 600. {}", capacity.rule)),
        capacity_chart(page, capacity, "capacity-p90", "90th", |row| &row.p90_s),
        capacity_chart(page, capacity, "capacity-p99", "99th", |row| &row.p99_s),
        summary,
    ];
    page.section("capacity", "Capacity: users without a migration", inside);
}

fn capacity_chart(
    page: &mut Page,
    capacity: &Capacity,
    id: &str,
    which: &str,
    value: fn(&ActionPercentiles) -> &Spread,
) -> Node {
    let users: Vec<f64> = capacity.steps.iter().map(|step| f64::from(step.users)).collect();
    let curve = |action: Action| -> Vec<Point> {
        let points = capacity.steps.iter().filter_map(|step| {
            let row = step.actions.iter().find(|row| row.action == action)?;
            let percent = value(row).median()? / paper::limit_s(action) * 100.0;
            Some(Point::new(f64::from(step.users), percent))
        });
        points.collect()
    };
    let curves = Action::ALL.map(|action| (action, curve(action)));
    let all = || curves.iter().flat_map(|(_, points)| points).map(|p| p.y).filter(|y| *y > 0.0);
    let low = all().fold(100.0, f64::min);
    let high = all().filter(|y| y.is_finite()).fold(100.0, f64::max);
    let title = format!("{which} percentile of each action over its limit, against users");
    let y = Axis::log(low, high * 1.2, "percentile / limit (%)");
    let mut plot =
        Plot::new(id, &title, Axis::at(&users, "concurrent users"), y).size(WIDTH, 300.0);
    for (action, points) in curves {
        let at = action.index();
        plot = plot.with(Item::Line {
            name: format!("{action} ({} s)", sig(paper::limit_s(action))),
            series: at + 1,
            dashed: false,
            mark: Some(Mark::ALL[at]),
            points,
        });
    }
    let chart = plot.with(Item::Limit { y: 100.0, label: "limit".to_owned() }).draw();
    page.figure(
        chart,
        format!(
            "Largest {which} percentile of each action as a share of its limit (%), median of \
             the seeds, against users. In brackets: the limit. Logarithmic."
        ),
    )
}
