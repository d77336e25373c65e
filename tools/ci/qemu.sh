#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Moves real QEMUs: a guest that checks itself, under TCG and KVM, a Linux that serves HTTP, and
# processes killed on the way.
#
#   PRECOPY_QEMU_MIGRATIONS, PRECOPY_QEMU_KVM_MIGRATIONS, PRECOPY_QEMU_LINUX_MIGRATIONS,
#   PRECOPY_QEMU_MIB, PRECOPY_QEMU_KILLS: a longer series than the default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "SKIPPED: there is no qemu-system-x86_64: no QEMU was moved"
    exit 0
fi
[ -w /dev/kvm ] || echo "SKIPPED: /dev/kvm cannot be opened: no guest under KVM was moved"
if ! command -v as >/dev/null || ! command -v ld >/dev/null; then
    echo "as and ld are missing: install binutils"
    exit 1
fi
cargo test -q -p precopy-qemu
export PRECOPY_QEMU_MIGRATIONS=${PRECOPY_QEMU_MIGRATIONS:-5}
export PRECOPY_QEMU_LINUX_MIGRATIONS=${PRECOPY_QEMU_LINUX_MIGRATIONS:-2}
export PRECOPY_QEMU_KILLS=${PRECOPY_QEMU_KILLS:-8}
cargo test -q --test cli -- --nocapture --test-threads 1 qemu::
