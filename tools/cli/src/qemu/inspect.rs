// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy qemu inspect`: what a QEMU is, and what forbids its migration.

use anyhow::Context;
use qemu::machine::Machine;
use qemu::obstacle::{Obstacle, Role};
use qemu::qmp::Qmp;

use crate::args::InspectArgs;
use crate::exit::Exit;
use crate::show;

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<Exit> {
    let mut qmp = Qmp::connect(&args.qmp)?;
    let (machine, _) = Machine::look(&mut qmp).context("This QEMU cannot be looked at")?;
    let sides = [Role::Source, Role::Destination].map(|role| (role, machine.obstacles(role)));
    if args.json {
        let [source, destination] = sides.clone().map(|(_, obstacles)| obstacles);
        let document = serde_json::json!({
            "machine": machine,
            "source": { "possible": source.is_empty(), "obstacles": source },
            "destination": { "possible": destination.is_empty(), "obstacles": destination },
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print(&machine, &sides);
    }
    let possible = sides.iter().any(|(_, obstacles)| obstacles.is_empty());
    Ok(if possible { Exit::Done } else { Exit::Failed })
}

fn print(machine: &Machine, sides: &[(Role, Vec<Obstacle>)]) {
    println!("{machine}");
    match &machine.ram {
        Some(ram) => println!(
            "RAM      {} in {} ({}, {}), at {:#x} in QEMU",
            show::bytes(ram.bytes),
            ram.file,
            ram.id,
            ram.kind,
            ram.addresses.start,
        ),
        None => println!("RAM      cannot be moved"),
    }
    println!("other    {} travel with the device state", show::bytes(machine.other_memory_bytes));
    let own = |device: &&qemu::machine::Device| device.path.starts_with("peripheral");
    let (own, built_in): (Vec<_>, Vec<_>) = machine.devices.iter().partition(own);
    println!("devices  {} built in", built_in.len());
    for device in own {
        println!("         {} ({})", device.path, device.kind);
    }
    if !machine.migration.is_empty() {
        println!("QEMU's own last migration: {}", machine.migration);
    }
    for (role, obstacles) in sides {
        if obstacles.is_empty() {
            println!("It can {}.", role.verb());
        } else {
            println!("It cannot {}:", role.verb());
        }
        for obstacle in obstacles {
            println!("  - {}", obstacle.text);
        }
    }
}
