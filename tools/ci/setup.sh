#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Installs what the deeper tests need and a plain Debian with Rust may lack: a linker and C++
# compiler (fuzz targets), iproute2 (tests in network namespaces), git (planted faults), Chromium
# with a font (the report's page), QEMU. Installs nothing that is there.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need cc gcc
need c++ g++
need ip iproute2
need git git
need as binutils
need cargo cargo-is-missing
if printf '%s\n' "${missing[@]-}" | grep -q cargo-is-missing; then
    echo "cargo is missing: install Rust (https://rustup.rs) first"
    exit 1
fi
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done
browser=
for name in chromium chromium-browser google-chrome; do
    if [ -n "${CHROMIUM:-}" ] || command -v "$name" >/dev/null; then browser=there; fi
done
qemu=
if command -v qemu-system-x86_64 >/dev/null; then qemu=there; fi
if [ ${#missing[@]} -eq 0 ] && [ "$browser$qemu" = therethere ]; then
    echo "nothing is missing"
    exit 0
fi
[ -n "$browser" ] || echo "missing: chromium"
[ -n "$qemu" ] || echo "missing: qemu-system-x86"
[ ${#missing[@]} -eq 0 ] || echo "missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: install them by hand"
    # The browser alone is no reason to stop: what needs it says loudly that it is left out.
    [ ${#missing[@]} -eq 0 ]
    exit
fi
sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -q
export DEBIAN_FRONTEND=noninteractive
if [ ${#missing[@]} -gt 0 ]; then
    $sudo apt-get install -qy --no-install-recommends "${missing[@]}"
fi
# Not everywhere to be had: without it the QEMU step says loudly that it was left out.
if [ -z "$qemu" ] &&
    ! $sudo apt-get install -qy --no-install-recommends qemu-system-x86; then
    echo "SKIPPED: QEMU could not be installed: no QEMU will be moved"
fi
# Large, and not everywhere to be had: without it one check says loudly that it was left out.
if [ -z "$browser" ] &&
    ! $sudo apt-get install -qy --no-install-recommends chromium fonts-dejavu-core; then
    echo "SKIPPED: Chromium could not be installed: the report's page will not be opened"
fi
