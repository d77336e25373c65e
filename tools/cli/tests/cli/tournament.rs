// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy tournament`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Running, json, precopy};

const PLAN: &str = "\
offsets = 2
worst_phase = false
t_max_s = 3
[[trace]]
recording = \"olio-processes-100\"
family = \"processes\"
split = \"train\"
[[strategy]]
use = \"qemu\"
[[strategy]]
use = \"xen+cold-first\"
[[link]]
name = \"fast\"
bandwidth_bytes_per_s = 1.25e9
";

fn plan(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("plan.toml");
    fs::write(&path, text).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn plans_are_printed_and_sound_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let assert = precopy(&["tournament", "--print-plan"]).assert().success();
    let printed = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    let path = plan(folder.path(), &printed);
    let assert = precopy(&["tournament", text(&path), "--check"]).assert().success();
    let told = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    // Traces x strategies x links x (offsets and the worst phase).
    assert!(told.contains("3 traces, 2 strategies, 2 links, 60 runs"), "{told}");
    let assert = precopy(&["tournament", text(&path), "--check", "--quick", "--json"]).assert();
    let told: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!((&told["runs"], &told["links"]), (&18.into(), &serde_json::json!(["1 Gb/s"])));
    let assert = precopy(&["tournament", "--print-plan", "quick"]).assert().success();
    let path = plan(folder.path(), &String::from_utf8_lossy(&assert.get_output().stdout));
    precopy(&["tournament", text(&path), "--check"]).assert().success();
    for long in ["standard", "adversarial"] {
        precopy(&["tournament", "--print-plan", long]).assert().success();
    }
}

#[test]
fn a_mistake_gives_line_key_and_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    for (from, to, words) in [
        ("use = \"qemu\"", "use = \"qmeu\"", &["Line 9", "strategy[1].use", "\"qemu\""][..]),
        ("offsets = 2", "ofsets = 2", &["Line 1", "ofsets", "did you mean \"offsets\"?"]),
        ("recording = \"olio-processes-100\"", "file = \"gone\"", &["Line 4", "gone", "relative"]),
    ] {
        let path = plan(folder.path(), &PLAN.replacen(from, to, 1));
        let assert = precopy(&["tournament", text(&path)]).assert().code(2);
        let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for word in words {
            assert!(errors.contains(word), "no {word:?} in {errors}");
        }
    }
    precopy(&["tournament", "/nowhere.toml"]).assert().code(2);
    precopy(&["tournament"]).assert().code(2);
}

#[test]
fn runs_are_made_kept_and_the_same_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = plan(folder.path(), PLAN);
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let run = |out: &Path, threads: &str| {
        let arguments =
            ["tournament", text(&path), "--out", text(out), "--threads", threads, "--json"];
        let assert = precopy(&arguments).assert().success();
        let summary: serde_json::Value =
            serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!((&summary["planned"], &summary["finished"]), (&4.into(), &4.into()));
        assert_eq!(summary, json(&out.join("summary.json")));
        ["runs.csv", "runs.parquet", "summary.json", "report.html"]
            .map(|file| fs::read(out.join(file)).unwrap())
    };
    let first = run(&one, "1");
    assert!(first == run(&two, "2"), "two threads, other bytes");
    let lines = || fs::read_to_string(one.join("runs.jsonl")).unwrap().lines().count();
    assert_eq!(lines(), 4);
    assert!(first == run(&one, "2"), "kept runs, other bytes");
    assert_eq!(lines(), 4, "nothing was run again");
}

#[test]
fn a_failed_run_is_told_and_fails_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (plan(folder.path(), PLAN), folder.path().join("out"));
    let run = || precopy(&["tournament", text(&path), "--out", text(&out)]).assert();
    run().success();
    // As if the first had broken; finished runs are not repeated.
    let journal = out.join("runs.jsonl");
    let kept = fs::read_to_string(&journal).unwrap();
    let broken = kept.replacen("\"ending\":\"stopped\"", "\"ending\":\"failed\"", 1);
    assert_ne!(kept, broken);
    fs::write(&journal, broken).unwrap();
    let assert = run().code(1);
    let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("1 of 4 runs failed"), "{errors}");
    let summary = json(&out.join("summary.json"));
    let rows = summary["scopes"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["failed"] == 1), "{rows:?}");
}

#[test]
fn ctrl_c_writes_what_there_is_and_the_rest_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = plan(folder.path(), &PLAN.replacen("offsets = 2", "offsets = 4000", 1));
    let out = folder.path().join("out");
    let running = Running::start(&["tournament", text(&path), "--out", text(&out)]);
    let journal = out.join("runs.jsonl");
    let has_runs = || fs::metadata(&journal).is_ok_and(|file| file.len() > 0);
    for _ in 0..1200 {
        if has_runs() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    running.signal(Signal::SIGINT);
    let (status, _, errors) = running.finish();
    assert_eq!(status.code(), Some(4), "{errors}");
    assert!(errors.contains("goes on from here"), "{errors}");
    let summary = json(&out.join("summary.json"));
    let finished = summary["finished"].as_u64().unwrap();
    assert!(finished > 0 && finished < summary["planned"].as_u64().unwrap());
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("PARTIAL"));
}
