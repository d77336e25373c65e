#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Compares live migrations of the same guest by precopy and by QEMU itself, in turn, and prints a
# table: total time, bytes, rounds, downtime as seen from outside.
#
#   tools/qemu/compare.sh [TIMES]        10 by default; about 20 minutes
#
# PRECOPY_QEMU_MIB=2048 for another size, PRECOPY_QEMU_GUEST="pages=16384 pace=300" for a guest that
# writes less (tools/qemu/guest/counters.s), PRECOPY_QEMU_POLICIES="qemu descend descend/delta" for
# others, with an encoder after a slash, PRECOPY_QEMU_CAPS="125000000 none". "harmed": the guest
# found pages that were not what it wrote.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PRECOPY_QEMU_COMPARE=${1:-10} cargo test -q --test cli -- --nocapture \
    --test-threads 1 qemu::compare
