#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Model-checks the lock-free code: every interleaving of the small worlds in the `loom_*` tests,
# under the memory model rather than this processor's. Own target folder, because the flag changes
# every dependency; optimised little, because building takes longer than checking.
set -eu
cd "$(dirname "$0")/../.."
RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" \
    CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_TEST_DEBUG=false \
    tools/ci/with-tests cargo test -p precopy --lib loom "$@"
