#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Installs what the deeper tests need and a plain Debian with Rust may lack: a linker and C++
# compiler (fuzz targets), iproute2 (tests in network namespaces), git (planted faults). Installs
# nothing that is there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc gcc
need c++ g++
need ip iproute2
need git git
need cargo cargo-is-missing
if printf '%s\n' "${missing[@]-}" | grep -q cargo-is-missing; then
    echo "cargo is missing: install Rust (https://rustup.rs) first"
    exit 1
fi
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "nothing is missing"
    exit 0
fi
echo "missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: install them by hand"
    exit 1
fi
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -q
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qy --no-install-recommends "${missing[@]}"
