// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reports on disk: whole, safe to open, the same each time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lab::report::data::{Check, Fig2, Point, Report};
use lab::report::{self, MAX_HTML_BYTES, ReportError, Spread, Verdict};
use proptest::prelude::*;

use crate::sample;

fn page(report: &Report) -> String {
    let dir = tempfile::tempdir().unwrap();
    let written = report::write(dir.path(), report).unwrap();
    fs::read_to_string(written.html).unwrap()
}

/// Values of an attribute, in order.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// What is true of every page: unique identifiers, declared charts drawn, links that lead
/// somewhere, nothing from outside, nothing that is no number in a drawing.
fn assert_sound(html: &str) {
    let ids = attributes(html, "id");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "identifiers twice: {ids:?}");
    let list = html.split("id=\"chart-list\">").nth(1).unwrap().split("</script>").next().unwrap();
    let charts: Vec<String> = serde_json::from_str(list).unwrap();
    for chart in &charts {
        assert!(html.contains(&format!("<svg id=\"{chart}\" ")), "{chart} is not drawn");
    }
    assert_eq!(html.matches("class=\"chart\"").count(), charts.len());
    for link in attributes(html, "href") {
        let known = link.strip_prefix('#').is_some_and(|anchor| unique.contains(anchor));
        assert!(known || link == "data:,", "{link} leads out of the page or nowhere");
    }
    assert!(attributes(html, "src").is_empty());
    assert!(!html.contains("http://") && !html.contains("https://"));
    for name in ["d", "x", "y", "cx", "cy", "width", "height", "viewBox", "transform"] {
        for value in attributes(html, name) {
            assert!(!value.contains("NaN") && !value.contains("inf"), "{name}=\"{value}\"");
        }
    }
    for tag in ["svg", "g", "table", "tr", "td", "section", "figure", "text", "script", "div"] {
        let open = html.matches(&format!("<{tag}>")).count();
        let open = open + html.matches(&format!("<{tag} ")).count();
        assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "<{tag}>");
    }
    assert!(html.len() <= MAX_HTML_BYTES);
}

#[test]
fn every_section_and_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let report = sample::report();
    let written = report::write(dir.path(), &report).unwrap();
    let html = fs::read_to_string(&written.html).unwrap();
    assert_sound(&html);
    let sections = [
        "claims",
        "fig2",
        "fig3",
        "table1",
        "table2",
        "capacity",
        "contrast",
        "sensitivity",
        "policies",
        "wws",
        "traces",
        "checks",
        "live",
        "predictions",
        "method",
    ];
    for section in sections {
        assert!(html.contains(&format!("<section id=\"section-{section}\">")), "{section}");
    }
    assert!(!html.contains("PARTIAL"));
    assert_eq!(written.csv.len(), 17);
    for path in &written.csv {
        let mut reader = csv::Reader::from_path(path).unwrap();
        let rows = reader.records().map(Result::unwrap).count();
        assert!(rows > 0, "{} has no row", path.display());
    }
    let names: BTreeSet<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 19, "{names:?}");
}

#[test]
fn json_gives_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = sample::report();
    let fig2 = report.fig2.as_mut().unwrap();
    fig2.samples.push(Point::new(1.0, f64::INFINITY));
    fig2.runs[0].recovery_s = f64::INFINITY;
    report.table2.as_mut().unwrap().cells[0].p99_s = Spread::of([1.0, f64::INFINITY, 2.0]);
    let written = report::write(dir.path(), &report).unwrap();
    let text = fs::read_to_string(&written.json).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    report.schema_version = report::data::SCHEMA_VERSION;
    assert!(read == report, "what was read differs");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["claims"].as_array().unwrap().len(), written.claims.len());
    assert_eq!(value["table2"]["cells"][0]["p99_s"]["max"], "inf");
    assert_eq!(value["table2"]["cells"][0]["p99_s"]["median"], 2.0);
}

