#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A KVM guest of our own that migrates between VMs and between processes (the trackers' own tests
# are in tools/ci/test.sh). Without /dev/kvm the code is still checked, and the tests say what they skip.
#
#   PRECOPY_KVM_MIGRATIONS=20 tools/ci/kvm.sh      as many migrations in each test
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! [ -w /dev/kvm ]; then
    echo "SKIPPED: NO /dev/kvm THAT THIS USER MAY OPEN: NO KVM GUEST OR TRACKER IS TESTED"
fi
cargo test -q -p kvmguest
