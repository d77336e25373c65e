// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu`: live migration of an unmodified QEMU.

mod guard;
mod inspect;
mod receive;
mod release;
mod send;

use std::path::Path;

use anyhow::Context;
use qemu::QemuError;
use qemu::machine::Machine;
use qemu::obstacle::Role;
use qemu::process::QemuProcess;
use qemu::qmp::Qmp;

use crate::args::{QemuArgs, QemuCommand};
use crate::exit::Exit;

/// Runs the command.
pub(crate) fn run(args: &QemuArgs) -> anyhow::Result<Exit> {
    match &args.command {
        QemuCommand::Inspect(args) => inspect::run(args),
        QemuCommand::Send(args) => send::run(args),
        QemuCommand::Receive(args) => receive::run(args),
        QemuCommand::Release(args) => release::run(args),
        QemuCommand::Guard(args) => guard::run(args),
    }
}

/// A QEMU that can play its part.
fn machine(socket: &Path, role: Role) -> anyhow::Result<(Qmp, Machine, QemuProcess)> {
    let mut qmp = Qmp::connect(socket)?;
    let looked = Machine::look(&mut qmp);
    let (machine, process) = looked.context("This QEMU cannot be looked at")?;
    let obstacles = machine.obstacles(role);
    if !obstacles.is_empty() {
        return Err(QemuError::Forbidden { role: role.verb(), obstacles }.into());
    }
    Ok((qmp, machine, process))
}
