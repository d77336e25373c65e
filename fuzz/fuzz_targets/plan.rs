// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Feeds bytes to `lab::tournament::fuzzing::fuzz_plan`.
#![no_main]

use lab::tournament::fuzzing::fuzz_plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzz_plan(data));
