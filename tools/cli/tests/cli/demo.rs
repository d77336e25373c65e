// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy demo`.

use nix::sys::signal::Signal;

use crate::support::{Running, json, precopy};

fn counters(more: &[&str]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let (report, events) = (folder.path().join("report.json"), folder.path().join("events"));
    let mut arguments = vec!["demo", "--guest", "counters", "--memory", "64MiB"];
    arguments.extend(["--rate", "5000", "--warm-up", "100ms"]);
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
        let report = counters(&["--policy", policy]);
        let named = report["source"]["policy"].as_str().unwrap();
        assert!(named.starts_with(policy), "{named}");
        assert_eq!(report["source"]["verified"], true);
        assert!(!report["source"]["rounds"].as_array().unwrap().is_empty());
    }
}

#[test]
fn every_strategy_hands_over_and_the_guest_is_whole() {
    for (strategy, tracker) in [
        ("fixed-rounds+cold-first:slice_ms=10,least_ms=2", "marked"),
        ("fixed-rounds+fifo:slice_ms=10,least_ms=2+auto-converge:period_ms=0", "auto"),
        ("fixed-rounds:rounds=5+clear-at-send+constant:bytes_per_s=200000000", "auto"),
        ("fixed-rounds:rounds=5+clear-at-send", "marked"),
        ("fixed-rounds:rounds=5+history:rounds=2,dirty=1+stun", "mprotect"),
        ("fixed-rounds+frequency+deadline+soft-landing:lull=0", "marked"),
    ] {
        let more = ["--strategy", strategy, "--tracker", tracker];
        let watched = ["--preflight", "200ms", "--deadline-s", "2"];
        let report = counters(&[&more[..], &watched].concat());
        let named = report["source"]["policy"].as_str().unwrap();
        assert!(named.starts_with(strategy), "{named}");
        assert_eq!(report["source"]["verified"], true);
        let preflight = &report["source"]["totals"]["preflight"];
        assert!(preflight.is_object() && *preflight != report["nothing"], "{preflight}");
    }
}

#[test]
fn trackers_encoders_regions_and_caps() {
    for more in [
        &["--tracker", "marked", "--encoder", "lz4", "--content", "compressible"][..],
        &["--tracker", "mprotect", "--channels", "4", "--policy", "fixed-rounds:rounds=2"],
        &["--regions", "3", "--hole", "1GiB", "--backing", "memfd", "--no-verify"],
        &["--bandwidth-cap", "1Gbit/s", "--uncap-paused", "--max-rounds", "2"],
        &["--encoder", "delta", "--delta-cache", "4MiB", "--policy", "fixed-rounds:rounds=6"],
    ] {
        let report = counters(more);
        let delta = &report["source"]["delta"];
        assert_eq!(delta.is_object(), more[1] == "delta", "{delta}");
        if delta.is_object() {
            assert_eq!(delta["cache_limit_bytes"], 4 << 20);
            assert!(delta["sent"]["pages"].as_u64() > Some(0), "{delta}");
        }
    }
}

#[test]
fn shadows_are_told_of() {
    let report = counters(&["--shadow", "all", "--shadow", "stop-at-once+cold-first"]);
    let shadows = report["source"]["shadows"].as_array().unwrap();
    let find = |name: &str| shadows.iter().find(|s| s["strategy"] == name).unwrap();
    // The acting strategy's own shadow says what it did.
    let (same, decisions) = (find("qemu"), report["source"]["decisions"].as_array().unwrap());
    assert_eq!((&same["order"], &same["stop"]["gives_up"]), (&"shared".into(), &false.into()));
    let last = decisions.iter().find(|d| d["verdict"]["verdict"] == "stop_and_copy").unwrap();
    assert_eq!(same["stop"]["at"], last["seen"]["now"]);
    let at_once = find("stop-at-once+cold-first");
    assert_eq!(at_once["order"], "modelled");
    assert_eq!(at_once["stop"]["sent_pages"], 0);
    assert!(at_once["stop"]["expected_downtime"].is_object(), "{at_once}");

    let arguments = ["demo", "--guest", "counters", "--memory", "64MiB", "--warm-up", "50ms"];
    let output = precopy(&[&arguments[..], &["--shadow", "xen+cold-first"]].concat());
    let output = { output }.assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["What other strategies would have done", "qemu (acted)", "~ xen+cold-first"] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    let output = precopy(&["demo", "--shadow", "no-such"]).assert().failure().get_output().clone();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--shadow") && text.contains("precopy policies"), "{text}");
}

#[test]
fn json_is_all_that_a_machine_gets() {
    let arguments =
        ["demo", "--guest", "counters", "--memory", "64MiB", "--warm-up", "50ms", "--json"];
    let output = precopy(&arguments).assert().success().get_output().clone();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["source"]["outcome"], "handed_over");
}

