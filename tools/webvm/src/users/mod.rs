// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The users of the site, as a state machine without clock or socket.
