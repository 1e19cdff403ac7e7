#!/usr/bin/env python3
"""Who may include whom, and what may be named where. The table is ARCHITECTURE.md's.

check_includes.py ROOT        checks include/, src/, cuda/, tools/ and examples/ of a tree
check_includes.py --self-test plants violations in a scratch tree and expects each to be found
"""
import pathlib
import re
import sys
import tempfile

BELOW = {  # folder -> the folders it may include besides itself
    "base": "",
    "exec": "base", "observe": "base", "dist": "base", "text": "base",
    "devices": "exec base", "batching": "exec base", "ops": "exec base",
    "engine": "batching devices exec base",
    "quant": "ops exec base",
    "cpu": "ops quant exec base",  # src/cpu implements ops; nobody includes it
    "model": "ops quant text dist exec base",
    "train": "model ops quant text dist exec base",
    "cuda": "ops dist base",
}
BELOW = {folder: set(below.split()) | {folder} for folder, below in BELOW.items()}
ANYTHING = {"tools", "examples", "facade"}  # these see every public header

# Libraries and where they live. In include/ only the standard library, and Eigen in eigen.hpp.
LIBRARIES = {
    r"nlohmann/": {"base", "tools"}, r"pcre2": {"text"}, r"utf8proc": {"text"}, r"hwy/": {"cpu"},
    r"Eigen/": {"quant", "model", "train"}, r"CLI/|httplib": {"tools", "examples"},
    r"onnxruntime_cxx_api": {"examples"}, r"cuda|cublas|nccl": {"cuda"},
}
STANDARD = re.compile(r"[a-z_0-9]+$|(stdint|stddef)\.h$")
SYSTEM_IN_PUBLIC = {("include/ciuic/base/timer_slack.hpp", "sys/prctl.h")}  # what no standard header offers
SYSTEM = re.compile(r"(sys/|poll\.h|immintrin|cpuid|fcntl|unistd|malloc\.h|dlfcn|arm_neon)")

