#!/usr/bin/env bash
# Runs a real model directory and, where python3 has torch and transformers, compares the two.
#   scripts/try_model.sh DIR [PROMPT]
# WEIGHTS=f32|bf16|i8|i4 (f32) and PYTHON=… (python3) may be set. Exit status: 0 it runs and agrees (or there was
# nothing to compare with), 1 it disagrees, 2 wrong usage or a missing package, 3 the directory is refused,
# 4 nothing can be said: the build, the run or the comparison itself failed.
case ${1:-} in -h | --help) sed -n '2,6p' "$0" && exit ;; esac
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,6p' "$0" >&2 && exit 2; }
[ -e "$1/config.json" ] || { echo "$1: wanted a model directory with config.json, found none" >&2 && exit 3; }
model=$(realpath -- "$1")
. "$(dirname "$0")/lib.sh"
prompt=${2:-The three largest rivers of Europe are} weights=${WEIGHTS:-f32} python=${PYTHON:-python3}
ciuic=build/release/bin/ciuic

need "${build_packages[@]}"
quietly build/release/configure.log cmake --preset release || exit 4
quietly build/release/build.log cmake --build build/release -j "$jobs" --target ciuic_tool || exit 4

# The command's own 1 is a request that failed, and here 1 is a verdict.
tool() {
  local status=0
  "$ciuic" "$@" || status=$?
  case $status in 0) ;; 2 | 3) exit $status ;; *) exit 4 ;; esac
}

echo "== inspect =="
tool inspect --model "$model"
echo "== generate, greedy, $weights =="
tool generate --model "$model" --prompt "$prompt" --greedy --max-new-tokens 32 --weights "$weights" --json
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
  echo "not compared: $python has no torch and transformers"
  exit 0
fi
echo "== compared with transformers =="
exec "$python" scripts/compare_model.py "$ciuic" "$model" "$prompt" "$weights"
