#!/usr/bin/env python3
"""Writes recent_code_points.inc: what Unicode gave a category to after version 14, as the reference
tokenizers see it, and which code points their older normalisation tables leave alone.

Needs Python 3.11 (Unicode 14, the version of PCRE2 10.42) and the PyPI package `tokenizers`.
Run it when that package moves to newer tables: make_recent_code_points.py > recent_code_points.inc
"""
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))
# M as a whole: one mark moved from Mc to Mn in between, so those two are not offered alone.
CATEGORIES = ("Lu Ll Lt Lm Lo M Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co").split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Thai".split()


def matching(pattern):
    rest = set(normalizers.Replace(Regex(pattern), "").normalize_str(TEXT))
    return {c for c in CODE_POINTS if chr(c) not in rest}


def rows(labels):
    """[first, last, label] of runs of equal labels."""
    out = []
    for c in sorted(labels):
        if out and out[-1][1] == c - 1 and out[-1][2] == labels[c]:
            out[-1][1] = c
        else:
            out.append([c, c, labels[c]])
    return out


assert unicodedata.unidata_version == "14.0.0"
recent = {}
for category in CATEGORIES:
    for c in matching(r"\p{%s}" % category):
        old = unicodedata.category(chr(c))
        if old == "Cn":
            recent[c] = [category.lower(), "none"]
        else:
            assert old.startswith(category), (hex(c), old, category)  # a change needs thought
for script in SCRIPTS:
    for c in matching(r"\p{%s}" % script):
        if c in recent:
            recent[c][1] = script.lower()
digits = pre_tokenizers.Digits(individual_digits=True)
for c in CODE_POINTS:  # the standard library behind Digits can be one version ahead
    if len(digits.pre_tokenize_str("a" + chr(c))) == 2 and c not in recent:
        if unicodedata.category(chr(c))[0] != "N":
            recent[c] = ["digits_only", "none"]

nfc, nfkd, lower = normalizers.NFC(), normalizers.NFKD(), normalizers.Lowercase()


def moves(c):
    """Whether canonical ordering moves the code point: its combining class is not 0."""
    text = chr(c)
    return (normalizers.NFD().normalize_str("a" + text + "\u0334") == "a\u0334" + text
            or normalizers.NFD().normalize_str("a\u0345" + text) == "a" + text + "\u0345")


inert = set()
for c in CODE_POINTS:
    text = chr(c)
    knows = unicodedata.combining(text) != 0 or unicodedata.normalize("NFKD", text) != text
    if knows and nfkd.normalize_str(text) == text and not moves(c):
        inert.add(c)
        inert.update(map(ord, unicodedata.normalize("NFD", text)))
# What composes today and did not then: the second half as well must stay apart.
lowered = {c: ord(lower.normalize_str(chr(c)))
           for c in CODE_POINTS if unicodedata.category(chr(c)) == "Cn" and len(lower.normalize_str(chr(c))) == 1
           and lower.normalize_str(chr(c)) != chr(c)}
# Cased letters of Unicode 14 and before whose small letter came later.
for c in CODE_POINTS:
    small = lower.normalize_str(chr(c))
    if len(small) == 1 and small != chr(c) and chr(c).lower() == chr(c):
        lowered[c] = ord(small)

print("// Made by make_recent_code_points.py from tokenizers %s; do not edit." % tokenizers.__version__)
print("// clang-format off")
print("inline constexpr RecentRange kRecent[] = {")
for first, last, (category, script) in rows({c: tuple(v) for c, v in recent.items()}):
    print("    {0x%X, 0x%X, Category::%s, Script::%s}," % (first, last, category, script))
print("};")
print("inline constexpr CodePointRange kInert[] = {")
for first, last, _ in rows({c: 0 for c in inert}):
    print("    {0x%X, 0x%X}," % (first, last))
print("};")
print("inline constexpr LowerRange kRecentLower[] = {")
for first, last, delta in rows({c: small - c for c, small in lowered.items()}):
    print("    {0x%X, 0x%X, %d}," % (first, last, delta))
print("};")
print("// clang-format on")
