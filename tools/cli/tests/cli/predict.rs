// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy predict`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::precopy;

const CURVE: &str = "# populated_pages=16384\nwindow_s,pages,sd_pages\n0.1,100,8\n0.4,350,20\n\
                     1.6,900,60\n6.4,2000,90\n";

fn output(arguments: &[&str]) -> String {
    let assert = precopy(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn errors(arguments: &[&str], code: i32) -> String {
    let assert = precopy(arguments).assert().code(code);
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_curve_becomes_a_prediction() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "wws.csv", CURVE);
    let curve = path.to_str().unwrap();
    let common = ["predict", "--curve", curve, "--bandwidth", "100mbit", "--policy", "xen-legacy"];
    let site = ["--users", "40", "--capacity", "20", "--spacing", "--safe-load", "60"];
    let text = output(&[&common[..], &site].concat());
    for word in [
        "64.0 MiB populated",
        "downtime",
        "median",
        "HomePage",
        "p99 of all actions",
        "migrations",
        "keeps p90",
        "virtual time",
        "(*: the guest is paused)",
    ] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    let json: Value = serde_json::from_str(&output(&[&common[..], &["--json"]].concat())).unwrap();
    let prediction = &json["prediction"];
    let total = prediction["total_s"]["median"].as_f64().unwrap();
    // 16,384 pages of 4,120 bytes at 11.75 MB/s are 5.7 s; nothing is sent twice at no cost.
    assert!((5.6..8.0).contains(&total), "{total}");
    assert!(prediction["risk"].is_null() && prediction["runs"].as_array().unwrap().len() == 10);
    let again = output(&[&common[..], &["--json"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), json, "the same every time");
    // A strategy is more than a stop policy: so paced, the first pass takes all of the time.
    let paced = "qemu+cold-first+deadline:deadline_ms=12000+stun";
    let paced = ["predict", "--curve", curve, "--bandwidth", "100mbit", "--strategy", paced];
    let paced: Value = serde_json::from_str(&output(&[&paced[..], &["--json"]].concat())).unwrap();
    let live = paced["prediction"]["runs"][0]["live_s"].as_f64().unwrap();
    assert!(live > 10.0, "{live}");
    // The curve that it was made of is one that it reads.
    let same = written(folder.path(), "wws.json", &json["curve"].to_string());
    let common = ["predict", "--bandwidth", "100mbit", "--policy", "xen-legacy", "--json"];
    let text = output(&[&common[..], &["--curve", same.to_str().unwrap()]].concat());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json);
}

#[test]
fn a_trace_and_a_running_guest_become_predictions() {
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/../lab/traces/web-20.trace.zst");
    let seeds = ["--seeds", "2", "--json"];
    let common = ["predict", "--trace", trace, "--bandwidth", "1gbit", "--populated", "256MiB"];
    let json: Value = serde_json::from_str(&output(&[&common[..], &seeds].concat())).unwrap();
    assert_eq!(json["curve"]["populated_pages"], 65_536);
    let guest = ["predict", "--live", "500ms", "--memory", "64MiB", "--rate", "20000"];
    let link = ["--bandwidth", "100MB/s", "--policy", "fixed-rounds:rounds=2"];
    let json: Value = serde_json::from_str(&output(&[&guest[..], &link, &seeds].concat())).unwrap();
    assert_eq!(json["prediction"]["rounds"]["median"], 3.0);
    assert!(json["curve"]["points"][0]["pages"].as_f64().unwrap() > 100.0, "{json}");
}

#[test]
fn what_cannot_be_predicted_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        |name: &str, text: &str| written(folder.path(), name, text).to_str().unwrap().to_owned();
    let good = file("good.csv", CURVE);
    let link = ["--bandwidth", "1gbit"];
    for (more, word) in [
        (&["--curve", &file("a.csv", "1,2\n2,3\n")][..], "--populated"),
        (&["--curve", &file("b.csv", "1,2\n1,x\n"), "--populated", "1MiB"], "Line 2"),
        (&["--curve", &file("c.json", "{}"), "--populated", "1MiB"], "populated_pages"),
        (&["--curve", &file("d.csv", "2,2\n1,3\n"), "--populated", "1MiB"], "ascend"),
        (&["--curve", &good, "--web", "--users", "5"], "cannot be used with"),
        (&["--web"], "--users"),
        (&[], "--curve"),
        (&["--curve", &good, "--policy", "qem"], "cloud-hypervisor"),
        (&["--curve", &good, "--users", "5", "--slowdown", "2"], "slowdown is 2"),
        (&["--curve", &good, "--users", "5", "--action", "Buy"], "judged is Buy"),
        (&["--curve", &good, "--users", "5", "--capacity", "0"], "capacity_ops_per_s is 0"),
        (&["--curve", &good, "--seeds", "0"], "seeds is 0; from 1"),
        (&["--curve", &good, "--tcp-share", "0"], "--tcp-share"),
        (&["--curve", &good, "--link-spread", "NaN"], "spread"),
        (&["--curve", &good, "--max-rounds", "0"], "--max-rounds"),
        (&["--curve", &good, "--safe-load", "100"], "--users"),
        (&["--live", "10ms"], "400ms"),
    ] {
        let text = errors(&[&["predict"][..], &link, more].concat(), 2);
        assert!(text.contains(word), "{more:?}: no {word:?} in {text}");
    }
    let text = errors(&["predict", "--bandwidth", "1gbit", "--trace", "/none.zst"], 1);
    assert!(text.contains("Could not use /none.zst"), "{text}");
    let text = errors(&["predict", "--bandwidth", "1gbit", "--trace", &good], 1);
    assert!(text.contains("Not a precopy trace"), "{text}");
    assert!(errors(&["predict", "--curve", &good], 2).contains("--bandwidth"));
}
