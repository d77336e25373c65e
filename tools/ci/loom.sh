#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Model-checks the lock-free code: every interleaving of the small worlds in tools/loom, under the
# memory model rather than this processor's. The target is named, for what runs in the compiler
# (macros) to be built without the flag, which is done already. Of the rest only the checker is
# optimised: building takes longer than checking.
set -eu
cd "$(dirname "$0")/../.."
RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}" tools/ci/with-tests \
    cargo test --lib -p loom-models --target "$(rustc --print host-tuple)" \
    --config profile.test.opt-level=0 --config profile.test.package.precopy.opt-level=0 \
    --config profile.test.package.loom.opt-level=1 "$@"
