#!/usr/bin/env bash
# check_exports.sh LIBRARY.so: every symbol it exports is ours, in the inline version namespace, so that two versions
# of ciuic, or a host with the same private libraries, can live in one program.
set -euo pipefail
export LC_ALL=C.UTF-8
mangled=$(nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }')
[ -n "$mangled" ] || { echo "$1 exports nothing: nobody could link it"; exit 1; }
# _ZN5ciuic2v0… functions, _ZNK5ciuic2v0… const ones, _ZT[VIS]N5ciuic2v0… class tables; ciuic_* is the C interface.
foreign=$(grep -vE '^(_Z(N|NK|T[VISTCc][A-Za-z0-9_]*N|GVN|ZN|ZNK)5ciuic2v0|ciuic_)' <<<"$mangled" || true)
count=$(wc -l <<<"$mangled")
if [ -n "$foreign" ]; then
  echo "$1 exports $(wc -l <<<"$foreign") symbols that are not ciuic's (of $count):"
  c++filt <<<"$foreign" | head -n 20
  exit 1
fi
echo "$count exported symbols, all of them in ciuic::v0"
