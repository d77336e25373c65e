#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# All benches build; the one that needs no quiet machine runs, twice, and must not differ.
# Built with the release profile's settings, so that nothing is compiled twice for it.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_PROFILE_BENCH_LTO=false CARGO_PROFILE_BENCH_CODEGEN_UNITS=16
# The bench targets alone: without the filter every library and program is built once more as a bench.
cargo bench -q --workspace --bench '*' --no-run
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo bench -q --bench rounds -- --json "$out/1.json" | grep -v '^wrote'
cargo bench -q --bench rounds -- --json "$out/2.json" >/dev/null
cmp "$out/1.json" "$out/2.json"
