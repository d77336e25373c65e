#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A feature only adds: the library builds with none, with each alone, and with all.
set -euo pipefail
cd "$(dirname "$0")/../.."
features=$(sed -n '/^\[features\]/,/^\[/s/^\([a-z][a-z0-9-]*\) *=.*/\1/p' Cargo.toml | grep -v default)
export RUSTFLAGS="${RUSTFLAGS:-} -D warnings"
# Another set of flags is another build of everything: keep it out of the others' way.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/features"
cargo check -q -p precopy --no-default-features
for feature in $features; do
    echo "feature $feature"
    cargo check -q -p precopy --no-default-features --features "$feature"
done
cargo check -q -p precopy --all-features
