#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Makes a small Linux guest out of distribution packages: the kernel for virtual machines, busybox,
# and the scripts beside this one.
#
#   tools/qemu/linux/make-image.sh FOLDER      FOLDER/vmlinuz and FOLDER/initramfs
#
# Packages are fetched with apt-get into FOLDER once; with them there it needs no network. Ends with
# code 77 and a line "SKIPPED: ..." where there are no such packages.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '3,9s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
cd "$1"

skip() {
    echo "SKIPPED: $1: there is no Linux guest"
    exit 77
}

# One at a time: several tests may want it at once.
exec 9>lock
flock -w 300 9 || skip "somebody has been making the image in $PWD for five minutes"

stamp=$(cat "$here"/{make-image.sh,init,load,count,keep-alive} | sha256sum)
[ "$(cat stamp 2>/dev/null)" != "$stamp" ] || exit 0
rm -f stamp

for program in apt-get apt-cache dpkg-deb; do
    command -v "$program" >/dev/null || skip "$program is missing (this needs a Debian)"
done

# fetch PACKAGE: sets `deb` to its file in FOLDER
fetch() {
    deb=$(find . -maxdepth 1 -name "$1_*.deb" | head -n 1)
    [ -z "$deb" ] || return 0
    rm -rf fetched
    mkdir fetched
    # What is cut short never looks like a package.
    (cd fetched && timeout 300 apt-get -q -o Acquire::Retries=2 download "$1" >../log 2>&1) ||
        skip "package $1 cannot be fetched ($(grep -m 1 '^E:' log || tail -n 1 log))"
    mv fetched/*.deb .
    deb=$(find . -maxdepth 1 -name "$1_*.deb" | head -n 1)
}

# The package of that name only leads to the newest kernel's.
if ! kernel=$(find . -maxdepth 1 -name 'linux-image-*.deb' -printf '%f\n' | grep -m 1 .); then
    kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$kernel" ] || skip "apt knows no linux-image-cloud-amd64 (run apt-get update)"
fi
fetch "${kernel%%_*}"
kernel=$deb
fetch busybox-static
busybox=$deb

rm -rf unpacked root
dpkg-deb -x "$kernel" unpacked
dpkg-deb -x "$busybox" unpacked
cp unpacked/boot/vmlinuz-* vmlinuz
modules=root/lib/modules/$(find unpacked/boot -name 'vmlinuz-*' -printf '%f' | cut -d - -f 2-)
mkdir -p "$modules" root/{bin,www/cgi-bin}
cp "$(find unpacked -path '*bin/busybox' -type f | head -n 1)" root/bin/busybox
cp "$here/init" root/init
cp "$here"/{load,keep-alive} root/bin/
cp "$here/count" root/www/cgi-bin/
chmod 755 root/init root/bin/* root/www/cgi-bin/*
seq 1 2000 >root/www/numbers

# What is built into a kernel is no file, and need not be loaded.
for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover \
    net_failover virtio_net virtio_balloon; do
    file=$(find unpacked -name "$module.ko*" | head -n 1)
    case $file in
        '') ;;
        *.xz) xz -dc "$file" >"$modules/$module.ko" ;;
        *.zst) zstd -dcq "$file" >"$modules/$module.ko" ;;
        *) cp "$file" "$modules/" ;;
    esac
done
root/bin/busybox depmod -b root "${modules##*/}"

(cd root && find . | LC_ALL=C sort | bin/busybox cpio -o -H newc -R 0:0 2>/dev/null) >initramfs
rm -rf unpacked root fetched log
echo "$stamp" >stamp
