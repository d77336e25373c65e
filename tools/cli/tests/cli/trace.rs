// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy trace`.

use std::fs;
use std::path::{Path, PathBuf};

use precopy::trace::{TickSource, Trace, TraceFile, TraceTick};
use serde_json::Value;

use crate::support::precopy;

fn output(arguments: &[&str]) -> String {
    let assert = precopy(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn errors(arguments: &[&str], code: i32) -> String {
    let assert = precopy(arguments).assert().code(code);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The recordings that come with the laboratory.
fn shipped(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/traces");
    folder.join(name).to_str().unwrap().to_owned()
}

fn place(folder: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[test]
fn a_text_trace_is_imported_described_and_printed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_, to) = place(&folder, "web.ptrace");
    let (text, companion) = (shipped("web-20.trace.zst"), shipped("web-20.json"));
    let import = ["trace", "import", &text, &to, "--companion", &companion, "--json"];
    let written = json(&output(&import));
    assert_eq!((&written["ticks"], &written["runs"]), (&11_995.into(), &415_606_u64.into()));
    assert!(errors(&import, 2).contains("exists; choose another name, or write over it"));

    let info = json(&output(&["trace", "info", "--json", &to]));
    assert_eq!(info["ticks"], 11_995);
    assert_eq!(info["header"]["pages"], 524_288);
    // As published with the recording: distinct pages in windows of 1 s and 10 s.
    for (window_s, pages) in [(1.0, 1221.0), (10.0, 5250.0)] {
        let curve = info["working_set"].as_array().unwrap();
        let point = curve.iter().find(|point| point["window_s"] == window_s).unwrap();
        let got = point["pages"].as_f64().unwrap();
        assert!((got - pages).abs() < 0.01 * pages, "{window_s} s: {got}, not {pages}");
    }
    assert!(info["requests"].as_u64().unwrap() > 1000 && info["hurst"].as_f64().is_some());
    let same = json(&output(&["trace", "info", "--json", &text]));
    assert_eq!((&same["ticks"], &same["working_set"]), (&info["ticks"], &info["working_set"]));
    let shown = output(&["trace", "info", &to]);
    for word in ["Apache Olio", "2.0 GiB", "page events/s", "working set", "dispersion", "█"] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }

    let plain = output(&["trace", "cat", &to]);
    let (_, again) = place(&folder, "again.ptrace");
    let (path, text) = place(&folder, "web.trace");
    fs::write(&path, &plain).unwrap();
    output(&["trace", "import", &text, &again, "--coding", "plain"]);
    assert_eq!(output(&["trace", "cat", &again]), plain);
    let part = output(&["trace", "cat", &to, "--from", "10s", "--for", "1s"]);
    let times = part.lines().skip(1).map(|line| line.split(' ').next().unwrap());
    let times: Vec<u64> = times.map(|time| time.parse().unwrap()).collect();
    assert!((95..=101).contains(&times.len()) && times[0] > 10_000_000_000, "{times:?}");
}

#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, text) = place(&folder, "bad.trace");
    let (target, to) = place(&folder, "bad.ptrace");
    let head = r#"{"format": "dirty-trace-text", "version": 1, "page_size": 4096, "pages": 60, "#;
    fs::write(&path, format!("{head}\"epoch_ns\": 10000000}}\n5 1:1\n6 2;1\n")).unwrap();
    let error = errors(&["trace", "import", &text, &to], 1);
    assert!(error.contains("Line 3, column 4 of the trace: expected a colon"), "{error}");
    assert!(!target.exists(), "a file that holds nothing of use is taken away");
    let error = errors(&["trace", "info", &text], 1);
    assert!(error.contains("bad.trace: Line 3, column 4 of the trace"), "{error}");
    let error = errors(&["trace", "info", "/proc/self/exe"], 1);
    assert!(error.contains("Not a precopy trace"), "{error}");
    let error = errors(&["trace", "synth", "zipff", &to], 2);
    assert!(error.contains("\"zipff\" is no writer") && error.contains("--list"), "{error}");
    let error = errors(&["trace", "record", &to, "--pattern", "uniform"], 2);
    assert!(error.contains("belong to `--guest counters`"), "{error}");
    assert!(!target.exists());
}

#[test]
fn what_stands_there_stays_unless_it_may_go() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = place(&folder, "there.ptrace");
    let synth = ["trace", "synth", "zipf", &to, "--memory", "4MiB", "--for", "1s"];
    output(&synth);
    let first = fs::read(&path).unwrap();
    assert!(errors(&synth, 2).contains("write over it with --force"));
    assert_eq!(fs::read(&path).unwrap(), first, "refused, and as it was");
    // Not even with --force a file that is its own source, under whatever name.
    let other = folder.path().join("./").join("there.ptrace").to_str().unwrap().to_owned();
    let (link, linked) = place(&folder, "link.ptrace");
    fs::hard_link(&path, &link).unwrap();
    for same in [&other, &linked] {
        let error = errors(&["trace", "salvage", &to, same, "--force"], 2);
        assert!(error.contains("cannot replace itself"), "{error}");
    }
    let error = errors(&["trace", "import", &to, &linked, "--force"], 1);
    assert!(error.contains("Could not use"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), first);
    // What fails leaves what stood there, too.
    let (bad, text) = place(&folder, "bad.trace");
    fs::write(
        &bad,
        "{\"format\": \"dirty-trace-text\", \"version\": 1, \"page_size\": 4096, \
        \"pages\": 60, \"epoch_ns\": 10000000}\n5 1:1\n6 2;1\n",
    )
    .unwrap();
    errors(&["trace", "import", &text, &to, "--force"], 1);
    assert_eq!(fs::read(&path).unwrap(), first);
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 3, "nothing else is left behind");
    output(&[&synth[..], &["--force", "--seed", "2"]].concat());
    assert_ne!(fs::read(&path).unwrap(), first);
}

