// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What forbids a migration of a QEMU, in words, with what to do about it.

use serde::Serialize;

use crate::machine::{Machine, is_under_way};
use crate::ram::ADVICE;

/// Most bytes of other memory that travel with the device state; they would be sent while the
/// guest stands still, and the state as a whole is bounded.
const OTHER_MEMORY_MAX: u64 = 128 << 20;

/// Types of devices that write guest memory past QEMU, or have memory of their own that is not
/// the machine's RAM.
const DEVICES: &[(&str, &str)] = &[
    ("vfio-", "its hardware writes guest memory past every tracker"),
    ("vhost-", "its other process or the kernel writes guest memory past QEMU"),
    ("virtio-mem", "memory that comes and goes cannot be moved"),
    ("virtio-pmem", "its memory is not part of the machine's RAM"),
    ("nvdimm", "its memory is not part of the machine's RAM"),
    ("pc-dimm", "memory hotplug cannot be moved"),
    ("ivshmem", "its memory is not part of the machine's RAM"),
    ("cxl-type3", "its memory is not part of the machine's RAM"),
    ("sgx-epc", "its memory cannot be read"),
];

/// Capabilities of QEMU's migration under which its device state cannot travel as bytes.
const CAPABILITIES: &[&str] = &[
    "x-colo",
    "multifd",
    "postcopy-ram",
    "background-snapshot",
    "block",
    "pause-before-switchover",
];

/// One reason against it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Obstacle {
    /// What is in the way, and what to do.
    pub text: String,
}

/// A side of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a migration has two sides")]
pub enum Role {
    /// The guest runs here.
    Source,
    /// The guest comes here.
    Destination,
}

impl Role {
    /// What it is about to do.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Source => "send its guest",
            Self::Destination => "receive a guest",
        }
    }
}

impl Machine {
    /// Everything that forbids this QEMU to play its part; empty if nothing does.
    #[must_use]
    pub fn obstacles(&self, role: Role) -> Vec<Obstacle> {
        let mut all = Vec::new();
        all.extend(self.wrong_status(role));
        if is_under_way(&self.migration) {
            all.push(format!(
                "a migration of its own is under way ({}); wait for its end or cancel it",
                self.migration
            ));
        }
        all.extend(self.blocked.iter().map(|why| format!("QEMU says: {why}")));
        all.extend(self.ram_problem.clone());
        if self.backends.len() > 1 {
            let ids: Vec<_> = self.backends.iter().map(|backend| &*backend.id).collect();
            all.push(format!(
                "it has several memory backends ({}); one that is all of its RAM can be moved",
                ids.join(", ")
            ));
        }
        if self.memory_devices > 0 {
            all.push(format!("it has {} memory devices (hotplug)", self.memory_devices));
        }
        for device in &self.devices {
            let known = DEVICES.iter().find(|(start, _)| device.kind.starts_with(start));
            if let Some((_, why)) = known {
                all.push(format!("{} is a {}: {why}", device.path, device.kind));
            }
        }
        let past = |who: &String| format!("{who} writes guest memory past QEMU (use vhost=off)");
        all.extend(self.past_qemu.iter().map(past));
        if !self.ignores_shared {
            all.push("this QEMU does not know x-ignore-shared; it needs 4.0 or later".to_owned());
        }
        let on = |name: &&String| CAPABILITIES.contains(&name.as_str());
        for name in self.capabilities_on.iter().filter(on) {
            all.push(format!(
                "the migration capability {name} is on; turn it off (migrate-set-capabilities)"
            ));
        }
        if self.other_memory_bytes > OTHER_MEMORY_MAX {
            all.push(format!(
                "{} MiB of video memory and the like would have to be sent while the guest stands \
                 still; at most {} MiB are",
                self.other_memory_bytes >> 20,
                OTHER_MEMORY_MAX >> 20
            ));
        }
        all.into_iter().map(|text| Obstacle { text }).collect()
    }

