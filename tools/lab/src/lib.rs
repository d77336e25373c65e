// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Experiments on the test guest: the figures and tables of the paper, predictions of what a
//! migration will cost, comparisons with recorded guests, and the reports of all of them.

#![cfg_attr(
    test,
    allow(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::too_many_lines,
        clippy::unwrap_used
    )
)]

pub mod checks;
pub mod live;
pub mod paper;
pub mod predict;
pub mod report;
pub mod stats;
pub mod tournament;
pub mod traces;
pub mod validate;
