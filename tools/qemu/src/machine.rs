// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a QEMU is: found out through QMP and `/proc`, changed by nothing here.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::QemuError;
use crate::process::{QemuProcess, process_of_thread};
use crate::qmp::{Qmp, QmpError, Version};
use crate::ram::Ram;

/// The capability by which QEMU leaves shared RAM out of a migration.
pub(crate) const IGNORE_SHARED: &str = "x-ignore-shared";
/// Most devices that are listed.
const DEVICES_MAX: usize = 4096;

/// A memory backend, as `query-memdev` tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Backend {
    /// Its id; absent only for backends that nobody named.
    #[serde(default)]
    pub id: String,
    /// Its bytes.
    pub size: u64,
    /// Whether it is mapped shared.
    #[serde(default)]
    pub share: bool,
    /// `memory-backend-file`, `memory-backend-memfd`, `memory-backend-ram`, ...
    #[serde(skip_deserializing)]
    pub kind: String,
}

/// A device: where it hangs, and of what type it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Device {
    /// Path below `/machine`: `peripheral/net0`, `unattached/device[3]`.
    pub path: String,
    /// Its type: `virtio-net-pci`, ...
    pub kind: String,
}

/// What a QEMU said about itself, and what the system says about its process.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Machine {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: Version,
    /// Its run state: `running`, `paused`, `inmigrate`, `postmigrate`, ...
    pub status: String,
    /// Its machine type: `pc-q35-7.2-machine`, ...
    pub kind: String,
    /// Whether vCPUs run under KVM.
    pub kvm: bool,
    /// vCPUs.
    pub cpus: usize,
    /// Their type: `qemu64-x86_64-cpu`, ...
    pub cpu: String,
    /// What the guest sees of its processor's features, as a checksum; 0 if QEMU does not tell.
    pub cpu_features: u32,
    /// The backend that is the machine's RAM.
    pub ram_id: String,
    /// All memory backends.
    pub backends: Vec<Backend>,
    /// The machine's RAM as a file in QEMU, if it can be one.
    pub ram: Option<Ram>,
    /// Why it cannot, in words.
    pub ram_problem: Option<String>,
    /// Devices, in QEMU's order.
    pub devices: Vec<Device>,
    /// DIMMs and the like: memory that came by hotplug or may.
    pub memory_devices: usize,
    /// Kernel drivers and back-ends that write guest memory past QEMU: files that it has open
    /// (`/dev/vhost-net`), network back-ends (`vhost-user`).
    pub past_qemu: Vec<String>,
    /// State of QEMU's own last migration; empty if there was none.
    pub migration: String,
    /// What QEMU itself says forbids a migration.
    pub blocked: Vec<String>,
    /// Capabilities of migration that this QEMU knows and that are on.
    pub capabilities_on: Vec<String>,
    /// Whether it can leave shared RAM out of its own migration.
    pub ignores_shared: bool,
    /// Bytes of other memory (video memory, ROMs), which travels with the device state.
    pub other_memory_bytes: u64,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cpu {
    thread_id: u32,
    qom_path: String,
}

