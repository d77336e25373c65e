// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The network between users and guest: a switch that holds the users' connections and follows
//! the guest from host to host.
