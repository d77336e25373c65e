#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the README says: every package, the C API and the KVM guest among them, with what optional
# features add. A part that cannot be tested here says so on a line of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
# One run is to show everything that fails.
cargo test -q --no-fail-fast
