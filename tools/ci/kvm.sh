#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What only runs with KVM: its dirty trackers, and a guest of our own that migrates between VMs and
# between processes. Without /dev/kvm the code is still checked, and the tests say what they skip.
#
#   PRECOPY_KVM_MIGRATIONS=20 tools/ci/kvm.sh      as many migrations in each test
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! [ -w /dev/kvm ]; then
    echo "SKIPPED: NO /dev/kvm THAT THIS USER MAY OPEN: NO KVM GUEST OR TRACKER IS TESTED"
fi
cargo clippy -q -p kvmguest --all-targets -- -D warnings
cargo clippy -q -p precopy --lib --tests --features kvm -- -D warnings
cargo test -q -p precopy --lib --features kvm kvm
cargo test -q -p kvmguest
