// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System calls: the only place with `unsafe`.

pub(crate) mod socket;