/// Short phases of a guest of 64 MiB. It must move before its users have ended, however late it
/// gets round to that.
const SHORT: [&str; 9] =
    ["demo", "--memory", "64MiB", "--ramp", "500ms", "--warm-up", "500ms", "--run-on", "4s"];

fn assert_unharmed(value: &serde_json::Value) {
    assert_eq!(value["source"]["outcome"], "handed_over", "{value}");
    assert_eq!(value["destination"]["may_run"], "yes");
    assert_eq!(value["audit"]["clean"], true, "{value}");
    assert!(value["audit"]["sessions"].as_u64().unwrap() > 0);
    assert_eq!((&value["dropped"], &value["figures"]["dropped"]), (&0.into(), &0.into()));
    assert!(value["throughput_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(value["partial"], false);
}

#[test]
fn the_site_moves_and_no_user_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (report, events) = (folder.path().join("report"), folder.path().join("events"));
    let more = ["--report", report.to_str().unwrap(), "--events", events.to_str().unwrap()];
    let arguments = [&SHORT[..], &more].concat();
    let output = precopy(&arguments).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "handed over",
        "round",
        "stood still for",
        "Downtime in three ways",
        "Recovery",
        "0 dropped",
        "all as promised",
        "report.html",
    ] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    assert!(String::from_utf8(output.stderr).unwrap().contains("op/s"));
    assert!(std::fs::read_to_string(report.join("report.html")).unwrap().contains("Fig. 2"));
    let fig = &json(&report.join("report.json"))["fig2"];
    assert_eq!(fig["runs"].as_array().unwrap().len(), 1);
    assert!(!fig["samples"].as_array().unwrap().is_empty());
    for line in std::fs::read_to_string(&events).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["side"].is_string(), "{line}");
    }
}

#[test]
fn the_site_tells_machines_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.json");
    let more = ["--json", "--report", file.to_str().unwrap(), "--policy", "stop-at-once"];
    let more = [&more[..], &["--verify", "--tracker", "mprotect", "--users", "20"]].concat();
    let arguments = [&SHORT[..], &more].concat();
    let output = precopy(&arguments).assert().success().get_output().clone();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        output.stderr.is_empty() || !String::from_utf8(output.stderr).unwrap().contains("op/s")
    );
    assert_unharmed(&value);
    assert_eq!(value, json(&file));
    assert_eq!(value["guest"]["users"], 20);
    assert_eq!(value["source"]["verified"], true);
    assert!(value["source"]["tracker"].as_str().unwrap().starts_with("mprotect"));
    let html = std::path::Path::new(value["report"].as_str().unwrap());
    assert!(html.is_file());
    std::fs::remove_dir_all(html.parent().unwrap()).unwrap();
}

#[test]
fn what_the_site_cannot_be_is_named() {
    for (more, words) in [
        (&["--memory", "1MiB"][..], &["--memory is 1.0 MiB", "from 32.0 MiB"][..]),
        (&["--users", "0"], &["--users is 0", "from 1 to 4096"]),
        (&["--memory", "64MiB", "--users", "600"], &["too small for", "use more memory"]),
        (&["--run-on", "2h"], &["--run-on is 7200 s", "to 3600 s"]),
        (&["--pattern", "zipf", "--rate", "5"], &["--guest counters"]),
        (&["--stall-timeout", "1s"], &["--stall-timeout", "--guest counters"]),
        (&["--policy", "qem"], &["--policy", "precopy policies"]),
        (&["--verify", "--no-verify"], &["cannot be used with"]),
        (&["--guest", "cat"], &["web", "counters"]),
    ] {
        let assert = precopy(&[&["demo"], more].concat()).assert().code(2);
        let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for word in words {
            assert!(errors.contains(word), "{more:?}: no {word:?} in {errors}");
        }
    }
}

#[test]
fn ctrl_c_ends_the_demo_with_a_partial_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut arguments = vec!["demo", "--memory", "64MiB", "--warm-up", "10m", "--json"];
    arguments.extend(["--ramp", "500ms", "--report", report.to_str().unwrap()]);
    let running = Running::start(&arguments);
    running.catches(Signal::SIGINT);
    // It may be anywhere by then, most often among its users.
    std::thread::sleep(std::time::Duration::from_secs(1));
    running.signal(Signal::SIGINT);
    let (status, out, errors) = running.finish();
    assert_eq!(status.code(), Some(4), "{errors}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["partial"], &value["audit"]["clean"]), (&true.into(), &true.into()));
    assert_eq!(value["source"], serde_json::Value::Null);
    let partial = &json(&report.join("report.json"))["run"]["partial"];
    assert!(partial.as_str().unwrap().contains("PARTIAL"), "{partial}");
}
