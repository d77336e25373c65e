#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Known faults, planted one by one: the tests must notice each.
set -euo pipefail
cd "$(dirname "$0")/../.."
# One crate is built again and again with a few lines changed.
CARGO_INCREMENTAL=1 tools/planted-faults/run.sh "$@"
