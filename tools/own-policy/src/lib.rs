// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How to write a policy of one's own ([`lull`]: under 60 lines), compare it with others in the
//! simulator ([`compare`]), let it play in a tournament ([`tournament`]), and migrate a live guest
//! with it ([`live`]).
//!
//! `cargo run --release -p own-policy` does all three.

pub mod compare;
pub mod live;
pub mod lull;
pub mod tournament;
