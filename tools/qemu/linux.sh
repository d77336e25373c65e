#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Moves a Linux guest that serves HTTP there and back between QEMUs while clients ask it, and prints
# a table: answers before, during and after each migration, longest gap, downtime.
#
#   tools/qemu/linux.sh [TIMES]        10 by default; some minutes
#
# PRECOPY_QEMU_LINUX_MIB=512 for another size; PRECOPY_QEMU_LINUX_SEND="--downtime-limit 50ms" for
# another way to send (Gigabit Ethernet is the default). Needs root for a network namespace, and
# apt-get for the kernel and busybox, which are fetched once (tools/qemu/linux/make-image.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PRECOPY_QEMU_LINUX_MIGRATIONS=${1:-10} cargo test -q -p precopy-cli --test cli -- --nocapture \
    --test-threads 1 qemu::linux
