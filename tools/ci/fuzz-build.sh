#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The fuzz targets build. They need a nightly compiler; `tools/ci/fuzz` runs them.
set -euo pipefail
cd "$(dirname "$0")/../../fuzz"
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "SKIPPED: fuzz targets need a nightly compiler (rustup toolchain install nightly)"
    exit 77
fi
# Nothing is linked: libFuzzer itself need not be compiled.
export CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-../target}/fuzz" cargo +nightly check -q