#[test]
fn the_same_data_makes_the_same_bytes() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        report::write(dir.path(), &sample::report()).unwrap();
    }
    for entry in fs::read_dir(dirs[0].path()).unwrap() {
        let name = entry.unwrap().file_name();
        let [a, b] = [&dirs[0], &dirs[1]].map(|dir| fs::read(dir.path().join(&name)).unwrap());
        assert!(a == b, "{} differs", name.display());
    }
}

#[test]
fn an_interrupted_run_says_so_in_large_letters() {
    let mut report = sample::report();
    report.run.partial = Some("stopped by Ctrl-C after fig2".to_owned());
    let html = page(&report);
    assert!(html.contains("<strong>PARTIAL</strong><span>stopped by Ctrl-C after fig2</span>"));
    let claims = report::judge(&report);
    assert!(report::text::render(&report, &claims).starts_with("*** PARTIAL: stopped by Ctrl-C"));
}

#[test]
fn nothing_run_is_a_report_too() {
    let report = Report::default();
    assert_sound(&page(&report));
    let claims = report::judge(&report);
    assert!(claims.iter().all(|judged| judged.verdict == Verdict::NotMeasured));
    assert!(report::text::render(&report, &claims).contains("0 reproduced"));
}

/// Every text of a JSON document replaced, but for those that are names of the schema.
fn poison(value: &mut serde_json::Value, evil: &str) {
    use serde_json::Value;
    match value {
        Value::String(text) => {
            let fixed = ["virtual", "inf", "nan", "one", "two_close", "two_spaced"];
            let action = webvm::site::Action::ALL.iter().any(|action| action.name() == text);
            if !fixed.contains(&text.as_str()) && !action {
                *text = evil.to_owned();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| poison(value, evil)),
        Value::Object(map) => map.values_mut().for_each(|value| poison(value, evil)),
        _ => {}
    }
}

#[test]
fn text_from_outside_stays_text() {
    let evil = "</script></td><script>alert('x')</script>\" onload=\"alert(1)\u{1b}[2J\u{0}";
    let mut value = serde_json::to_value(sample::report()).unwrap();
    poison(&mut value, evil);
    value["run"]["partial"] = serde_json::Value::String(evil.to_owned());
    let report: Report = serde_json::from_value(value).unwrap();
    let html = page(&report);
    assert!(html.contains("&lt;script&gt;alert"), "the text was not shown at all");
    assert!(!html.contains("<script>alert"), "text became a script");
    assert!(!html.contains("\" onload"), "text became an attribute");
    assert!(!html.contains('\u{1b}') && !html.contains('\u{0}'));
    assert_sound(&html);
    let text = report::text::render(&report, &report::judge(&report));
    assert!(!text.contains('\u{1b}'), "text for a terminal has an escape sequence");
}

#[test]
fn a_large_run_makes_no_larger_page() {
    let mut report = sample::report();
    let many: Vec<Point> = (0..300_000u32)
        .map(|i| Point::new(f64::from(i) / 500.0, f64::from(i % 977) / 300.0))
        .collect();
    let fig2 = report.fig2.as_mut().unwrap();
    *fig2 = Fig2 { throughput: many.clone(), samples: many, ..fig2.clone() };
    for panel in &mut report.fig3.as_mut().unwrap().panels {
        panel.runs = panel.runs.iter().cycle().take(20).cloned().collect();
    }
    let html = page(&report);
    assert!(html.len() < 1_500_000, "{} bytes", html.len());
    assert!(html.contains("6,000 of 300,000 samples are drawn"));
}

#[test]
fn what_no_page_can_hold_is_refused() {
    let check = Check { name: "x".repeat(1_000), ..Check::default() };
    let report = Report { checks: vec![check; 6_000], ..Report::default() };
    let dir = tempfile::tempdir().unwrap();
    let error = report::write(dir.path(), &report).unwrap_err();
    assert!(
        matches!(error, ReportError::TooLarge { bytes, .. } if bytes > MAX_HTML_BYTES),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was written");
}

fn leftovers(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".report-")).count()
}

