#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Replays the fuzz corpora on a stable compiler. Part of `cargo test` too; this runs just it.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Selected as in tools/ci/test.sh, so that nothing is built again.
tools/ci/with-tests cargo test -q --test it -- corpus plans
