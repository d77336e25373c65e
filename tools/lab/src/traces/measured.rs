// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Figures of a recording that is too large to ship: "q300" of workload.md, 2.3.

use serde::Serialize;

/// Distinct pages written in a window of so many operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a point of a curve")]
pub struct OpsPoint {
    /// Operations in the window.
    pub operations: u32,
    /// Distinct pages of 4 KiB.
    pub pages: u64,
}

/// Users of the recording.
pub const USERS: u32 = 300;

/// A whole guest (Linux, Apache, PHP, Olio) with 300 users, as windows counted in operations,
/// which takes the emulator's slow clock out (workload.md, 2.3, first table).
pub const Q300: [OpsPoint; 5] = [
    OpsPoint { operations: 41, pages: 22_461 },
    OpsPoint { operations: 82, pages: 32_962 },
    OpsPoint { operations: 164, pages: 49_672 },
    OpsPoint { operations: 312, pages: 72_669 },
    OpsPoint { operations: 623, pages: 102_570 },
];

/// Distinct pages of q300 in a window of `operations`: between the measured points along a
/// straight line in logarithms, which the power law of workload.md 2.3 is. Nothing outside of
/// them.
#[must_use]
pub fn q300(operations: f64) -> Option<f64> {
    Q300.windows(2).find_map(|pair| {
        let [(x0, y0), (x1, y1)] =
            [pair[0], pair[1]].map(|p| (f64::from(p.operations), p.pages as f64));
        (x0..=x1).contains(&operations).then(|| {
            let part = (operations / x0).ln() / (x1 / x0).ln();
            y0 * (y1 / y0).powf(part)
        })
    })
}
