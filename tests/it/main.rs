// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests: one binary, a module for each concern.

mod corpus;
