// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy demo`.

use crate::support::{json, precopy};

fn demo(more: &[&str]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let (report, events) = (folder.path().join("report.json"), folder.path().join("events"));
    let mut arguments = vec!["demo", "--memory", "64MiB", "--rate", "5000", "--warm-up", "100ms"];
    arguments.extend(["--report", report.to_str().unwrap()]);
    arguments.extend(["--events", events.to_str().unwrap()]);
    arguments.extend(more);
    let output = precopy(&arguments).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["handed over", "round", "Downtime", "total, pause to Committed", "every page"] {
        assert!(text.contains(word), "{more:?}: no {word:?} in\n{text}");
    }
    for line in std::fs::read_to_string(&events).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["side"].is_string(), "{line}");
    }
    let report = json(&report);
    assert_eq!(report["source"]["outcome"], "handed_over");
    assert_eq!(report["destination"]["may_run"], "yes");
    assert_eq!(report["audit"]["clean"], true);
    assert!(report["audit"]["ops_here"].as_u64().unwrap() > 0, "it went on at the destination");
    let downtime = &report["source"]["downtime"];
    assert!(downtime["source_total"].is_object() && downtime["destination_total"].is_object());
    report
}

#[test]
fn every_policy_hands_over_and_the_guest_is_whole() {
    for policy in ["fixed-rounds", "xen-legacy", "xen", "qemu", "cloud-hypervisor", "stop-at-once"]
    {
        let report = demo(&["--policy", policy]);
        let named = report["source"]["policy"].as_str().unwrap();
        assert!(named.starts_with(policy), "{named}");
        assert_eq!(report["source"]["verified"], true);
        assert!(!report["source"]["rounds"].as_array().unwrap().is_empty());
    }
}

#[test]
fn trackers_encoders_regions_and_caps() {
    for more in [
        &["--tracker", "marked", "--encoder", "lz4", "--content", "compressible"][..],
        &["--tracker", "mprotect", "--channels", "4", "--policy", "fixed-rounds:rounds=2"],
        &["--regions", "3", "--hole", "1GiB", "--backing", "memfd", "--no-verify"],
        &["--bandwidth-cap", "1Gbit/s", "--uncap-paused", "--max-rounds", "2"],
    ] {
        demo(more);
    }
}

#[test]
fn json_is_all_that_a_machine_gets() {
    let arguments = ["demo", "--memory", "64MiB", "--warm-up", "50ms", "--json"];
    let output = precopy(&arguments).assert().success().get_output().clone();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["source"]["outcome"], "handed_over");
}
