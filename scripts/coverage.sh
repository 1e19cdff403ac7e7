#!/usr/bin/env bash
# Branch coverage of BatchCore, and of the files it is made of, by its own tests.
#   scripts/coverage.sh            the table; exit 1 when a branch is not covered
#   scripts/coverage.sh --lines    also every line with a branch that was not taken both ways
# Built without exceptions and assertions, whose branches do not count. Needs g++ and gcovr.
case ${1:-} in -h | --help) sed -n '2,5p' "$0" && exit ;; esac
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# -O0 keeps the branches that were written.
for test in batch_core_test batch_core_random_test; do
  g++ -std=c++20 -O0 --coverage -DNDEBUG -fno-exceptions -DCATCH_CONFIG_DISABLE_EXCEPTIONS -I"$root/include" -I"$root/tests" -c "$root/tests/batching/$test.cpp" -o "$test.o"
done
g++ -std=c++20 -O0 -fno-exceptions -DCATCH_CONFIG_DISABLE_EXCEPTIONS -I"$root/tests" -c "$root/tests/support/catch_main.cpp" -o catch_main.o
g++ --coverage ./*.o -o tests
./tests >/dev/null
count() {
  gcovr --root "$root" --object-directory "$work" --exclude-throw-branches --exclude-unreachable-branches --branches \
    --filter "$root/include/ciuic/batching/(batch_core|batch_limits|batch_policy|request_queue|request_terms|tenant_table|batch_cap|deadline_heap|slot_links)[.]hpp" "$work" "$@"
}
count --txt
if [ "${1:-}" = --lines ]; then
  count --json | python3 -c '
import json, sys
for file in json.load(sys.stdin)["files"]:
    for line in file["lines"]:
        missed = [b for b in line["branches"] if b["count"] == 0 and not b.get("throw")]
        if missed and not line.get("gcovr/noncode"):
            print("%s:%d: %d of %d" % (file["file"], line["line_number"], len(missed), len(line["branches"])))'
fi
count --fail-under-branch 100 --txt /dev/null
