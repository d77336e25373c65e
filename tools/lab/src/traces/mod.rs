// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty-page traces of real guests, and their working sets.
