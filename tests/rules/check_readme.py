#!/usr/bin/env python3
"""The C++ of README.md compiles: each block as it stands, behind the few names that a host would bring.

check_readme.py ROOT COMPILER
"""
import pathlib
import re
import subprocess
import sys

HOST = """#include <chrono>
#include <cstdio>
#include <iostream>
#include <span>
#include <string>
#include <vector>
using Vector = std::vector<float>;
struct Session { std::vector<Vector> run(std::span<const std::string> texts) { return std::vector<Vector>(texts.size()); } };
[[maybe_unused]] static Session session;
template <class E> int report(const E&) { return 1; }
"""


def main():
    root, compiler = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    blocks = re.findall(r"^```cpp\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    wrong = 0
    for number, block in enumerate(blocks, 1):
        missing = [name for name in re.findall(r"#include <(ciuic/[^>]+)>", block) if not (root / "include" / name).exists()]
        if missing:
            wrong += 1
            print(f"block {number}: there is no {', '.join(missing)}")
            continue
        done = subprocess.run([compiler, "-std=c++20", "-fsyntax-only", "-I", str(root / "include"), "-xc++", "-"],
                              input=HOST + block, text=True, capture_output=True)
        if done.returncode != 0:
            wrong += 1
            print(f"block {number}:\n{done.stderr}")
    print(f"{len(blocks)} blocks of C++ in README.md, {wrong} do not compile")
    return 1 if wrong or not blocks else 0


if __name__ == "__main__":
    sys.exit(main())
