// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration of a guest will cost, before it is begun.
