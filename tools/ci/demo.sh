#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The README's first command, word for word: a second program in the default members, or a demo
# that fails on this machine, shows here.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo run --release -- demo | tee "$out"
grep -q ': handed over: ' "$out"
grep -q '; 0 dropped, reset or wrong' "$out"
grep -q ': all as promised' "$out"
