// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy paper --live`.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Running, json, precopy, status, wait_for};

/// The options of a guest of 64 MiB with short phases, and more, or others instead of these.
fn small<'a>(experiment: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["paper", experiment, "--out", out.to_str().unwrap()];
    arguments.extend(["--live", "--memory", "64MiB", "--users", "25", "--ramp", "500ms"]);
    // An option that is given twice is an error.
    for usual in [["--steady", "4s"], ["--link", "loopback"]] {
        if !more.iter().any(|word| word.starts_with(usual[0])) {
            arguments.extend(usual);
        }
    }
    arguments.extend(more);
    arguments
}

fn live(experiment: &str, out: &Path, more: &[&str], code: i32) -> Value {
    let arguments = [&small(experiment, out, more)[..], &["--json"]].concat();
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

/// The virtual run is given the link of the live one. What loopback carried was measured, and on
/// a busy machine may be so little that the virtual migration ends after its users.
const KNOWN_LINK: [&str; 2] = ["--link", "capped"];

#[test]
fn one_migration_live_beside_the_virtual_one() {
    let folder = tempfile::tempdir().unwrap();
    let more = [&["--policy", "fixed-rounds:rounds=2"], &KNOWN_LINK[..]].concat();
    let report = live("fig2", folder.path(), &more, 0);
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
    let report = live("policies", folder.path(), &["--policies", list, "--steady", "2s"], 0);
    let names = report["policies"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    assert_eq!(names, ["fixed-rounds:rounds=2", "stop-at-once"]);
    let rows = report["side_by_side"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "stop-at-once: rounds"));
}

#[test]
fn the_capacity_search_live_climbs_through_its_loads() {
    let folder = tempfile::tempdir().unwrap();
    let report = live("capacity", folder.path(), &["--loads", "5,25", "--steady", "3"], 0);
    let steps = report["capacity"]["steps"].as_array().unwrap();
    let users: Vec<_> = steps.iter().map(|step| step["users"].as_u64().unwrap()).collect();
    assert_eq!(users, [5, 25]);
    // Whether so few users are served in time is the machine's affair; what follows from it is
    // the search's.
    for step in steps {
        let reason = step["reason"].as_str().unwrap();
        assert_eq!(step["pass"], reason == "1 of 1 runs keep all limits", "{step}");
        assert!(step["throughput"]["values"][0].as_f64().unwrap() > 0.2, "{step}");
    }
    let passed = steps.iter().take_while(|step| step["pass"] == true).last();
    let found = passed.map_or(Value::Null, |step| step["users"].clone());
    assert_eq!(report["capacity"]["found_users"], found);
    let rows = report["side_by_side"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "25 users: operations (op/s)"));
    assert!(remark(&report, "judged in a window of 3 s, not of 300 s"), "{report}");
    let claims = report["claims"].as_array().unwrap();
    assert!(claims.iter().all(|claim| claim["verdict"] == "not_measured"), "of another size");
}

#[test]
fn two_migrations_live_go_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    // So far apart that the virtual run has done with the first one and what follows it.
    let times = ["--steady", "6s", "--migrate-at", "500ms", "--apart", "4s"];
    let more = [&["--policy", "fixed-rounds:rounds=1"], &KNOWN_LINK[..], &times[..]].concat();
    let report = live("fig3", folder.path(), &more, 0);
    let panels = report["fig3"]["panels"].as_array().unwrap().iter();
    let panels = panels.map(|panel| {
        let migrations = panel["runs"][0]["migrations"].as_array().unwrap().len();
        (panel["kind"].as_str().unwrap(), migrations)
    });
    assert_eq!(panels.collect::<Vec<_>>(), [("none", 0), ("one", 1), ("two_close", 2)]);
    let rows = report["side_by_side"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "two migrations: total time (s)"), "{rows:?}");
    let p99 = &report["fig3"]["panels"][2]["runs"][0]["p99"];
    assert!(p99[0][1].as_f64().unwrap() > 0.0, "{p99}");
}

#[test]
fn table_2_live_has_a_column_for_each_load() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--policy", "stop-at-once", "--loads", "10,25", "--steady", "3"];
    let report = live("table2", folder.path(), &more, 0);
    assert_eq!(report["table2"]["steady_s"], 3.0);
    let cells = report["table2"]["cells"].as_array().unwrap();
    let home = cells.iter().filter(|cell| cell["action"] == cells[0]["action"]);
    assert_eq!(home.map(|cell| cell["users"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 25]);
    assert_eq!(cells.len(), 14);
    assert!(folder.path().join("table2.csv").is_file());
}

/// The arguments of one migration to a process that takes longer than it may take until somebody
/// gets round to killing that: over a shaped link between two namespaces where that can be had,
/// over loopback otherwise.
fn slow<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--link-rate", "40Mbit/s", "--migrate-at", "500ms", "--json"];
    all.push("--destination-process");
    all.extend(more);
    small("fig2", out, &all)
}

#[test]
fn a_guest_goes_to_another_process_and_is_audited_there() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--policy", "fixed-rounds:rounds=1", "--destination-process"];
    let report = live("fig2", folder.path(), &more, 0);
    assert_eq!(report["fig2"]["runs"][0]["dropped"], 0);
    assert!(report["fig2"]["runs"][0]["downtime_engine_s"].as_f64().unwrap() > 0.0);
    assert!(remark(&report, "all as promised"), "{report}");
}

