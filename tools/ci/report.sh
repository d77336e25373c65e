#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Builds a report of made-up figures that fills every section, one of a real experiment with one
# seed, and one of a tournament, and opens them as a reader would, in headless Chromium, without a
# network. Fails on anything in the console, on a declared chart that is missing or has no size, and
# on any request besides the page itself. Then breaks copies of the page, to see that each is noticed.
#
#   tools/ci/report.sh [DIR]     DIR gets the report and its screenshots, light and dark
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
full=$work/full
# Lazily: whoever looks at a small file system that is not this script's must not keep it there.
clean_up() {
    ! mountpoint -q "$full" || umount -l "$full"
    rm -rf "$work"
}
trap clean_up EXIT
out=${1:-$work/report}
mkdir -p "$out"
out=$(cd "$out" && pwd)
echo "report in $out"
cargo run -q --release --example sample_report -- "$out"

# A full disk: an error that names the file, and nothing half-written. Needs a small file system.
mkdir "$full"
if mount -t tmpfs -o size=256k none "$full" 2>/dev/null; then
    status=0
    cargo run -q --release --example sample_report -- "$full" 2>"$work/full.log" || status=$?
    left=$(find "$full" -name '.report-*' | wc -l)
    umount -l "$full"
    if [ "$status" -eq 0 ] || [ "$left" -ne 0 ] ||
        ! grep -q "Cannot write $full/" "$work/full.log"; then
        echo "FAILED: a full disk gave exit code $status, $left files left over, and this:"
        cat "$work/full.log"
        exit 1
    fi
    echo "full disk: noticed"
else
    echo "SKIPPED: full disk: no right to mount a small file system"
fi

chromium=${CHROMIUM:-}
for name in chromium chromium-browser google-chrome; do
    [ -n "$chromium" ] || chromium=$(command -v "$name" || true)
done
if [ -z "$chromium" ]; then
    echo "SKIPPED: NO BROWSER: console errors, charts, requests and screenshots of the report are"
    echo "SKIPPED: NOT CHECKED. Install Chromium (tools/ci/setup.sh) or set CHROMIUM=/path."
    exit 77
fi

# Off the network twice over: a name space without one where that may be had, and no names.
offline=()
if unshare -n true 2>/dev/null; then
    offline=(unshare -n)
elif unshare -rn true 2>/dev/null; then
    offline=(unshare -rn)
fi
flags=(--headless --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions
    --host-resolver-rules='MAP * ~NOTFOUND' --virtual-time-budget=5000 --window-size=1280,2400)
[ "$(id -u)" -ne 0 ] || flags+=(--no-sandbox)

# browse PAGE NAME FLAG...: standard output in NAME.out, the browser's log in NAME.log. A browser
# that does not come up is started again, twice; what it shows is judged once.
browse() {
    local page=$1 name=$2 try
    shift 2
    for try in 1 2 3; do
        # A profile for each: none waits for another's lock, and nothing is cached.
        timeout -k 10 120 "${offline[@]}" "$chromium" "${flags[@]}" \
            --user-data-dir="$work/profile-$name-$try" --enable-logging=stderr --log-level=0 \
            "$@" "file://$page" >"$work/$name.out" 2>"$work/$name.log" && return
        echo "  try $try of 3: the browser failed or took longer than 120 s:"
        tail -5 "$work/$name.log"
    done
    return 1
}

