#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Every order of events in the small worlds, then random worlds by seed.
#
#   tools/ci/explorer.sh [SEEDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
seeds=${1:-20000}
cargo run -q --release -- check explore
cargo run -q --release -- check seeds --from 0 --count "$seeds"