#[test]
fn a_destination_whose_process_is_killed_by_the_experiment_leaves_the_guest_running() {
    let folder = tempfile::tempdir().unwrap();
    // Late enough for the source to have come.
    precopy(&slow(folder.path(), &["--destination-dies", "5s"])).assert().code(3);
    let report = json(&folder.path().join("report.json"));
    assert!(remark(&report, "signal: 9 (SIGKILL)"), "{report}");
    assert!(remark(&report, "The guest went on at the source"), "{report}");
    assert!(remark(&report, "all as promised"), "{report}");
}

/// The process that a process has started with this word on its command line.
fn child(parent: u32, word: &str) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = ids.find(|id| {
        let read = |file| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        let status = read("status");
        let of_parent = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        of_parent && read("cmdline").split('\0').any(|argument| argument == word)
    });
    found.map(Pid::from_raw)
}

/// The destination of a running experiment, once it has memory for a guest.
fn destination(running: &Running) -> Pid {
    let host = wait_for("a destination", || child(running.id(), "host"));
    let id = host.as_raw().unsigned_abs();
    wait_for("a guest's memory", || {
        let kib: u64 = status(id, "RssAnon:")?.strip_suffix(" kB")?.parse().ok()?;
        (kib > 8 << 10).then_some(())
    });
    host
}

#[test]
fn kill_9_of_the_destination_leaves_the_guest_running() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&slow(folder.path(), &[]));
    kill(destination(&running), Signal::SIGKILL).unwrap();
    let (status, _, errors) = running.finish();
    let report = json(&folder.path().join("report.json"));
    assert_eq!(status.code(), Some(3), "{errors} {report}");
    assert!(report["fig2"]["runs"].as_array().unwrap().is_empty());
    assert!(remark(&report, "signal: 9 (SIGKILL)"), "{report}");
    assert!(remark(&report, "The guest went on at the source"), "{report}");
    assert!(remark(&report, "all as promised"), "{report}");
    assert_eq!(report["run"]["partial"], Value::Null, "the run went on to its end");
}

#[test]
fn a_destination_that_dies_at_commit_leaves_the_guest_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--policy", "stop-at-once", "--destination-process", "--query-timeout", "1s"];
    let report =
        live("fig2", folder.path(), &[&more[..], &["--destination-dies-at-commit"]].concat(), 5);
    assert!(remark(&report, "Who runs the guest is in doubt"), "{report}");
    assert!(remark(&report, "signal: 6 (SIGABRT)"), "{report}");
    assert!(report["fig2"]["runs"].as_array().unwrap().is_empty());
    assert!(!remark(&report, "all as promised"), "nobody's memory says");
}

#[test]
fn a_host_that_dies_with_the_guest_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--policy", "stop-at-once", "--migrate-at", "100ms", "--destination-process"];
    let more = [&more[..], &["--steady", "10m"]].concat();
    let mut running = Running::start(&small("fig2", folder.path(), &more));
    running.tells("the guest runs at the destination");
    kill(destination(&running), Signal::SIGKILL).unwrap();
    let (status, _, errors) = running.finish();
    let report = json(&folder.path().join("report.json"));
    assert_eq!(status.code(), Some(1), "{errors} {report}");
    assert!(remark(&report, "The guest is lost with its host"), "{report}");
    assert!(report["run"]["partial"].as_str().unwrap().contains("PARTIAL"), "{report}");
}

#[test]
fn a_destination_that_dies_leaves_the_guest_running() {
    let folder = tempfile::tempdir().unwrap();
    // Slow enough for a migration to be under way when it dies, however late that is.
    let more = ["--link", "capped", "--link-rate", "40Mbit/s", "--destination-dies", "300ms"];
    let report = live("fig2", folder.path(), &more, 3);
    assert!(report["fig2"]["runs"].as_array().unwrap().is_empty());
    assert!(remark(&report, "The guest went on at the source"), "{report}");
    assert!(remark(&report, "all as promised"));
}

#[test]
fn ctrl_c_writes_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&small("all", folder.path(), &["--steady", "10m"]));
    // The first second has the ramp, which does not count. Then until there were so many actions
    // that Fig. 2 shows some of them.
    running.tells("op/s");
    let mut actions = 0.0;
    while actions < 15.0 {
        let line = running.tells("op/s");
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "op/s").unwrap();
        actions += words[at - 1].parse::<f64>().unwrap();
    }
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
    for (arguments, words) in [
        (&["paper", "fig2", "--users", "5"][..], &["--live"][..]),
        (&["paper", "contrast", "--live"], &["capacity, fig2, fig3, table2", "virtual time"]),
        (&["paper", "capacity", "--live", "--loads", "200,100"], &["--loads", "that rise"]),
        (&["paper", "table2", "--live", "--loads", "9000"], &["--loads has 9000", "users"]),
        (&["paper", "fig3", "--live", "--apart", "400"], &["--apart", "less than the 600 s"]),
        (&["host"], &["precopy paper"]),
    ] {
        let code = if arguments == ["host"] { 1 } else { 2 };
        let assert = precopy(arguments).assert().code(code);
        let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for word in words {
            assert!(errors.contains(word), "{arguments:?}: no {word:?} in {errors}");
        }
    }
}