#[test]
fn what_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // A folder stands where the file should go: the last step fails, as it would on a bad disk.
    fs::create_dir(dir.path().join("report.json")).unwrap();
    fs::write(dir.path().join("report.html"), "what was there").unwrap();
    let error = report::write(dir.path(), &sample::report()).unwrap_err();
    let ReportError::Write { path, .. } = &error else { panic!("{error}") };
    assert_eq!(*path, dir.path().join("report.json"));
    assert!(error.to_string().contains("report.json"), "{error}");
    assert_eq!(leftovers(dir.path()), 0, "half a file stayed behind");
    let page = fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert_eq!(page, "what was there");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = report::write(&file.join("report"), &sample::report()).unwrap_err();
    assert!(matches!(error, ReportError::Folder { .. }), "{error}");
}

#[test]
fn a_report_written_again_replaces_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    report::write(dir.path(), &sample::report()).unwrap();
    let mut report = sample::report();
    report.run.title = "second".to_owned();
    let written = report::write(dir.path(), &report).unwrap();
    assert!(fs::read_to_string(written.html).unwrap().contains("<h1>second</h1>"));
    assert_eq!(leftovers(dir.path()), 0);
}

#[test]
fn terminal_lines_fit_and_align() {
    let report = sample::report();
    let text = report::text::render(&report, &report::judge(&report));
    for line in text.lines() {
        assert!(line.chars().count() <= 110, "{line}");
    }
    assert!(text.contains("0.35 / 0.32"), "{text}");
    assert!(text.contains("Two migrations in a short period  violated  violated"), "{text}");
}

/// Any number at all, the odd ones often.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => -1e3..1e6f64,
        1 => Just(0.0),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NAN),
        1 => any::<f64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the numbers, the page is sound: they are drawn at an edge or not at all.
    #[test]
    fn no_number_breaks_the_page(numbers in prop::collection::vec(any_number(), 40)) {
        let mut report = sample::report();
        let mut next = numbers.iter().copied().cycle();
        let mut value = || next.next().unwrap();
        let fig2 = report.fig2.as_mut().unwrap();
        fig2.samples = (0..30).map(|_| Point::new(value(), value())).collect();
        fig2.throughput = (0..9).map(|_| Point::new(value(), value())).collect();
        fig2.migration.begin_s = value();
        fig2.migration.pause_s = value();
        fig2.migration.resume_s = value();
        fig2.migration.end_s = value();
        fig2.steady_s = value();
        for round in &mut fig2.migration.rounds {
            (round.begin_s, round.end_s) = (value(), value());
        }
        for run in report.fig3.as_mut().unwrap().panels.iter_mut().flat_map(|p| &mut p.runs) {
            run.p90 = (0..5).map(|_| Point::new(value(), value())).collect();
            run.p99 = (0..3).map(|_| Point::new(value(), value())).collect();
            run.migrations = vec![[value(), value()]];
        }
        for cell in &mut report.table2.as_mut().unwrap().cells {
            cell.p99_s = Spread::of([value(), value()]);
        }
        for row in report.capacity.as_mut().unwrap().steps.iter_mut().flat_map(|s| &mut s.actions) {
            row.p90_s = Spread::of([value()]);
            row.p99_s = Spread::of([value(), value(), value()]);
        }
        for swept in &mut report.sensitivity {
            swept.default = value();
            for point in &mut swept.points {
                point.value = value();
                point.total_s = Spread::of([value()]);
                point.downtime_s = Spread::of([value(), value()]);
            }
        }
        for policy in &mut report.policies {
            policy.downtime_probe_s = Spread::of([value(), value()]);
            policy.downtime_engine_s = Spread::of([value()]);
        }
        let wws = report.wws.as_mut().unwrap();
        wws.bandwidth_mb_s = value();
        wws.curves[0].points = (0..9).map(|_| Point::new(value(), value())).collect();
        wws.fixed_points = vec![Point::new(value(), value())];
        let traces = report.traces.as_mut().unwrap();
        traces.tolerance = value();
        traces.model.points = (0..9).map(|_| Point::new(value(), value())).collect();
        for case in &mut report.predictions {
            case.total.predicted_s = value();
            case.downtime.measured_s = value();
            case.downtime.high_s = value();
        }
        assert_sound(&page(&report));
        let _ = report::text::render(&report, &report::judge(&report));
    }
}