# check PAGE NAME LEAST: prints what is wrong with a page of LEAST charts or more; fails if anything is.
check() {
    local page=$1 name=$2 least=$3 bad=0
    # No verdict: neither on a page as it is, nor that a planted fault was noticed.
    browse "$page" "$name" --dump-dom || exit 1
    local dom=$work/$name.out
    if grep -a 'CONSOLE' "$work/$name.log" >"$work/$name.console"; then
        sed 's/^/  console: /' "$work/$name.console"
        bad=1
    fi
    local requests
    requests=$(sed -n 's/.*<html[^>]* data-requests="\([0-9]*\)".*/\1/p' "$dom" | sed -n 1p)
    if [ "$requests" != 0 ]; then
        echo "  requests besides the page: '${requests:-the script did not get that far}'"
        bad=1
    fi
    if grep -aoE '(src|href|action)="(https?:|//)[^"]*"' "$dom"; then
        echo "  refers to the network"
        bad=1
    fi
    # The list that the page declares, against what is drawn on it.
    local charts id count=0
    charts=$(sed -n 's/.*id="chart-list">\[\([^]]*\)\].*/\1/p' "$dom" | tr -d '"' | tr ',' ' ')
    for id in $charts; do
        count=$((count + 1))
        if ! grep -aq "<svg id=\"$id\" " "$dom"; then
            echo "  chart $id is missing"
            bad=1
        fi
    done
    if [ "$count" -lt "$least" ]; then
        echo "  declares $count charts; there must be $least"
        bad=1
    fi
    if ! grep -aq "data-charts-drawn=\"$count\"" "$dom"; then
        echo "  not all of the $count declared charts have a size"
        bad=1
    fi
    if grep -aoE ' (d|x|y|cx|cy|width|height|viewBox|transform)="[^"]*(NaN|inf)[^"]*"' "$dom"; then
        echo "  a drawing has something that is no number"
        bad=1
    fi
    [ "$bad" -eq 0 ] && echo "  $count charts, nothing in the console, no request"
}

page=$out/report.html
echo "a report of every section:"
check "$page" whole 30

echo "the report of a real experiment, one seed:"
cargo run -q --release -- paper fig3 --seeds 1 --out "$out/paper" >"$work/paper.log" ||
    { tail -20 "$work/paper.log"; exit 1; }
check "$out/paper/report.html" paper 4
browse "$out/paper/report.html#light" shot-paper --window-size=1280,22000 \
    --screenshot="$out/paper.png"
[ -s "$out/paper.png" ] || { echo "no screenshot $out/paper.png"; exit 1; }

echo "a small tournament:"
cargo run -q --release -- tournament tools/lab/plans/quick.toml --quick \
    --out "$out/tournament" >"$work/tournament.log" 2>&1 || { tail -20 "$work/tournament.log"; exit 1; }
check "$out/tournament/report.html" tournament 4
browse "$out/tournament/report.html#light" shot-tournament --window-size=1280,12000 \
    --screenshot="$out/tournament.png"
[ -s "$out/tournament.png" ] || { echo "no screenshot $out/tournament.png"; exit 1; }
# Every run is in the page, and is the table that lies beside it.
# (`head` would end before all of them are found, and `grep` with it.)
grep -o 'data:text/csv;base64,[A-Za-z0-9+/=]*' "$out/tournament/report.html" | sed -n 1p |
    cut -d, -f2 | base64 -d | cmp - "$out/tournament/runs.csv"

for theme in light dark; do
    browse "$page#$theme" "shot-$theme" --window-size=1280,22000 --screenshot="$out/$theme.png"
    [ -s "$out/$theme.png" ] || { echo "no screenshot $out/$theme.png"; exit 1; }
done
echo "screenshots: $out/light.png $out/dark.png"

# Every fault that this looks for, planted in a copy. Without a notice the check is worth nothing.
broken() {
    local name=$1 edit=$2
    sed "$edit" "$page" >"$work/$name.html"
    cmp -s "$page" "$work/$name.html" && { echo "the fault '$name' could not be planted"; exit 1; }
    echo "with the fault '$name':"
    if check "$work/$name.html" "$name" 30; then
        echo "FAILED: the fault '$name' was not noticed"
        exit 1
    fi
}
broken console-error 's|</body>|<script>console.warn("planted")</script></body>|'
broken missing-chart 's|<svg id="fig2" |<svg id="fig2-gone" |'
broken request 's|</main>|<img src="http://127.0.0.1:9/planted.png" alt=""></main>|'
broken broken-script 's|"use strict";|"use strict"; nonsense();|'
echo "all planted faults were noticed"
