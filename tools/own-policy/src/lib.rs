// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How to write a policy of one's own ([`lull`]: under 60 lines), compare it with others in the
//! simulator ([`compare`]), and migrate a live guest with it ([`live`]).
//!
//! `cargo run --release -p own-policy` does both.

pub mod compare;
pub mod live;
pub mod lull;
