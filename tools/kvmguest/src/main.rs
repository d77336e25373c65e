// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `kvmguest` command: runs a small KVM guest and migrates it between processes.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use command::Exit;

use cli::args::{Args, Command};
use cli::{demo, host, record};

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Send(args) => host::send(&args),
        Command::Receive(args) => host::receive(&args),
        Command::Record(args) => record::run(&args),
    };
    let exit = done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::Failed
    });
    exit.into()
}