NAMES = [  # (what, where it is looked for, where it is allowed, why)
    (r"\bstd::(jthread|thread|(shared_|timed_|recursive_)*mutex|condition_variable\w*|async|future|promise|"
     r"this_thread|call_once|once_flag)\b", {"include", "src", "cuda"}, {"include/ciuic/base/sync.hpp"},
     "threads go through base/sync.hpp, so that tests can schedule them"),
    (r"\bstd::(cout|cerr|clog)\b|(\bstd::|(?<=[;{})])\s*)(printf|fprintf|puts|abort|exit|_exit|quick_exit|terminate|"
     r"signal|sigaction)\s*\(|\b(secure_)?getenv\s*\(", {"include", "src"}, set(),
     "the library never prints, aborts, reads the environment or installs handlers"),
    (r"\bstd::w?regex\b|#\s*pragma\s+omp\b", {"include", "src"}, set(), "std::regex overflows the stack; OpenMP owns threads"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
COMMENT_OR_TEXT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)


def owner(path):
    """The row of the table that a file of ours belongs to; None when there is none."""
    parts = path.parts
    if parts[0] in ("tools", "examples", "cuda"):
        return parts[0]
    if parts[0] == "include":
        return parts[2] if len(parts) > 3 else "facade"
    return parts[1] if len(parts) > 2 else "facade"  # src/


def check_file(root, path):
    text = (root / path).read_text(encoding="utf-8")
    row, public = owner(path), path.parts[0] == "include"
    if row not in BELOW and row not in ANYTHING:
        yield 1, f"folder `{row}` is not in the table of check_includes.py"
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match[2]
        ours = target.removeprefix("ciuic/").split("/")
        if target.startswith("ciuic/"):
            folder = ours[0] if len(ours) > 1 else "facade"
            if row not in ANYTHING and folder not in BELOW[row]:
                yield number, f"{row} may not include {folder}: {target}"
        elif public:
            library = next((where for name, where in LIBRARIES.items() if re.match(name, target)), None)
            if library is not None and not (path.name == "eigen.hpp" and target.startswith("Eigen/")):
                yield number, f"a public header may not include a library: {target}"
            elif library is None and match[1] == '"' and target != "ciuic_sync_simulated.hpp":
                yield number, f"a public header may not include a private one: {target}"
            elif (library is None and match[1] == "<" and not STANDARD.match(target)
                  and (path.as_posix(), target) not in SYSTEM_IN_PUBLIC):
                yield number, f"a public header includes the standard library only: {target}"
        elif match[1] == '"' and path.parts[0] in ("src", "cuda"):
            folder = ours[0] if len(ours) > 1 and (root / "src" / ours[0]).is_dir() else row
            if row not in ANYTHING and folder not in BELOW[row]:
                yield number, f"src/{row} may not include src/{folder}: {target}"
        elif match[1] == "<" and not STANDARD.match(target) and not SYSTEM.match(target):
            library = next((where for name, where in LIBRARIES.items() if re.match(name, target)), {})
            if row not in library:
                yield number, f"{target} has no place in {row}"
    bare = COMMENT_OR_TEXT.sub(lambda m: "\n" * m[0].count("\n"), text)
    for pattern, looked_for, allowed, why in NAMES:
        if path.parts[0] in looked_for and path.as_posix() not in allowed:
            for match in re.finditer(pattern, bare):
                yield bare.count("\n", 0, match.start()) + 1, f"`{match[0].strip()}`: {why}"


def check(root):
    files = sorted(f for top in ("include", "src", "cuda", "tools", "examples") for f in (root / top).rglob("*")
                   if f.suffix in (".hpp", ".h", ".cpp", ".inl", ".cu", ".cuh"))
    found = [f"{f.relative_to(root)}:{number}: {what}"
             for f in files for number, what in check_file(root, f.relative_to(root))]
    return len(files), found


PLANTED = {  # file -> (text, words of the complaint; empty for none)
    "include/ciuic/base/up.hpp": ('#include "ciuic/exec/pool.hpp"', "base may not include exec"),
    "include/ciuic/engine/leak.hpp": ("#include <ciuic/model/config.hpp>", "engine may not include model"),
    "include/ciuic/model/knows.hpp": ('#include "ciuic/batching/batcher.hpp"', "model may not include batching"),
    "include/ciuic/engine/fine.hpp": ('#include "ciuic/batching/x.hpp"', ""),
    "include/ciuic/text/re.hpp": ("#include <pcre2.h>", "may not include a library"),
    "include/ciuic/ops/gpu.hpp": ("#include <cuda_runtime.h>", "may not include a library"),
    "include/ciuic/model/inside.hpp": ('#include "model/weights.hpp"', "may not include a private one"),
    "include/ciuic/base/posix.hpp": ("#include <unistd.h>", "standard library only"),
    "include/ciuic/eigen.hpp": ("#include <Eigen/Core>", ""),
    "include/ciuic/ciuic.hpp": ('#include "ciuic/model/config.hpp"', ""),
    "include/ciuic/batching/lock.hpp": ("\nstd::mutex m;", "lock.hpp:2: `std::mutex`"),
    "include/ciuic/base/sync.hpp": ("std::condition_variable c; std::thread t;", ""),
    "include/ciuic/exec/words.hpp": ("// std::thread and printf() in words are fine\n/* std::mutex */", ""),
    "include/ciuic/shapes/new.hpp": ("", "folder `shapes` is not in the table"),
    "src/text/print.cpp": ("void f() { std::cout << 1; }", "never prints"),
    "src/base/stop.cpp": ("void f() { std::abort(); }", "never prints, aborts"),
    "src/base/text.cpp": ('int n = snprintf(b, 8, "%d", i); auto s = "abort()"; loop.exit(); on_exit();\n'
                      "struct S { void abort(); };", ""),
    "src/base/env.cpp": ("auto home = getenv(name);", "never prints, aborts, reads"),
    "src/text/json.cpp": ("#include <nlohmann/json.hpp>", "has no place in text"),
    "src/base/json.cpp": ("#include <nlohmann/json.hpp>\n#include <sys/mman.h>", ""),
    "src/text/up.cpp": ('#include "model/weights.hpp"', "src/text may not include src/model"),
    "src/model/down.cpp": ('#include "text/tokenizer.hpp"\n#include "local.hpp"', ""),
    "src/model/weights.hpp": ("#pragma omp parallel", "OpenMP"),
    "tools/all.cpp": ('#include <CLI/CLI.hpp>\n#include "ciuic/model/config.hpp"\nint f() { std::exit(2); }', ""),
}


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, (text, _) in PLANTED.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text + "\n", encoding="utf-8")
        _, found = check(root)
    wrong = []
    for name, (_, words) in PLANTED.items():
        complaints = [line for line in found if line.startswith(name + ":")]
        if (words and not any(words in line for line in complaints)) or (not words and complaints):
            wrong.append(f"{name}: expected {words or 'nothing'!r}, got {complaints}")
    print(*wrong, f"{len(PLANTED)} planted files, {len(wrong)} misjudged", sep="\n")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    count, found = check(pathlib.Path(sys.argv[1]).resolve())
    print(*found, f"{count} files, {len(found)} violations", sep="\n")
    return 1 if found or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
