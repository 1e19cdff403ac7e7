#!/usr/bin/env bash
# Builds and tests ciuic on a bare Debian 12 or what is like it; installs the packages it misses.
#   scripts/test.sh              what a newcomer runs; about 12 minutes on two cores, build included
#   scripts/test.sh --ci         also clang, sanitizers, fuzzing, a shared library; about 35 minutes
#   scripts/test.sh --deep       on demand: ten minutes per fuzz target, the threads 50 times over, long tests
#   scripts/test.sh --ci STAGE…  only these stages of a tier, for example `--ci tsan`
# CIUIC_JOBS sets how many jobs run at once.
case ${1:-} in -h | --help) sed -n '2,7p' "$0" && exit ;; esac
. "$(dirname "$0")/lib.sh"

tier=fast
case ${1:-} in
  --ci | --deep) tier=${1#--} && shift ;;
  -*) echo "unknown option $1; see --help" >&2 && exit 2 ;;
esac
only=" $* "
case $tier in
  fast) stages=" packages gcc " ;;
  ci) stages=" packages gcc clang asan tsan " ;;
  deep) stages=" packages long fuzz tsan " ;;
esac
for name in "$@"; do
  [[ $stages == *" $name "* ]] || { echo "tier $tier has no stage $name; it has:$stages" >&2 && exit 2; }
done
table=() failed=() tests_run=0 tests_failed=0 ctest_seconds=0
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# stage NAME WHAT COMMAND...: one heading, one line of result, one row in the table at the end.
stage() {
  local name=$1 what=$2 start=$SECONDS result=ok
  shift 2
  [[ $stages == *" $name "* ]] || { echo "stage $name is missing from the list of tier $tier" >&2 && exit 2; }
  [ "$only" = "  " ] || [[ $only == *" $name "* ]] || return 0
  printf '\n== %s: %s ==\n' "$name" "$what"
  "$@" || { result=FAILED && failed+=("$name"); }
  printf -- '-- %s: %s after %d s\n' "$name" "$result" $((SECONDS - start))
  table+=("$(printf '%-10s %-6s %5d s  %s' "$name" "$result" $((SECONDS - start)) "$what")")
}

# build PRESET TARGETS [CMAKE OPTION...]
build() {
  local preset=$1 targets=$2
  shift 2
  quietly "build/$preset/configure.log" cmake --preset "$preset" "$@" || return 1
  # shellcheck disable=SC2086
  quietly "build/$preset/build.log" cmake --build "build/$preset" -j "$jobs" --target $targets
}

# tests PRESET CTEST OPTION...: runs them and adds up the closing lines.
tests() {
  local preset=$1 log status=0
  shift
  log=$(mktemp -p "$logs")
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure "$@" </dev/null 2>&1 | tee "$log" |
    { grep --line-buffered -vE '^ *(Start +[0-9]|Internal ctest)' || true; } || status=1
  local run bad
  run=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$log")
  bad=$(sed -n 's/.*, \([0-9]*\) tests failed out of.*/\1/p' "$log")
  tests_run=$((tests_run + ${run:-0})) tests_failed=$((tests_failed + ${bad:-0}))
  ctest_seconds=$(awk -v a="$ctest_seconds" '/^Total Test time/ { a += $(NF - 1) } END { printf "%.2f", a }' "$log")
  cat "build/$preset/Testing/Temporary/LastTest.log" >>"$logs/all" 2>/dev/null || true
  return $status
}

# The sums of what the tests print: Catch2's totals, libFuzzer's executions, lines `figure: NUMBER WHAT`.
figures() {
  [ -e "$logs/all" ] || return 0
  awk '/^All tests passed \(/ { gsub(/[(]/, ""); sum["assertions"] += $4; sum["test cases"] += $7 }
    /^stat::number_of_executed_units:/ { sum["fuzz executions"] += $2 }
    /^figure: / { n = $2; $1 = $2 = ""; sub(/^ +/, ""); sum[$0] += n }
    END { for (what in sum) printf "%14.0f  %s\n", sum[what], what }' "$logs/all" | sort -k2
}

run_gcc() { build test all "$@" && tests test -L 'fast|contract|golden|hostile|emulated|house' -LE 'gpu|deep' --no-tests=error; }

run_gcc_ci() { CIUIC_SOAK_SECONDS=180 run_gcc "$@"; }

# A shared library by clang, warnings as errors: it must link on its exported symbols alone, and export no others.
run_clang() {
  build clang all -DBUILD_SHARED_LIBS=ON -DCIUIC_BUILD_TESTS=OFF || return 1
  scripts/check_exports.sh build/clang/libciuic.so || return 1
  python3 tests/rules/check_headers.py . clang++-19 "$jobs"
}

run_sanitized() {
  build fuzz 'tests_fast tests_golden tests_hostile' -DCIUIC_FUZZ_SECONDS="$1" &&
    tests fuzz -L "$2" -LE 'gpu|deep' --no-tests=error
}

run_tsan() {
  build tsan tests_contract || return 1
  tests tsan -L contract -LE 'gpu|deep' --no-tests=error "$@"
}

run_deep() { build release tests_deep && tests release -L deep --timeout 3600; }

echo "ciuic tests, tier \`$tier\`, $jobs jobs, $(date -u '+%Y-%m-%d %H:%M UTC')"
case $tier in
  fast)
    stage packages "what Debian has to offer" need "${build_packages[@]}"
    stage gcc "build and tests" run_gcc -DCIUIC_WARNINGS_AS_ERRORS=OFF
    ;;
  ci)
    stage packages "what Debian has to offer" need "${build_packages[@]}" "${clang_packages[@]}"
    stage gcc "build and tests, g++, warnings as errors" run_gcc_ci -DCIUIC_WARNINGS_AS_ERRORS=ON
    stage clang "shared library, clang 19, warnings as errors, exports" run_clang
    stage asan "address and undefined-behaviour sanitizers, fuzzing" run_sanitized 15 'fast|golden|hostile'
    stage tsan "thread sanitizer on the batching contract" run_tsan
    ;;
  deep)
    stage packages "what Debian has to offer" need "${build_packages[@]}" "${clang_packages[@]}"
    stage long "long tests, optimised" run_deep
    stage fuzz "ten minutes for each fuzz target" run_sanitized 600 hostile
    stage tsan "thread sanitizer, 50 times over" run_tsan --repeat until-fail:50
    ;;
esac

printf '\nstage      result    time\n'
printf '%s\n' "${table[@]}"
printf '\nfigures\n'
figures
[ ${#failed[@]} = 0 ] || printf '\nfailed: %s\n' "${failed[*]}"
# ctest's closing lines, for all of its runs together.
if [ "$tests_run" -gt 0 ]; then
  printf '\n%d%% tests passed, %d tests failed out of %d\n' \
    $(((tests_run - tests_failed) * 100 / tests_run)) "$tests_failed" "$tests_run"
  printf '\nTotal Test time (real) = %s sec\n' "$ctest_seconds"
fi
[ ${#failed[@]} = 0 ]
