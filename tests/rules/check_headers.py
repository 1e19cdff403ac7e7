#!/usr/bin/env python3
"""Every public header compiles alone, under strict warnings; those of the core also without exceptions.

check_headers.py ROOT COMPILER [JOBS]
"""
import os
import pathlib
import subprocess
import sys
import threading

CORE = ("base", "exec", "devices", "batching", "engine", "observe", "dist")
STRICT = ("-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wnon-virtual-dtor -Wold-style-cast "
          "-Wdouble-promotion -Werror").split()
PLAIN = ["-fno-exceptions", "-fno-rtti"]


def main():
    root, compiler = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2]
    jobs = int(sys.argv[3]) if len(sys.argv) > 3 else min(2, os.cpu_count() or 1)
    work = []
    for header in sorted((root / "include").rglob("*.hpp")):
        name = header.relative_to(root / "include")
        if name.name == "eigen.hpp":  # needs Eigen; its own test compiles it
            continue
        work.append((name.as_posix(), []))
        if len(name.parts) > 2 and name.parts[1] in CORE:
            work.append((name.as_posix(), PLAIN))
    total, failures, lock = len(work), [], threading.Lock()

    def worker():
        while True:
            with lock:
                if not work:
                    return
                name, flags = work.pop()
            command = [compiler, "-std=c++20", "-fsyntax-only", "-I", str(root / "include"), *STRICT, *flags, "-xc++", "-"]
            done = subprocess.run(command, input=f'#include "{name}"\n', text=True, capture_output=True)
            if done.returncode != 0:
                with lock:
                    failures.append(f"{name} {' '.join(flags)}\n{done.stderr}")

    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*failures, f"{total} compilations of headers alone, {len(failures)} failed", sep="\n")
    return 1 if failures or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