    fn wrong_status(&self, role: Role) -> Option<String> {
        let status = &*self.status;
        match (role, status) {
            (Role::Source, "running") | (Role::Destination, "inmigrate") => None,
            (Role::Source, "postmigrate") => Some(
                "it has handed a guest over and may not run it again; if that is not so, \
                 `precopy qemu release` says how it goes on"
                    .to_owned(),
            ),
            (Role::Source, _) => Some(format!(
                "it is not running but {status}; start it (cont), or see `precopy qemu release`"
            )),
            (Role::Destination, _) => Some(format!(
                "it does not wait for a guest but is {status}; start one with -incoming defer and \
                 {}",
                ADVICE.strip_prefix("start QEMU with ").unwrap_or(ADVICE)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Backend, Device};

    fn machine() -> Machine {
        let version = serde_json::json!({ "major": 7, "minor": 2, "micro": 22 });
        Machine {
            pid: 1,
            version: serde_json::from_value(version).unwrap(),
            status: "running".to_owned(),
            kind: "pc-q35-7.2-machine".to_owned(),
            kvm: false,
            cpus: 1,
            cpu: "qemu64-x86_64-cpu".to_owned(),
            cpu_features: 0,
            ram_id: "ram".to_owned(),
            backends: Vec::new(),
            ram: None,
            ram_problem: None,
            devices: Vec::new(),
            memory_devices: 0,
            past_qemu: Vec::new(),
            migration: String::new(),
            blocked: Vec::new(),
            capabilities_on: Vec::new(),
            ignores_shared: true,
            other_memory_bytes: 0,
        }
    }

    /// What one change to a fine machine is answered with.
    #[track_caller]
    fn refuses(role: Role, text: &str, change: impl FnOnce(&mut Machine)) {
        let mut machine = machine();
        if role == Role::Destination {
            "inmigrate".clone_into(&mut machine.status);
        }
        assert_eq!(machine.obstacles(role), [], "before the change");
        change(&mut machine);
        let found = machine.obstacles(role);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].text.contains(text), "{}", found[0].text);
    }

    #[test]
    fn each_obstacle_is_found_and_named() {
        let source = Role::Source;
        refuses(source, "paused", |m| "paused".clone_into(&mut m.status));
        refuses(source, "handed a guest over", |m| "postmigrate".clone_into(&mut m.status));
        refuses(source, "under way", |m| "active".clone_into(&mut m.migration));
        refuses(source, "not migratable", |m| m.blocked.push("x is not migratable".to_owned()));
        refuses(source, "share=off", |m| m.ram_problem = Some("share=off".to_owned()));
        refuses(source, "a, b", |m| {
            for id in ["a", "b"] {
                let (id, kind) = (id.to_owned(), String::new());
                m.backends.push(Backend { id, size: 1, share: true, kind });
            }
        });
        refuses(source, "hotplug", |m| m.memory_devices = 1);
        for kind in ["vfio-pci", "vhost-user-fs-pci", "virtio-mem-pci", "pc-dimm", "ivshmem-plain"]
        {
            refuses(source, kind, |m| {
                m.devices.push(Device { path: "x".to_owned(), kind: kind.to_owned() });
            });
        }
        refuses(source, "vhost=off", |m| m.past_qemu.push("/dev/vhost-net".to_owned()));
        refuses(source, "4.0", |m| m.ignores_shared = false);
        refuses(source, "multifd", |m| m.capabilities_on.push("multifd".to_owned()));
        refuses(source, "MiB", |m| m.other_memory_bytes = 200 << 20);
        let destination = Role::Destination;
        refuses(destination, "-incoming defer", |m| "running".clone_into(&mut m.status));
        refuses(destination, "under way", |m| "setup".clone_into(&mut m.migration));
    }

    #[test]
    fn what_is_harmless_is_no_obstacle() {
        let mut machine = machine();
        "completed".clone_into(&mut machine.migration);
        machine.capabilities_on = vec!["events".to_owned(), "return-path".to_owned()];
        machine
            .devices
            .push(Device { path: "peripheral/net0".to_owned(), kind: "virtio-net-pci".to_owned() });
        machine.other_memory_bytes = 17 << 20;
        assert!(!machine.has_balloon());
        let kind = "virtio-balloon-pci".to_owned();
        machine.devices.push(Device { path: "peripheral/balloon0".to_owned(), kind });
        assert_eq!(machine.obstacles(Role::Source), []);
        assert!(machine.has_balloon());
    }
}