#[derive(Deserialize)]
struct Property {
    name: String,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Migration {
    #[serde(default)]
    status: String,
    /// Told by whoever sends only.
    total_time: Option<u64>,
    #[serde(default)]
    blocked_reasons: Vec<String>,
}

/// A capability of migration.
#[derive(Deserialize)]
pub(crate) struct Capability {
    pub(crate) capability: String,
    pub(crate) state: bool,
}

/// The run state, as `query-status` tells.
pub(crate) fn status(qmp: &mut Qmp) -> Result<String, QmpError> {
    qmp.ask::<Status>("query-status", Value::Null).map(|status| status.status)
}

/// The state of QEMU's own migration; empty if there was none.
pub(crate) fn migration_status(qmp: &mut Qmp) -> Result<String, QmpError> {
    qmp.ask::<Migration>("query-migrate", Value::Null).map(|migration| migration.status)
}

/// Whether QEMU's last migration brought a guest here.
pub(crate) fn has_arrived(qmp: &mut Qmp) -> Result<bool, QmpError> {
    let migration: Migration = qmp.ask("query-migrate", Value::Null)?;
    Ok(migration.status == "completed" && migration.total_time.is_none())
}

/// Whether a migration in this state is under way (`MigrationStatus` in QEMU's
/// `qapi/migration.json`).
pub(crate) fn is_under_way(migration: &str) -> bool {
    !matches!(migration, "" | "none" | "completed" | "failed" | "cancelled")
}

impl Machine {
    /// Asks a QEMU for everything, and finds its process.
    ///
    /// # Errors
    /// [`QemuError`]: what it says cannot be understood, or its process cannot be looked at.
    pub fn look(qmp: &mut Qmp) -> Result<(Self, QemuProcess), QemuError> {
        let cpus: Vec<Cpu> = qmp.ask("query-cpus-fast", Value::Null)?;
        let process = find_process(qmp, &cpus)?;
        let migration: Migration = qmp.ask("query-migrate", Value::Null)?;
        let capabilities: Vec<Capability> = qmp.ask("query-migrate-capabilities", Value::Null)?;
        let cpu = cpus.first().map(|cpu| cpu.qom_path.clone()).unwrap_or_default();
        let features = get(qmp, &cpu, "feature-words").unwrap_or_default();
        let ram_path = get(qmp, "/machine", "memory-backend").unwrap_or_default();
        let ram_path = ram_path.as_str().unwrap_or_default();
        let backends = backends(qmp)?;
        let ram_id = ram_path.rsplit('/').next().unwrap_or_default().to_owned();
        let (ram, ram_problem) = match Ram::find(qmp, &process, ram_path, &ram_id, &backends) {
            Ok(ram) => (Some(ram), None),
            Err(problem) => (None, Some(problem)),
        };
        let machine = Self {
            pid: process.pid(),
            version: qmp.version(),
            status: status(qmp)?,
            kind: text(get(qmp, "/machine", "type")),
            kvm: qmp
                .execute("query-kvm", Value::Null)
                .is_ok_and(|kvm| kvm["enabled"].as_bool() == Some(true)),
            cpus: cpus.len(),
            cpu: text(get(qmp, &cpu, "type")),
            cpu_features: match &features {
                Value::Null => 0,
                words => crc32fast::hash(words.to_string().as_bytes()),
            },
            ram_id,
            backends,
            ram,
            ram_problem,
            devices: devices(qmp)?,
            memory_devices: qmp.ask::<Vec<Value>>("query-memory-devices", Value::Null)?.len(),
            past_qemu: past_qemu(qmp, &process)?,
            migration: migration.status,
            blocked: migration.blocked_reasons,
            ignores_shared: capabilities.iter().any(|c| c.capability == IGNORE_SHARED),
            capabilities_on: capabilities
                .into_iter()
                .filter(|capability| capability.state)
                .map(|capability| capability.capability)
                .collect(),
            other_memory_bytes: other_memory(qmp),
        };
        Ok((machine, process))
    }

    /// Whether the guest can give memory back. QEMU then punches holes into the RAM file, which
    /// the kernel does not report as writes (seen with Linux 6.18): the destination keeps the old
    /// bytes. The guest may not rely on any (virtio 1.2, section 5.5.6), but digests differ.
    #[must_use]
    pub fn has_balloon(&self) -> bool {
        self.devices.iter().any(|device| device.kind.starts_with("virtio-balloon"))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "QEMU {} (process {}), {}, {} vCPU{} {} under {}, {}",
            self.version,
            self.pid,
            self.kind,
            self.cpus,
            if self.cpus == 1 { "" } else { "s" },
            self.cpu,
            if self.kvm { "KVM" } else { "TCG" },
            self.status,
        )
    }
}

