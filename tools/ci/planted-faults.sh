#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Known faults, planted one by one: the tests must notice each.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools/planted-faults/run.sh "$@"
