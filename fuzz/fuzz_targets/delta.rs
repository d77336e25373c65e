// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Feeds bytes to `precopy::fuzzing::fuzz_delta`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use precopy::fuzzing;

fuzz_target!(|data: &[u8]| fuzzing::fuzz_delta(data));
