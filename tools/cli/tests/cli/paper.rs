// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy paper --live`.

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Running, json, precopy};

/// A guest of 64 MiB with short phases.
const SMALL: [&str; 12] = [
    "--live", "--memory", "64MiB", "--users", "25", "--ramp", "500ms", "--steady", "4s", "--link",
    "loopback", "--json",
];

fn live(experiment: &str, out: &Path, more: &[&str], code: i32) -> Value {
    let head = ["paper", experiment, "--out", out.to_str().unwrap()];
    let arguments = [&head[..], &SMALL, more].concat();
    let assert = precopy(&arguments).assert().code(code);
    let printed: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let report = json(&out.join("report.json"));
    assert_eq!(report, printed);
    assert!(out.join("report.html").is_file());
    report
}

fn remark(report: &Value, word: &str) -> bool {
    let remarks = report["remarks"].as_array().unwrap().iter();
    remarks.filter_map(Value::as_str).any(|remark| remark.contains(word))
}

#[test]
fn one_migration_live_beside_the_virtual_one() {
    let folder = tempfile::tempdir().unwrap();
    let report = live("fig2", folder.path(), &["--policy", "fixed-rounds:rounds=2"], 0);
    assert_eq!((&report["run"]["mode"], &report["run"]["partial"]), (&"live".into(), &Value::Null));
    let runs = report["fig2"]["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["dropped"]), (1, &0.into()));
    assert!(runs[0]["downtime_probe_s"].is_number() && runs[0]["downtime_engine_s"].is_number());
    assert!(!report["fig2"]["samples"].as_array().unwrap().is_empty());
    let rows = report["side_by_side"].as_array().unwrap();
    for name in ["operations (op/s)", "rounds", "total time (s)", "downtime by prober (s)"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        for side in ["live_run", "virtual_run"] {
            assert_eq!(row[side]["values"].as_array().unwrap().len(), 1, "{row}");
        }
    }
    let word = "service levels not evaluated: steady state shorter than 300 s";
    assert!(remark(&report, word) && remark(&report, "all as promised"), "{report}");
    let claims = report["claims"].as_array().unwrap();
    assert!(claims.iter().all(|claim| claim["verdict"] == "not_measured"), "of another size");
}

#[test]
fn policies_live_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let list = "fixed-rounds:rounds=2,stop-at-once";
    let report = live("policies", folder.path(), &["--policies", list], 0);
    let names = report["policies"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    assert_eq!(names, ["fixed-rounds:rounds=2", "stop-at-once"]);
    let rows = report["side_by_side"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "stop-at-once: rounds"));
}

#[test]
fn a_destination_that_dies_leaves_the_guest_running() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--link", "capped", "--link-rate", "160Mbit/s", "--destination-dies", "300ms"];
    // Slow enough for a migration to be under way after 300 ms.
    let head: Vec<&str> =
        SMALL.iter().copied().filter(|a| !["--link", "loopback"].contains(a)).collect();
    let out = folder.path().to_str().unwrap();
    let arguments = [&["paper", "fig2", "--out", out][..], &head, &more].concat();
    precopy(&arguments).assert().code(3);
    let report = json(&folder.path().join("report.json"));
    assert!(report["fig2"]["runs"].as_array().unwrap().is_empty());
    assert!(remark(&report, "The guest went on at the source"), "{report}");
    assert!(remark(&report, "all as promised"));
}

#[test]
fn ctrl_c_writes_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let head = ["paper", "all", "--out", folder.path().to_str().unwrap()];
    let mut arguments = [&head[..], &SMALL].concat();
    let at = arguments.iter().position(|a| *a == "4s").unwrap();
    arguments[at] = "10m";
    let running = Running::start(&arguments);
    std::thread::sleep(std::time::Duration::from_secs(3));
    running.signal(Signal::SIGINT);
    let (status, _, errors) = running.finish();
    assert_eq!(status.code(), Some(4), "{errors}");
    let report = json(&folder.path().join("report.json"));
    assert!(report["run"]["partial"].as_str().unwrap().contains("PARTIAL"), "{report}");
    assert!(!report["fig2"]["samples"].as_array().unwrap().is_empty());
    assert!(report["policies"].as_array().unwrap().is_empty());
}

#[test]
fn bad_live_options_name_field_and_range() {
    for (more, words) in [
        (&["--memory", "1MiB"][..], &["--memory is 1.0 MiB", "from 32.0 MiB"][..]),
        (&["--users", "5000"], &["--users is 5000", "from 1 to 4096"]),
        (&["--memory", "64MiB"], &["too small for", "use more memory"]),
        (&["--steady", "0.5s"], &["--steady is 0.5 s", "service levels need at least 300 s"]),
        (&["--ramp", "100h"], &["--ramp is 360000 s", "to 86400 s"]),
        (&["--steady", "10", "--migrate-at", "10"], &["--migrate-at is 10 s", "less than the 10"]),
        (&["--link", "string"], &["shaped", "capped", "loopback"]),
        (&["--link-rate", "1kbit/s"], &["--link-rate is 1000 bit/s", "1Mbit/s to 10Gbit/s"]),
        (&["--policies", "xen,qem"], &["qem", "precopy policies"]),
        (&["--policy", "qem"], &["qem", "precopy policies"]),
        (&["--slowdown", "2"], &["--slowdown is 2", "from 0 to 0.95"]),
        (&["--site", "capacity=-1"], &["--site", "capacity is -1"]),
        (&["--bandwidth-cap", "1Gbit/s"], &["--live"]),
    ] {
        let assert = precopy(&[&["paper", "fig2", "--live"], more].concat()).assert().code(2);
        let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for word in words {
            assert!(errors.contains(word), "{more:?}: no {word:?} in {errors}");
        }
    }
    for arguments in [&["paper", "fig2", "--users", "5"][..], &["paper", "fig3", "--live"]] {
        precopy(arguments).assert().code(2);
    }
}
