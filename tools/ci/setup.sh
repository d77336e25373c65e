#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Installs what the deeper tests need and a plain Debian with Rust may lack: a linker and C++
# compiler (fuzz targets), iproute2 (tests in network namespaces), git (planted faults), pkg-config
# and valgrind (the C API), QEMU, Chromium with a font (the report's page). Installs nothing that
# is there.
set -euo pipefail

# Mirrors and servers fail now and then.
again() {
    local try
    for try in 1 2; do
        "$@" && return
        echo "failed, try $try of 3: $*"
        sleep $((try * 8))
    done
    "$@"
}

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc gcc
need c++ g++
need ip iproute2
need git git
need as binutils
need cargo cargo-is-missing
# Without these one check says loudly what it left out.
wished=()
wish() { command -v "$1" >/dev/null || wished+=("$2"); }
wish pkg-config pkg-config
wish valgrind valgrind
wish qemu-system-x86_64 qemu-system-x86
if [[ " ${missing[*]-} " == *" cargo-is-missing "* ]]; then
    echo "cargo is missing: install Rust (https://rustup.rs) first"
    exit 1
fi
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || again rustup component add "$part"
done
browser=
for name in chromium chromium-browser google-chrome; do
    if [ -n "${CHROMIUM:-}" ] || command -v "$name" >/dev/null; then browser=there; fi
done
if [ $((${#missing[@]} + ${#wished[@]})) -eq 0 ] && [ -n "$browser" ]; then
    echo "nothing is missing"
    exit 0
fi
[ -n "$browser" ] || echo "missing: chromium"
[ ${#missing[@]} -eq 0 ] || echo "missing: ${missing[*]}"
[ ${#wished[@]} -eq 0 ] || echo "missing: ${wished[*]}"
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: install them by hand"
    # The browser and what is wished alone are no reason to stop: what needs them says loudly that
    # it is left out.
    [ ${#missing[@]} -eq 0 ]
    exit
fi
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
# A machine that has just started may be installing its own updates: then the lock is waited for.
apt_get() {
    again $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=120 \
        -o Acquire::Retries=3 --no-install-recommends "$@"
}
# What is known already may do.
apt_get update || echo "the lists of packages could not be brought up to date"
if [ ${#missing[@]} -gt 0 ]; then
    apt_get install "${missing[@]}"
fi
for package in ${wished[@]+"${wished[@]}"}; do
    apt_get install "$package" ||
        echo "SKIPPED: $package could not be installed: what needs it will not be tested"
done
# Large, and not everywhere to be had: without it one check says loudly that it was left out.
if [ -z "$browser" ] && ! apt_get install chromium fonts-dejavu-core; then
    echo "SKIPPED: Chromium could not be installed: the report's page will not be opened"
fi
