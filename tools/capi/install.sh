#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Installs the C library: header, shared and static library, and the file for pkg-config.
#
#   tools/capi/install.sh [--from FOLDER] PREFIX
#
# It is built first, unless FOLDER says where libprecopy_capi.so and .a are. DESTDIR is obeyed.
set -euo pipefail
package=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$package/../.." && pwd)

usage() {
    echo "usage: tools/capi/install.sh [--from FOLDER] PREFIX" >&2
    exit 2
}
from=
if [ "${1:-}" = --from ]; then
    from=${2:-}
    [ -n "$from" ] || usage
    shift 2
fi
[ $# -eq 1 ] && [ -n "$1" ] || usage
case $1 in
/*) prefix=$1 ;;
*) prefix=$PWD/$1 ;;
esac

version=$(sed -n '/^version = "\(.*\)"/{s//\1/p;q}' "$root/Cargo.toml")
[ -n "$version" ] || { echo "no version in $root/Cargo.toml" >&2; exit 1; }
if [ -z "$from" ]; then
    (cd "$root" && cargo build --release -p precopy-capi)
    from=${CARGO_TARGET_DIR:-$root/target}/release
fi

to=${DESTDIR:-}$prefix
install -d "$to/include" "$to/lib/pkgconfig"
install -m 644 "$package/include/precopy.h" "$to/include/precopy.h"
install -m 644 "$from/libprecopy_capi.a" "$to/lib/libprecopy.a"
install -m 755 "$from/libprecopy_capi.so" "$to/lib/libprecopy.so.$version"
# The soname is in the library; see build.rs.
ln -sfn "libprecopy.so.$version" "$to/lib/libprecopy.so.0"
ln -sfn libprecopy.so.0 "$to/lib/libprecopy.so"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" "$package/precopy.pc.in" \
    >"$to/lib/pkgconfig/precopy.pc"
echo "installed precopy $version in $to"
