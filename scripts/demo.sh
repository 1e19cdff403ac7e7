#!/usr/bin/env bash
# The main job on one screen: builds ciuic and runs 32 prompts at once through the model that ships with it.
#   scripts/demo.sh [OPTION OF THE DEMO…]     e.g. --threads 1
case ${1:-} in -h | --help) sed -n '2,3p' "$0" && exit ;; esac
. "$(dirname "$0")/lib.sh"

need "${build_packages[@]}"
echo "building (a few minutes the first time)"
quietly build/release/configure.log cmake --preset release
quietly build/release/build.log cmake --build build/release -j "$jobs" --target ciuic_tool ciuic_demo
exec build/release/examples/demo/ciuic_demo examples/models/ciuic-tiny "$@"
