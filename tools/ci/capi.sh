#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The C API: the committed header is the one that the sources make; C programs are built against an
# installation, linked both ways, and run: the example with every kind of tracking, everything that
# goes wrong, under valgrind, and with the sanitizers of the C compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in cc c++ pkg-config valgrind; do
    command -v "$tool" >/dev/null ||
        echo "SKIPPED: there is no $tool: a part of the C API is NOT TESTED (tools/ci/setup.sh)"
done
# With what the tests say: a part that is skipped must be seen.
cargo test -q -p precopy-capi -- --nocapture | grep -v '^$'
