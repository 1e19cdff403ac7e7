#!/usr/bin/env bash
# Runs a real model directory and, where python3 has torch and transformers, compares the two.
#   scripts/try_model.sh DIR [PROMPT]
# WEIGHTS=f32|bf16|i8|i4 (f32) and PYTHON=… (python3) may be set. Exit status: 0 it runs and agrees (or there was
# nothing to compare with), 1 it disagrees, 2 wrong usage, 3 the directory is refused.
. "$(dirname "$0")/lib.sh"
[ $# -ge 1 ] && [ $# -le 2 ] && [ "$1" != --help ] && [ "$1" != -h ] || { sed -n '2,5p' "$0" && exit 2; }
[ -e "$1/config.json" ] || { echo "$1: wanted a model directory with config.json, found none" >&2 && exit 3; }
model=$1 prompt=${2:-The three largest rivers of Europe are} weights=${WEIGHTS:-f32} python=${PYTHON:-python3}
ciuic=build/release/bin/ciuic

need "${build_packages[@]}"
quietly build/release/configure.log cmake --preset release
quietly build/release/build.log cmake --build build/release -j "$jobs" --target ciuic_tool

echo "== inspect =="
$ciuic inspect --model "$model"
echo "== generate, greedy, $weights =="
$ciuic generate --model "$model" --prompt "$prompt" --greedy --max-new-tokens 32 --weights "$weights" --json
if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
  echo "not compared: $python has no torch and transformers"
  exit 0
fi
echo "== compared with transformers =="
exec "$python" scripts/compare_model.py "$ciuic" "$model" "$prompt" "$weights"
