// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A failing seed or world prints a command that replays it. Here: the words of that command;
//! `tools/cli` has the test that runs them.

use precopy::sim::seeds::replay_command;

/// Where `cargo run` without `-p` finds which binary is meant.
const MANIFEST: &str = include_str!("../../tools/cli/Cargo.toml");

#[test]
fn a_seed_names_its_command() {
    let command = replay_command(42);
    assert_eq!(command, "cargo run --release -- check seeds --from 42 --count 1 --verbose");
    assert!(MANIFEST.contains("default-run = \"precopy\""));
}
