// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lists, help, and command lines that are wrong.

use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{PRECOPY, Running, precopy};

fn output(arguments: &[&str]) -> String {
    let assert = precopy(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

#[test]
fn remote_listening_needs_the_flag() {
    let arguments = ["receive", "--listen", "0.0.0.0:0"];
    let assert = precopy(&arguments).assert().code(2);
    let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("--allow-remote-without-tls"), "{errors}");
    assert!(errors.contains("encrypted"), "{errors}");
    let help = output(&["receive", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("nobody proves who they are"), "{help}");
}

#[test]
fn wrong_command_lines_are_told_apart_and_named() {
    let to = ["send", "--to", "127.0.0.1:1"];
    for (more, word) in [
        (&["--policy", "qem"][..], "cloud-hypervisor"),
        (&["--policy", "qemu:downtime=5"], "downtime_ms"),
        (&["--strategy", "qemu+hot-first"], "cold-first"),
        (&["--policy", "qemu+fifo+lru"], "more than one page order"),
        (&["--preflight", "28h"], "--preflight: at most a day"),
        (&["--preflight-s", "100000"], "--preflight: at most a day"),
        (&["--channels", "0"], "--channels"),
        (&["--channels", "65"], "64"),
        (&["--encoder", "zip"], "delta+lz4"),
        (&["--delta-cache", "64MiB"], "--encoder delta"),
        (&["--encoder", "delta", "--delta-cache", "64"], "4 KiB"),
        (&["--memory", "1QiB"], "a size such as"),
        (&["--memory", "5000"], "multiples of 4 KiB"),
        (&["--regions", "0"], "--regions"),
        (&["--regions", "5000"], "1024"),
        (&["--pattern", "chess"], "zipf"),
        (&["--hot-set", "200%"], "50%"),
        (&["--downtime-limit", "300"], "300ms"),
        (&["--bandwidth-cap", "0"], "1Gbit/s"),
        (&["--max-data", "0.5"], "--max-data"),
        (&["--max-rounds", "0"], "--max-rounds"),
        (&["--no-progress", "0"], "--no-progress"),
        (&["--uncap-paused"], "--bandwidth-cap"),
        (&["--tracker", "magic"], "pagemap"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let arguments = [&to[..], more].concat();
        let assert = precopy(&arguments).assert().code(2);
        let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(errors.contains(word), "{more:?}: no {word:?} in {errors}");
    }
    precopy(&["ask", "--to", "127.0.0.1:1", "--id", "xyz"]).assert().code(2);
    for to in ["nowhere", "127.0.0.1", "127.0.0.1:", ":7700", "127.0.0.1:70000", "::1:7700", ""] {
        for command in [&["send"][..], &["ask", "--id", "7"], &["qemu", "send", "--qmp", "none"]] {
            let assert = precopy(&[command, &["--to", to]].concat()).assert().code(2);
            let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
            assert!(errors.contains("not an address and a port"), "{to}: {errors}");
        }
    }
    precopy(&["check", "explore", "--world", "none"]).assert().code(2);
    precopy(&[]).assert().code(2);
}

#[test]
fn lists() {
    let text = output(&["policies"]);
    let json: Value = serde_json::from_str(&output(&["policies", "--json"])).unwrap();
    let list = json["policies"].as_array().unwrap();
    assert_eq!(list.len(), precopy::policy::policies().len());
    let parts = ["orders", "rates", "throttles"].map(|kind| json[kind].as_array().unwrap());
    assert!(parts.iter().all(|parts| parts.len() > 2), "{json}");
    for policy in list.iter().chain(parts.into_iter().flatten()) {
        let (name, source) = (policy["name"].as_str().unwrap(), policy["source"].as_str().unwrap());
        let (group, details) = (policy["group"].as_str().unwrap(), output(&["policies", name]));
        assert!(text.contains(&format!("\n  {name} ")) && text.contains(group), "{name}");
        assert!(details.contains(name) && details.contains(source), "{name}");
        for parameter in policy["parameters"].as_array().unwrap() {
            assert!(details.contains(parameter["name"].as_str().unwrap()), "{name}");
        }
    }
    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    for (kind, name) in [("orders", "cold-first"), ("throttles", "auto-converge")] {
        let mut list = json[kind].as_array().unwrap().iter();
        assert!(list.any(|one| one["name"] == name) && text.contains(name), "{name}");
    }
    let assert = precopy(&["policies", "qmeu"]).assert().code(2);
    let errors = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(errors.contains("Did you mean \"qemu\"?"), "{errors}");
    let json: Value = serde_json::from_str(&output(&["trackers", "--json"])).unwrap();
    let works = |trial: &&Value| trial["works"] == true && trial["chosen"] == true;
    assert!(json.as_array().unwrap().iter().any(|trial| works(&trial)), "{json}");
}

/// A pipe that nobody reads any more.
fn nobody() -> Stdio {
    Stdio::from(std::io::pipe().unwrap().1)
}

#[test]
fn what_cannot_be_printed_ends_nothing() {
    let run = |out: Stdio, arguments: &[&str]| {
        let output = Command::new(PRECOPY).args(arguments).stdout(out).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["policies"][..], &["trackers", "--json"]] {
        assert_eq!(run(nobody(), arguments), (Some(0), String::new()), "as with `| head -1`");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, errors) = run(full.into(), arguments);
        assert_eq!(code, Some(6), "{errors}");
        assert!(errors.contains("Could not write to standard output"), "{errors}");
    }
    // A guest that goes from one process whose readers are gone to another one.
    let (mut receiver, address) = Running::receiver(&["--once", "--run-for", "0"]);
    let send = ["send", "--to", &address, "--memory", "16MiB", "--warm-up", "100ms"];
    let mut sender = Command::new(PRECOPY);
    let status = sender.args(send).stdout(nobody()).stderr(nobody()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    receiver.event("taken_over");
    let (mut receiver, address) = Running::receiver(&["--once", "--run-for", "0"]);
    receiver.stop_reading();
    precopy(&["send", "--to", &address, "--memory", "16MiB"]).assert().code(0);
    let (status, _, errors) = receiver.finish();
    assert!(status.success(), "{errors}");
}

/// A file that cannot be written is found before anything is begun; one that was lost afterwards
/// does not look as if no guest had been moved.
#[test]
fn files_beside_a_migration_do_not_decide_about_it() {
    let small = ["send", "--to", "127.0.0.1:1", "--memory", "16MiB"];
    let guest = ["--guest", "counters", "--memory", "16MiB"];
    let demo = [&["demo"][..], &guest].concat();
    let web = ["demo"];
    for (arguments, file, word) in [
        (&small[..], "--report", "Could not write /proc/none/x"),
        (&small, "--events", "Could not create /proc/none/x"),
        (&demo, "--report", "Could not write /proc/none/x"),
        (&web, "--report", "Cannot write to the folder /proc/none/x"),
        (&["paper", "fig2"], "--out", "Cannot write to the folder /proc/none/x"),
        (&["receive", "--listen", "127.0.0.1:0"], "--report", "Could not write /proc/none/x"),
        (&["bench", "downtime"], "--json", "Could not write /proc/none/x"),
    ] {
        let assert = precopy(&[arguments, &[file, "/proc/none/x"]].concat()).assert().code(1);
        let output = assert.get_output();
        let errors = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(errors.contains(word) && output.stdout.is_empty(), "{arguments:?}: {errors}");
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    precopy(&[&small[..], &["--warm-up", "0s", "--report", report.to_str().unwrap()]].concat())
        .assert()
        .code(1);
    assert!(!report.exists(), "there is nothing to tell");
    for file in ["--report", "--events"] {
        let (mut receiver, address) = Running::receiver(&["--once", "--run-for", "0"]);
        let send = ["send", "--to", &address, "--memory", "16MiB", "--warm-up", "100ms"];
        let assert = precopy(&[&send[..], &[file, "/dev/full"]].concat()).assert().code(6);
        let output = assert.get_output();
        let (said, errors) = (&output.stdout, String::from_utf8(output.stderr.clone()).unwrap());
        assert!(String::from_utf8_lossy(said).contains("handed over: the destination runs"));
        assert!(errors.contains("No space left on device"), "{errors}");
        receiver.event("taken_over");
    }
    let (receiver, address) =
        Running::receiver(&["--once", "--run-for", "0", "--report", "/dev/full"]);
    precopy(&["send", "--to", &address, "--memory", "16MiB"]).assert().code(0);
    let (status, out, errors) = receiver.finish();
    assert_eq!(status.code(), Some(6), "{errors}");
    assert!(out.contains("taken_over") && errors.contains("No space left on device"), "{errors}");
}

#[test]
fn help_says_what_the_exit_codes_mean() {
    let help = output(&["--help"]);
    for word in ["Exit codes", "in doubt", "the guest is safe at the source"] {
        assert!(help.contains(word), "{help}");
    }
}

#[test]
fn checks_pass_and_seeds_repeat() {
    let first = output(&["check", "seeds", "--from", "7", "--count", "1", "--verbose"]);
    let line = first.lines().next().unwrap().to_owned();
    assert!(line.starts_with("seed 7:"), "{first}");
    let again = output(&["check", "seeds", "--from", "7", "--count", "1", "--verbose"]);
    assert_eq!(again.lines().next().unwrap(), line);
    assert!(output(&["check", "seeds", "--count", "50"]).contains("Every rule holds"));
    precopy(&["check", "seeds", "--count", "0"]).assert().code(1);
    assert!(output(&["check", "explore", "--world", "pause-fails"]).contains("every rule holds"));
    assert_eq!(
        precopy::sim::seeds::replay_command(7),
        "cargo run --release -- check seeds --from 7 --count 1 --verbose",
        "the command that a failing seed prints is one that exists"
    );
}

/// Whoever tries an example in the source tree finds its trace.
#[test]
fn the_traces_of_the_examples_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for command in [&["simulate"][..], &["predict"], &["trace", "import"]] {
        let assert = precopy(&[command, &["--help"]].concat()).assert().success();
        let help = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        let from = ["--trace ", "import ", "--companion "];
        let named = from.iter().flat_map(|word| help.split(word).skip(1));
        let named = named.filter_map(|rest| rest.split_whitespace().next());
        let named: Vec<&str> = named.filter(|name| name.contains(".trace.zst")).collect();
        assert!(!named.is_empty(), "{command:?}: {help}");
        for name in named {
            assert!(root.join(name).is_file(), "{command:?}: {name}");
        }
    }
}
