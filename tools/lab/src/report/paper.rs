// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The paper's numbers: Voorsluys, Broberg, Venugopal, Buyya, "Cost of Virtual Machine Live
//! Migration in Clouds: A Performance Evaluation", 2009.

use webvm::site::Action;

/// The paper, as a report cites it.
pub const CITATION: &str = "W. Voorsluys, J. Broberg, S. Venugopal, R. Buyya: Cost of Virtual \
     Machine Live Migration in Clouds: A Performance Evaluation. CloudCom 2009";

/// Loads of Table 2 in its order, users.
pub const TABLE2_USERS: [u32; 5] = [500, 400, 300, 200, 100];

/// Table 2: largest 99th percentile, s; a row per action in the order of [`Action::ALL`], a
/// column per load in the order of [`TABLE2_USERS`].
pub const TABLE2_S: [[f64; 5]; 7] = [
    [0.32, 0.18, 0.25, 0.25, 0.13],
    [0.32, 0.33, 0.42, 0.28, 0.14],
    [0.46, 0.32, 0.35, 0.39, 0.29],
    [0.48, 0.27, 0.22, 0.24, 0.14],
    [1.53, 0.62, 0.69, 0.61, 0.32],
    [2.28, 1.00, 1.51, 1.73, 0.66],
    [2.26, 1.02, 1.30, 1.81, 0.98],
];

/// The paper's cell of Table 2, s; `None` for a load that it does not list.
#[must_use]
pub fn table2_s(action: Action, users: u32) -> Option<f64> {
    let column = TABLE2_USERS.iter().position(|&listed| listed == users)?;
    TABLE2_S.get(action.index())?.get(column).copied()
}

/// Limit of the service level for an action, s (Table 1).
#[must_use]
pub fn limit_s(action: Action) -> f64 {
    action.limit().as_secs_f64()
}
