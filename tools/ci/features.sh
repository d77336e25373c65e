#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A feature only adds: the library builds with none, with each alone, and with all.
set -euo pipefail
cd "$(dirname "$0")/../.."
features=$(sed -n '/^\[features\]/,/^\[/s/^\([a-z][a-z0-9-]*\) *=.*/\1/p' Cargo.toml | grep -v default)
# By clippy, so that what the clippy step has built serves here, too; it has all features at once.
check() { cargo clippy -q -p precopy "$@" -- -D warnings; }
check --no-default-features
for feature in $features; do
    echo "feature $feature"
    check --no-default-features --features "$feature"
done
