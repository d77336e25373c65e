#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# All benches build; the one that needs no quiet machine runs, twice, and must not differ.
# In the profile of the tests, from what they have built: their figures count in virtual time alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test -q --bench '*' --no-run
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo test -q --bench rounds -- --json "$out/1.json" | grep -v '^wrote'
cargo test -q --bench rounds -- --json "$out/2.json" >/dev/null
cmp "$out/1.json" "$out/2.json"