#[test]
fn a_damaged_trace_names_the_place_and_is_salvaged() {
    let folder = tempfile::tempdir().unwrap();
    let (path, whole) = place(&folder, "whole.ptrace");
    let synth = ["trace", "synth", "zipf+bursts", &whole, "--memory", "64MiB", "--for", "20s"];
    output(&[&synth[..], &["--chunk", "1s"]].concat());
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let (path, damaged) = place(&folder, "damaged.ptrace");
    fs::write(&path, &bytes).unwrap();
    let error = errors(&["trace", "info", &damaged], 1);
    assert!(error.contains("damaged at byte") && error.contains("salvage"), "{error}");
    let (_, saved) = place(&folder, "saved.ptrace");
    let found = json(&output(&["trace", "salvage", &damaged, &saved, "--json"]));
    let ticks = found["ticks"].as_u64().unwrap();
    assert!((500..1500).contains(&ticks), "{ticks}");
    let reason = found["reason"].as_str().unwrap();
    assert!(reason.contains("CRC") && !reason.contains("precopy trace salvage"), "{found}");
    assert!(found["good_bytes"].as_u64().unwrap() <= at as u64);
    let (all, part) = (output(&["trace", "cat", &whole]), output(&["trace", "cat", &saved]));
    assert!(all.starts_with(&part) && part.lines().count() as u64 == ticks + 1);

    fs::write(&path, &good[..good.len() - 5]).unwrap();
    let error = errors(&["trace", "cat", &damaged], 1);
    assert!(error.contains("before its index"), "{error}");
    let (_, saved) = place(&folder, "all.ptrace");
    output(&["trace", "salvage", &damaged, &saved]);
    assert_eq!(output(&["trace", "cat", &saved]), all);

    // Cut off in the first chunk.
    fs::write(&path, &good[..200]).unwrap();
    let (nothing, saved) = place(&folder, "nothing.ptrace");
    let error = errors(&["trace", "salvage", &damaged, &saved], 1);
    assert!(error.contains("Nothing can be salvaged") && !nothing.exists(), "{error}");
    assert!(!error.contains("precopy trace salvage"), "that is what was tried: {error}");
}

#[test]
fn synthetic_guests_are_listed_and_the_same_every_time() {
    let list = output(&["trace", "synth", "--list"]);
    for word in ["zipf (writer)", "bursts (modulator)", "exponent=0.99"] {
        assert!(list.contains(word), "no {word:?} in\n{list}");
    }
    let all = json(&output(&["trace", "synth", "--list", "--json"]));
    assert!(all.as_array().unwrap().len() >= 9);
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, seed: &str| {
        let (path, to) = place(&folder, name);
        let arguments = ["trace", "synth", "phases+lulls+diurnal", &to, "--seed", seed];
        output(&[&arguments[..], &["--for", "5s", "--json"]].concat());
        fs::read(path).unwrap()
    };
    let first = make("a", "3");
    assert_eq!(first, make("b", "3"));
    assert_ne!(first, make("c", "4"));
}

#[test]
fn the_counting_guest_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = place(&folder, "counters.ptrace");
    let guest = ["--guest", "counters", "--memory", "64MiB", "--rate", "5000"];
    let time = ["--for", "1s", "--warm-up", "300ms", "--json"];
    let said = json(&output(&[&["trace", "record", &to], &guest[..], &time].concat()));
    let events = said["page_events"].as_u64().unwrap();
    assert!(events > 100, "{said}");
    // A tick for each 10 ms, or for several of which the recorder missed some.
    let (ticks, missed) = (said["ticks"].as_u64().unwrap(), said["missed_ticks"].as_u64().unwrap());
    assert!(ticks > 0 && ticks + missed >= 99, "{said}");
    assert!(said["guest_writes_per_s"]["during"].as_f64().unwrap() > 0.0);
    let mut trace = TraceFile::new(path).open().unwrap();
    assert_eq!(trace.header().pages, 16_384);
    let populated = trace.header().populated.as_ref().unwrap();
    assert_eq!(populated.iter().map(|run| run.pages()).sum::<u64>(), 16_384);
    let (mut tick, mut pages) = (TraceTick::default(), 0);
    while trace.next_tick(&mut tick).unwrap() {
        pages += tick.pages();
    }
    assert_eq!(pages, events);
}

#[test]
fn the_web_guest_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = place(&folder, "web.ptrace");
    let small = ["--memory", "256MiB", "--users", "25", "--for", "2s", "--warm-up", "0ms"];
    let said = json(&output(&[&["trace", "record", &to, "--json"], &small[..]].concat()));
    assert!(said["page_events"].as_u64().unwrap() > 100, "{said}");
    let mut trace = TraceFile::new(path).open().unwrap();
    let (mut tick, mut requests, mut known) = (TraceTick::default(), 0, true);
    while trace.next_tick(&mut tick).unwrap() {
        requests += u64::from(tick.requests.unwrap_or(0));
        known &= tick.requests.is_some() && tick.in_flight.is_some();
    }
    assert!(known && requests > 0, "{requests} requests");
}
