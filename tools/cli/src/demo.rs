// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `precopy demo`: a live guest moves on this machine, and is checked afterwards.

mod chart;
mod counters;
mod plan;
mod web;

use std::time::Duration;

use crate::args::{DemoArgs, DemoGuest};
use crate::exit::Exit;
use crate::plan::MEMORY_BYTES;

/// Downtime that the demo's policy aims at.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(30);
/// The smallest guest that is worth showing.
const MEMORY_MIN: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    match args.kind {
        DemoGuest::Web => web::run(args),
        DemoGuest::Counters => counters::run(args),
    }
}

/// Memory for a guest that is held twice, in a machine with so much to spare.
fn memory_for(available: Option<u64>) -> u64 {
    let mut memory = MEMORY_BYTES;
    while available.is_some_and(|available| memory * 5 / 2 > available) && memory > MEMORY_MIN {
        memory /= 2;
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_less_where_there_is_less() {
        assert_eq!(memory_for(Some(64 << 30)), 1 << 30);
        assert_eq!(memory_for(Some(2 << 30)), 512 << 20);
        assert_eq!(memory_for(Some(0)), MEMORY_MIN);
        assert_eq!(memory_for(None), 1 << 30);
    }
}
