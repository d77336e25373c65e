// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The oracles against searches, closed forms and the production session.

mod clairvoyant;
mod closed_forms;
mod costs;
mod delta;
mod strategies;
