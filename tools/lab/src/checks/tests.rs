// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data that passes each check, and data that fails it.
