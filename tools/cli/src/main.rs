// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `precopy` command: migrate live guests between processes, check the engine, measure it.

// First: its macros are for all that follow.
#[macro_use]
mod out;

mod advice;
mod args;
mod ask;
mod bench;
mod check;
mod demo;
mod document;
mod exit;
mod guest;
mod lines;
mod paper;
mod parse;
mod peer;
mod plan;
mod policies;
mod predict;
mod progress;
mod qemu;
mod receive;
mod send;
mod shadows;
mod show;
mod simulate;
mod site;
mod source;
mod spectator;
mod system;
mod tournament;
mod trace;
mod trackers;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Receive(args) => receive::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Policies(args) => policies::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Trackers(args) => trackers::run(&args),
        Command::Paper(args) => paper::run(&args),
        Command::Tournament(args) => tournament::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Qemu(args) => qemu::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::CopySink(args) => bench::copy::sink(&args),
        Command::Host(args) => paper::host(&args),
    };
    out::finish(result.unwrap_or_else(|error| exit::report(&error))).into()
}
