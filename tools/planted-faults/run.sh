#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Plants known faults in a scratch copy of the tree, and demands that the tests named in each
# fault's patch fail. All patches go in at once, each asleep until the environment names its
# number, so that one build serves them all. Fails itself if a patch no longer applies, if the
# planted tree does not build, if it fails without a fault, or if a fault survives. A fault whose
# tests say that they are skipped on this machine is not tried, and it says so.
#
#   tools/planted-faults/run.sh [NAME...]     NAME: part of a patch's file name
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"
# Third-party crates are shared with the ordinary build; only the planted crate is built anew.
export CARGO_TARGET_DIR=$(cd "$target" && pwd)
# A stable place, so that builds are incremental from run to run.
tree=$CARGO_TARGET_DIR/planted-faults/tree
log=$CARGO_TARGET_DIR/planted-faults/log
mkdir -p "$tree"

# Cargo compares times, so whatever is put back must look new.
copy() {
    find "$tree" -mindepth 1 -delete
    # `git ls-files` lists deleted files as well.
    (cd "$root" && git -c safe.directory="$root" ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            [ ! -f "$file" ] || printf '%s\0' "$file"
        done | tar --null -cf - -T -) | tar -xmf - -C "$tree"
}

# Builds the library's tests and names the program in `tests`.
build() {
    # In a profile of its own: cargo names what it builds by the place of a package in its workspace,
    # so that the checkout would take the planted crate for its own, and fresh whatever is changed.
    local own=profile.test.package.precopy.opt-level=1
    (cd "$tree" && cargo test -p precopy --lib --no-run --config "$own") >"$log" 2>&1 || return 1
    tests=$tree/$(sed -n 's/^ *Executable unittests .*(\(.*\))$/\1/p' "$log")
    # Cargo shows a path in a target folder elsewhere in full.
    [ -x "$tests" ] || tests=${tests#"$tree/"}
    [ -f "$tests" ] && [ -x "$tests" ]
}

wanted() {
    [ $# -gt 1 ] || return 0
    local name=$1 part
    shift
    for part; do case $name in *"$part"*) return 0 ;; esac; done
    return 1
}

copy
cat >>"$tree/src/lib.rs" <<'RUST'

/// Whether the planted fault of this number is awake.
pub(crate) fn planted(number: &str) -> bool {
    static AWAKE: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    AWAKE.get_or_init(|| std::env::var("PLANTED_FAULT").ok()).as_deref() == Some(number)
}
RUST
for patch in "$here"/*.patch; do
    # --git-dir to nowhere: the scratch tree lies in an ignored folder, which git apply skips.
    if ! (cd "$tree" && GIT_DIR=/nonexistent git apply --recount "$patch"); then
        echo "$(basename "$patch"): the patch no longer applies" && exit 1
    fi
done
if ! build; then
    tail -n 40 "$log" && echo "the planted tree does not build" && exit 1
fi
all=$(sed -n 's/^Tests: //p' "$here"/*.patch | tr ' ' '\n' | sort -u | paste -sd' ')
# shellcheck disable=SC2086 # several filters
if ! (cd "$tree" && timeout 600 "$tests" $all) >"$log" 2>&1; then
    tail -n 40 "$log" && echo "the tests fail with every fault asleep" && exit 1
fi

caught=0 survived=0 skipped=0
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    wanted "$name" "$@" || continue
    fault=$(sed -n 's/^Fault: //p' "$patch")
    filters=$(sed -n 's/^Tests: //p' "$patch")
    began=$SECONDS
    # shellcheck disable=SC2086 # several filters
    if (cd "$tree" && PLANTED_FAULT=${name%%-*} timeout 600 "$tests" $filters) >"$log" 2>&1; then
        if reason=$(grep -m 1 '^SKIPPED' "$log"); then
            skipped=$((skipped + 1)) result=$reason
        else
            survived=$((survived + 1)) result="SURVIVED"
        fi
    else
        failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | sed -n 1,3p | paste -sd' ')
        rules=$(grep -oE 'rule: "[A-Za-z0-9]+"' "$log" | cut -d'"' -f2 | sort -u | paste -sd, || true)
        # A run that hangs or is killed is no proof.
        if [ -z "$failed" ]; then
            tail -n 20 "$log" && echo "$name: the tests ended without a verdict" && exit 1
        fi
        caught=$((caught + 1)) result="caught${rules:+ ($rules)} by $failed"
    fi
    printf '%-28s %s\n%-28s %s, %d s\n' "$name" "$fault" "" "$result" $((SECONDS - began))
done
echo "planted faults: $caught caught, $survived survived, $skipped skipped"
[ "$survived" -eq 0 ] && [ "$caught" -gt 0 ]
