// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clear at send: rounds by address in which a page's dirty record is cleared just before the page
//! is read, so that a write between the harvest and the reading does not cause another send.
//!
//! For uniform writes that is worth as much as sending continuously (heuristics.md 2.2): of the
//! pages of a round, those wait for the next that were written after they were sent.

use super::{OrderInfo, PageOrder};

pub(super) const INFO: OrderInfo = OrderInfo {
    name: "clear-at-send",
    rule: "rounds by address; a page's dirty record is cleared just before the page is read",
    source: "KVM, KVM_CLEAR_DIRTY_LOG; QEMU, migration/ram.c, migration_clear_memory_region_dirty\
             _bitmap; C. Li on fake dirty pages",
    parameters: &[],
    build: |_| Box::new(ClearAtSend),
};

/// Rounds by address that clear at send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no parameters")]
pub struct ClearAtSend;

impl PageOrder for ClearAtSend {
    fn name(&self) -> &'static str {
        INFO.name
    }

    fn clears_at_send(&self) -> bool {
        true
    }

    fn fork(&self) -> Box<dyn PageOrder> {
        Box::new(*self)
    }
}
