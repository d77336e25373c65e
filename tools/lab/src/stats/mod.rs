// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Statistics that the checks of the model need.
