#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Builds the bare-metal guest: tools/qemu/guest/build.sh FILE
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
as --32 -o "$1.o" "$here/counters.s"
ld -m elf_i386 -T "$here/counters.ld" --no-warn-rwx-segments -o "$1" "$1.o"
rm -f "$1.o"
