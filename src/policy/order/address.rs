// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rounds in the order of addresses (QEMU, Cloud Hypervisor).

use super::{OrderInfo, PageOrder};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "address",
    rule: "rounds: everything that a harvest reported, by address, then the next harvest",
    source: "QEMU, migration/ram.c, ram_find_and_save_block; Cloud Hypervisor, vmm/src/lib.rs",
    parameters: &[],
    build: |_| Box::new(Address),
};

/// Rounds in the order of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no parameters")]
pub struct Address;

impl PageOrder for Address {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(*self)
    }
}
