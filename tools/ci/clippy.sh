#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo clippy -q --workspace --all-targets --all-features -- -D warnings
