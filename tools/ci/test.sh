#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the README says, and once more for what only the optional features compile.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test -q
# Not a default member: `cargo run` would have two programs to choose from.
cargo test -q -p own-policy
tools/ci/with-tests cargo test -q -p precopy --lib --all-features -- vm_memory kvm