/// The process that is QEMU: the one that listens, if it has the vCPUs' threads; otherwise (the
/// socket was opened by a manager, which handed it down) the one that has them.
fn find_process(qmp: &Qmp, cpus: &[Cpu]) -> Result<QemuProcess, QemuError> {
    let has_all = |process: &QemuProcess| cpus.iter().all(|cpu| process.has_thread(cpu.thread_id));
    let owner = cpus.first().and_then(|cpu| process_of_thread(cpu.thread_id).ok());
    for pid in qmp.peer_pid().into_iter().chain(owner) {
        if let Ok(process) = QemuProcess::open(pid)
            && has_all(&process)
        {
            return Ok(process);
        }
    }
    Err(QemuError::NoProcess { path: qmp.path().to_owned(), listener: qmp.peer_pid() })
}

/// A property of an object; an error if there is none.
pub(crate) fn get(qmp: &mut Qmp, path: &str, property: &str) -> Result<Value, QmpError> {
    qmp.execute("qom-get", json!({ "path": path, "property": property }))
}

fn text(value: Result<Value, QmpError>) -> String {
    value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn list(qmp: &mut Qmp, path: &str) -> Result<Vec<(String, String)>, QmpError> {
    let all: Vec<Property> = qmp.ask("qom-list", json!({ "path": path }))?;
    let child = |property: Property| {
        let kind = property.r#type.strip_prefix("child<")?.strip_suffix('>')?.to_owned();
        Some((property.name, kind))
    };
    Ok(all.into_iter().filter_map(child).collect())
}

fn backends(qmp: &mut Qmp) -> Result<Vec<Backend>, QmpError> {
    let mut backends: Vec<Backend> = qmp.ask("query-memdev", Value::Null)?;
    for (name, kind) in list(qmp, "/objects")? {
        if let Some(backend) = backends.iter_mut().find(|backend| backend.id == name) {
            backend.kind = kind;
        }
    }
    backends.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(backends)
}

fn devices(qmp: &mut Qmp) -> Result<Vec<Device>, QmpError> {
    let mut devices = Vec::new();
    for place in ["peripheral", "peripheral-anon", "unattached"] {
        for (name, kind) in list(qmp, &format!("/machine/{place}"))? {
            // Beside devices, `unattached` holds memory regions and interrupt lines.
            if (place != "unattached" || name.starts_with("device[")) && devices.len() < DEVICES_MAX
            {
                devices.push(Device { path: format!("{place}/{name}"), kind });
            }
        }
    }
    Ok(devices)
}

/// Who writes guest memory without QEMU's mapping of it.
fn past_qemu(qmp: &mut Qmp, process: &QemuProcess) -> Result<Vec<String>, QemuError> {
    let files = process.open_files().map_err(|source| QemuError::Process {
        what: "look at the open files of",
        pid: process.pid(),
        source,
    })?;
    let escapes = ["/dev/vhost-", "/dev/vfio/", "/dev/vdpa", "/dev/iommu"];
    let mut found: Vec<String> = files
        .iter()
        .filter_map(|file| file.to_str())
        .filter(|file| escapes.iter().any(|start| file.starts_with(start)))
        .map(str::to_owned)
        .collect();
    let network = monitor(qmp, "info network");
    let kinds = ["vhost-user", "vhost-vdpa"];
    found.extend(
        kinds
            .iter()
            .filter(|kind| network.contains(&format!("type={kind}")))
            .map(|kind| format!("network back-end {kind}")),
    );
    found.sort();
    found.dedup();
    Ok(found)
}

/// What the human monitor says; nothing if it will not.
fn monitor(qmp: &mut Qmp, line: &str) -> String {
    text(qmp.execute("human-monitor-command", json!({ "command-line": line })))
}

/// RAM blocks beside the machine's RAM are small unless there is a graphics card; there is no
/// command for machines that tells.
fn other_memory(qmp: &mut Qmp) -> u64 {
    let used = |line: &str| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("0x"))
            .filter_map(|digits| u64::from_str_radix(digits, 16).ok())
            .collect();
        // Offset, used, total.
        (numbers.len() >= 3).then(|| numbers[1])
    };
    let blocks: Vec<u64> = monitor(qmp, "info ramblock").lines().filter_map(used).collect();
    let largest = blocks.iter().max().copied().unwrap_or(0);
    blocks.iter().sum::<u64>().saturating_sub(largest)
}
