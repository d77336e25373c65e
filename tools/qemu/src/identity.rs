// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must be the same at both sides, sent along before the first page: QEMU would notice most
//! of it itself, but only with the guest paused and all of its memory sent.

use precopy::region::RegionTable;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// What a source calls this kind of guest.
const KIND: &str = "qemu ";

/// A machine as its other side must be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Identity {
    /// Version, such as `7.2`: within it, device states are compatible.
    pub version: String,
    /// Machine type.
    pub machine: String,
    /// Whether vCPUs run under KVM: the state of a vCPU differs.
    pub kvm: bool,
    /// vCPUs.
    pub cpus: usize,
    /// Type of the vCPUs.
    pub cpu: String,
    /// Checksum of what the guest sees of their features.
    pub features: u32,
    /// Id of the RAM's backend, by which QEMU's stream names it.
    pub ram: String,
    /// Bytes of RAM.
    pub bytes: u64,
    /// Number of devices, and a checksum of their places and types.
    pub devices: (usize, u32),
}

impl Identity {
    /// Of a machine.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let devices: Vec<_> = machine
            .devices
            .iter()
            .map(|device| format!("{}={}", device.path, device.kind))
            .collect();
        Self {
            version: format!("{}.{}", machine.version.major, machine.version.minor),
            machine: machine.kind.clone(),
            kvm: machine.kvm,
            cpus: machine.cpus,
            cpu: machine.cpu.clone(),
            features: machine.cpu_features,
            ram: machine.ram_id.clone(),
            bytes: machine.ram.as_ref().map_or(0, |ram| ram.bytes),
            devices: (devices.len(), crc32fast::hash(devices.join("\n").as_bytes())),
        }
    }

    /// As a source describes its guest to the destination. A few hundred bytes: ids and types of
    /// QEMU are short, and the engine refuses a description over 1 KiB.
    #[must_use]
    pub fn describe(&self) -> String {
        // Plain data has no value that JSON lacks.
        format!("{KIND}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a description; in words, why it is none.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(guest: &str) -> Result<Self, String> {
        let text = guest.strip_prefix(KIND);
        text.and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| format!("this destination takes a QEMU's guest, not {guest:?}"))
    }

    /// Everything in which the source's machine (`theirs`) differs from this one at the
    /// destination, in words; empty if nothing does.
    #[must_use]
    pub fn differences(&self, theirs: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |what: &str, theirs: &str, ours: &str| {
            if theirs != ours {
                all.push(format!("{what} is {theirs} at the source and {ours} here"));
            }
        };
        let accelerator = |kvm| if kvm { "KVM" } else { "TCG" };
        compare("QEMU's version", &theirs.version, &self.version);
        compare("the machine type", &theirs.machine, &self.machine);
        compare("the accelerator", accelerator(theirs.kvm), accelerator(self.kvm));
        compare("the number of vCPUs", &theirs.cpus.to_string(), &self.cpus.to_string());
        compare("the vCPU type", &theirs.cpu, &self.cpu);
        compare("the RAM's id", &theirs.ram, &self.ram);
        compare("the RAM's size in bytes", &theirs.bytes.to_string(), &self.bytes.to_string());
        if theirs.cpu == self.cpu && theirs.features != self.features {
            all.push("the vCPUs have other features here (-cpu, or another processor)".to_owned());
        }
        if theirs.machine == self.machine && theirs.devices != self.devices {
            all.push(format!(
                "the devices differ ({} at the source, {} here): start both QEMUs with the same \
                 options; `precopy qemu inspect` lists them",
                theirs.devices.0, self.devices.0
            ));
        }
        all
    }

    /// Whether a memory map is this machine's RAM.
    #[must_use]
    pub fn fits(&self, regions: &RegionTable) -> bool {
        regions.regions().len() == 1 && regions.bytes() == self.bytes
    }
}

#[cfg(test)]
mod tests {
    use precopy::units::PageSize;

    use super::*;

    fn identity() -> Identity {
        Identity {
            version: "7.2".to_owned(),
            machine: "pc-q35-7.2-machine".to_owned(),
            kvm: false,
            cpus: 2,
            cpu: "qemu64-x86_64-cpu".to_owned(),
            features: 7,
            ram: "ram".to_owned(),
            bytes: 512 << 20,
            devices: (3, 9),
        }
    }

    #[test]
    fn a_description_comes_back() {
        let text = identity().describe();
        assert!(text.len() < 512, "{} bytes", text.len());
        assert_eq!(Identity::parse(&text), Ok(identity()));
        for other in ["webvm vcpus=2", "qemu", "qemu {}", "qemu {\"version\": 7}"] {
            assert!(Identity::parse(other).is_err(), "{other}");
        }
    }

    #[test]
    fn every_difference_is_named() {
        let ours = identity();
        assert!(ours.differences(&identity()).is_empty());
        let differs = |text: &str, change: fn(&mut Identity)| {
            let mut theirs = identity();
            change(&mut theirs);
            let found = ours.differences(&theirs);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(text), "{found:?}");
        };
        differs("version is 8.0", |i| "8.0".clone_into(&mut i.version));
        differs("machine type", |i| "pc-i440fx-7.2-machine".clone_into(&mut i.machine));
        differs("KVM at the source", |i| i.kvm = true);
        differs("number of vCPUs is 3", |i| i.cpus = 3);
        differs("vCPU type", |i| "max-x86_64-cpu".clone_into(&mut i.cpu));
        differs("other features", |i| i.features = 8);
        differs("id is pc.ram", |i| "pc.ram".clone_into(&mut i.ram));
        differs("size in bytes is 4096", |i| i.bytes = 4096);
        differs("devices differ", |i| i.devices.1 = 1);
    }

    #[test]
    fn only_one_region_of_the_same_size_fits() {
        let table = |pages| RegionTable::single(PageSize::BASE, pages).unwrap();
        assert!(identity().fits(&table(131_072)));
        assert!(!identity().fits(&table(131_071)));
    }
}
