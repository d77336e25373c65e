// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy simulate`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::precopy;

/// Four seconds of a guest of 8 MiB, as text: a hot set of 100 pages, all of it every 10 ms.
fn trace(folder: &Path) -> PathBuf {
    let mut text = "{\"format\":\"dirty-trace-text\",\"version\":1,\"page_size\":4096,\
                    \"pages\":2048,\"epoch_ns\":10000000}\n"
        .to_owned();
    for tick in 1..=400u64 {
        writeln!(text, "{} 40:{:x}", tick * 10_000_000, 20 + tick % 80).unwrap();
    }
    let path = folder.join("hot.trace");
    fs::write(&path, text).unwrap();
    path
}

fn output(arguments: &[&str]) -> String {
    let assert = precopy(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn errors(arguments: &[&str], code: i32) -> String {
    let assert = precopy(arguments).assert().code(code);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_trace_migrates_in_virtual_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = trace(folder.path());
    let (curve, rounds) = (folder.path().join("curve.csv"), folder.path().join("rounds.csv"));
    let trace = path.to_str().unwrap();
    let common = ["simulate", "--trace", trace, "--link", "10MB/s", "--populated", "all"];
    let files = ["--curve", curve.to_str().unwrap(), "--csv", rounds.to_str().unwrap()];
    let text = output(&[&common[..], &files].concat());
    for word in ["round", "handed over", "downtime", "total time", "least residual", "█"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    let curve = fs::read_to_string(curve).unwrap();
    let first: Vec<&str> = curve.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(first[..3], ["qemu", "0", "2048"]);
    let rounds = fs::read_to_string(rounds).unwrap();
    assert!(rounds.lines().nth(1).unwrap().starts_with("qemu,0,false,"), "{rounds}");

    let json = ["--policy", "qemu+cold-first", "--policy", "never", "--max-time", "3s", "--json"];
    let ran = output(&[&common[..], &json].concat());
    assert_eq!(ran, output(&[&common[..], &json].concat()), "the same every time");
    let document: Value = serde_json::from_str(&ran).unwrap();
    let migrations = document["migrations"].as_array().unwrap();
    assert_eq!((document["pages"].as_u64(), migrations.len()), (Some(2048), 2));
    assert_eq!(migrations[0]["outcome"], "handed_over");
    assert_eq!(migrations[1]["outcome"], "source_keeps_running");
    assert!(migrations[1]["curve"].as_array().unwrap().len() >= 295);
    let compared = output(&[&common[..], &json[..6]].concat());
    assert!(compared.contains("qemu+cold-first") && compared.contains("kept"), "{compared}");
}

#[test]
fn a_drop_of_the_link_and_an_open_loop_change_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = trace(folder.path());
    let trace = path.to_str().unwrap();
    let common = ["simulate", "--trace", trace, "--populated", "all", "--json"];
    let total = |more: &[&str]| {
        let document: Value = serde_json::from_str(&output(&[&common[..], more].concat())).unwrap();
        let duration = &document["migrations"][0]["totals"]["duration"];
        duration["secs"].as_f64().unwrap() + duration["nanos"].as_f64().unwrap() / 1e9
    };
    let steady = total(&["--link", "10MB/s"]);
    let dropped = total(&["--link", "10MB/s,5MB/s@200ms"]);
    assert!(dropped > steady + 0.5, "{steady} {dropped}");
    let stretched = ["--link", "5MB/s", "--policy", "fixed-rounds:rounds=25+stun"];
    let open = [&stretched[..], &["--open-loop", "--pace", "1.5"]].concat();
    let (stretched, open) = (total(&stretched), total(&open));
    assert!((stretched - open).abs() > 1e-3, "an open loop changes nothing: {stretched} {open}");
}

#[test]
fn a_deadline_paces_and_its_lack_is_told() {
    let guest = ["simulate", "--workload", "uniform", "--memory", "64MiB", "--rate", "100"];
    let total = |more: &[&str]| {
        let arguments = [&guest[..], &["--policy", "qemu+deadline", "--json"], more].concat();
        let assert = precopy(&arguments).assert().success();
        let document: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let duration = &document["migrations"][0]["totals"]["duration"];
        let errors = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        (duration["secs"].as_u64().unwrap(), errors)
    };
    let (unpaced, told) = total(&[]);
    assert!(
        unpaced < 2 && told.contains("without --deadline nothing paces qemu+deadline"),
        "{told}"
    );
    let (paced, told) = total(&["--deadline", "20s"]);
    assert!((10..=22).contains(&paced) && !told.contains("Note"), "{paced} s: {told}");
}

#[test]
fn a_modelled_guest_and_mistakes() {
    let common = ["simulate", "--workload", "zipf", "--memory", "8MiB", "--rate", "500"];
    let text = output(&[&common[..], &["--link", "20MB/s", "--channels", "2"]].concat());
    assert!(text.contains("zipf, 500 writes/s of 8.0 MiB"), "{text}");
    let error = errors(&[&common[..], &["--policy", "qemmu"]].concat(), 2);
    assert!(error.contains("qemu") && error.contains("precopy policies"), "{error}");
    let error = errors(&[&common[..], &["--link", "1gbit,2gbit"]].concat(), 2);
    assert!(error.contains("60MB/s@20s"), "{error}");
    let error = errors(&["simulate"], 2);
    assert!(error.contains("--trace") && error.contains("--workload"), "{error}");
    let error = errors(&["simulate", "--trace", "/nowhere.trace"], 1);
    assert!(error.contains("/nowhere.trace"), "{error}");
}
