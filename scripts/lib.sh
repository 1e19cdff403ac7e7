# shellcheck shell=bash
# Shared by the scripts beside it: `. "$(dirname "$0")/lib.sh"`. Moves to the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C.UTF-8
jobs=${CIUIC_JOBS:-$(nproc)}
# A compiler cache needs a place it may write to.
[ -w "${HOME:-/nonexistent}" ] || export CCACHE_DIR=${CCACHE_DIR:-$PWD/build/ccache}

build_packages=(g++ cmake ninja-build ccache python3 nlohmann-json3-dev libpcre2-dev libutf8proc-dev libhwy-dev libcli11-dev catch2)
clang_packages=(clang-19 libclang-rt-19-dev)

# need PACKAGE...: installs the Debian packages that are missing; says what to do where it cannot.
need() {
  local missing=() package log
  if ! command -v dpkg-query >/dev/null; then
    command -v cmake >/dev/null && return 0  # not Debian: the build says what it misses
    echo "This script installs what it needs on Debian and Ubuntu. Elsewhere, install the like of: $*" >&2
    exit 2
  fi
  for package in "$@"; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in *"ok installed") ;; *) missing+=("$package") ;; esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      echo "Missing packages, and neither root nor sudo to install them. As root: apt-get install ${missing[*]}" >&2
      exit 2
    fi
  fi
  echo "installing ${missing[*]}"
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "apt-get could not install: ${missing[*]}" >&2
    exit 2
  fi
  rm -f "$log"
}

# quietly LOG COMMAND...: the output goes to LOG, and its end is shown when the command fails.
quietly() {
  local log=$1
  shift
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null && return 0
  tail -n 60 "$log"
  echo "failed: $* (all of it in $log)"
  return 1
}
