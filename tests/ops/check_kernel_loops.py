"""The hot loops of the kernels keep their sums in registers, and multiply as they should.

  check_kernel_loops.py --objdump objdump OBJECT…      objects of CIUIC_KERNEL_TARGETS, x86-64
  check_kernel_loops.py --self-test

A compiler that runs out of registers parks vectors on the stack; the results stay right and a third of
the speed is gone. So each object is disassembled. A hot loop is a smallest stretch between a jump back and
its target that multiplies and adds at least eight times; the vectors that travel between it and the stack,
for each multiply-add, may be no more than LIMITS says, and none where it says nothing. Numbers that become
vectors on their way from the stack are no such vectors; nor do loops count that end a tile, whose
constants may lie anywhere. Other instructions cost as well, where another thread shares the core: LENGTHS
says how many the largest tiles may have. An object that has no hot loop fails as well, and one whose loops lack the
instruction that its instruction set is there for: the reader of listings might have gone blind.
"""
import collections
import re
import subprocess
import sys

ENOUGH = 8  # multiply-adds that make a loop hot
MULTIPLY = re.compile(r"vfn?m(?:add|sub)\d*ps|vpdpbusds?|vpmaddubsw|vpmaddwd")
JUMP = re.compile(r"j[a-z]+\s+([0-9a-f]+)\b")
LINE = re.compile(r"\s*([0-9a-f]+):\s+(?:\{\w+\}\s+)?(\S.*)")
TITLE = re.compile(r"[0-9a-f]+ <(.*)>:")

# What a hot loop of (kernel, instruction set) must have.
BYTES = {"avx2": ("vpmaddubsw", "ymm"), "avx2vnni": ("vpdpbusd", "ymm"),
         "avx512": ("vpmaddubsw", "zmm"), "avx512vnni": ("vpdpbusd", "zmm")}
FLOATS = {"avx2": ("vfmadd", "ymm"), "avx512": ("vfmadd", "zmm")}
EXPECTED = {"gemm_i8": BYTES, "gemm_i4": BYTES, "gemm_f32": FLOATS, "gemm_bf16": FLOATS,
            "attention": FLOATS}

# Tiles of how many rows a matmul has, on each instruction set.
ROWS = {"avx2": 3, "avx2vnni": 3, "avx512": 6, "avx512vnni": 6}
# Where g++ 12 does not manage, at what the loops measured, by the rows of the tile: tiles that want more
# registers than there are (16 without AVX-512, temporaries of the dot product without VNNI), one tile of
# floats, and the one row of i4.
LIMITS = {("gemm_f32", "avx512"): {6: 0.03}, ("gemm_bf16", "avx512"): {6: 0.09},
          ("gemm_i4", "avx512vnni"): {1: 1.5}, ("gemm_i8", "avx512"): {2: 0.5},
          ("gemm_i4", "avx512"): {1: 1.0, 4: 0.3, 5: 0.5, 6: 0.75},
          ("gemm_i8", "avx2vnni"): {3: 0.3}, ("gemm_i4", "avx2vnni"): {1: 1.5, 3: 0.42},
          ("gemm_f32", "avx2"): {3: 0.25}, ("gemm_bf16", "avx2"): {3: 0.6},
          ("gemm_i8", "avx2"): {1: 0.45, 2: 0.75, 3: 0.5}, ("gemm_i4", "avx2"): {1: 1.0, 2: 0.5, 3: 1.2},
          ("attention", "avx2"): {1: 0.34}}
# Instructions for each multiply-add of the largest tile, in the loops that pass over a block (those with at
# least LONG of them; what is left over runs through a shorter one). Loads and multiply-adds alone are 1.42.
LENGTHS = {("gemm_i8", "avx512vnni"): 1.57, ("gemm_f32", "avx512"): 1.63, ("gemm_bf16", "avx512"): 1.7}
LONG = 96
TILE = re.compile(r"\bmultiply<(\d+)")  # a tile of one row may have been inlined
EPILOGUES = re.compile(r"\b(finish\w*|soften_rows|merge_\w+)\b")
BROADCAST = re.compile(r"v\w*broadcast|.*\{1to\d+\}")

Loop = collections.namedtuple("Loop", "function begin instructions")


def functions(listing):
    """(name, [(address, instruction)]) of each function."""
    name, body = None, []
    for line in listing.splitlines():
        title, code = TITLE.match(line), LINE.match(line)
        if title:
            if body:
                yield name, body
            name, body = title.group(1), []
        elif code and name is not None:
            body.append((int(code.group(1), 16), code.group(2).split("#")[0].strip()))
    if body:
        yield name, body


def hot_loops(name, body):
    """The smallest loops with enough multiply-adds in them."""
    places = {address: i for i, (address, _) in enumerate(body)}
    stretches = []
    for i, (_, text) in enumerate(body):
        jump = JUMP.match(text)
        begin = places.get(int(jump.group(1), 16)) if jump else None
        if begin is not None and begin <= i:
            inside = [t for _, t in body[begin:i + 1]]
            if sum(1 for t in inside if MULTIPLY.match(t)) >= ENOUGH:
                stretches.append((begin, i))
    for begin, end in stretches:
        if not any((b, e) != (begin, end) and b >= begin and e <= end for b, e in stretches):
            yield Loop(name, body[begin][0], [t for _, t in body[begin:end + 1]])


def stack_registers(body):
    """%rbp is one where the function makes it one; elsewhere it may be any pointer."""
    framed = any(text.split() == ["mov", "%rsp,%rbp"] for _, text in body)
    return ("%rsp", "%rbp") if framed else ("%rsp",)


def check(listing, wanted, limits=None, rows=0, length=None):
    """What is wrong with one object that has tiles of up to `rows`; and its number of hot loops."""
    operation, width = wanted
    wrong, count, found, tiles = [], 0, False, set()
    for name, body in functions(listing):
        stack = stack_registers(body)
        tile = int(TILE.search(name).group(1)) if TILE.search(name) else 1
        limit = (limits or {}).get(tile, 0.0)
        for loop in hot_loops(name, body) if not EPILOGUES.search(name) else ():
            count += 1
            tiles.add(tile)
            found = found or any(t.startswith(operation) and width in t for t in loop.instructions)
            parked = [t for t in loop.instructions if re.search(r"%[yz]mm", t)
                      and any(f"({r}" in t for r in stack) and not BROADCAST.match(t)]
            multiplies = sum(1 for t in loop.instructions if MULTIPLY.match(t))
            if len(parked) > limit * multiplies:
                wrong.append(f"{name} at {loop.begin:x}: {len(parked)} vectors to and from the stack "
                             f"for {multiplies} multiply-adds, the first: {parked[0]}")
            if length and tile == rows and multiplies >= LONG and len(loop.instructions) > length * multiplies:
                wrong.append(f"{name} at {loop.begin:x}: {len(loop.instructions)} instructions for "
                             f"{multiplies} multiply-adds")
    if count == 0:
        wrong.append("no hot loop found")
    elif not found:
        wrong.append(f"no hot loop has {operation} of {width}")
    elif missing := set(range(1, rows + 1)) - tiles:
        wrong.append(f"no hot loop found of tiles of {sorted(missing)} rows")
    return wrong, count


def names_of(path):
    """Kernel and instruction set of an object."""
    target = re.search(r"ciuic_cpu_(\w+)\.dir", path)
    kernel = re.search(r"([a-z0-9_]+)\.cpp\.o(?:bj)?$", path)
    return (kernel.group(1), target.group(1)) if target and kernel else (None, None)


def wanted_of(path):
    """What the object at `path` must have; None: it has no say."""
    kernel, isa = names_of(path)
    return EXPECTED.get(kernel, {}).get(isa)


def main(objdump, objects):
    wanted = {path: wanted_of(path) for path in objects}
    checked = {names_of(path) for path, want in wanted.items() if want}
    missing = {(k, isa) for k, sets in EXPECTED.items() for isa in sets} - checked
    if missing:
        print(f"check_kernel_loops: no object of {sorted(missing)}")
        return 1
    failed = 0
    for path, want in wanted.items():
        if want is None:
            continue
        listing = subprocess.run([objdump, "-d", "--no-show-raw-insn", "-C", path], check=True,
                                 capture_output=True, text=True).stdout
        kernel, isa = names_of(path)
        rows = ROWS[isa] if kernel.startswith("gemm") else 0
        wrong, count = check(listing, want, LIMITS.get((kernel, isa)), rows,
                             LENGTHS.get((kernel, isa)))
        print(f"{isa} {kernel}: {count} hot loops")
        for line in wrong:
            print(f"  {line}")
        failed += len(wrong)
    return 1 if failed else 0


def self_test():
    def listing(*inside, operation="vpdpbusd", frame=""):
        lines = ["0000000000000010 <kernel>:", "  0f:\tpush   %rbp", *([frame] if frame else [])]
        at = 0x10
        for text in [*[f"{operation} %zmm1,%zmm2,%zmm{i}" for i in range(8)], *inside, "jne    10"]:
            lines.append(f"  {at:x}:\t{text}")
            at += 6
        return "\n".join([*lines, f"  {at:x}:\tvmovaps %zmm0,0x40(%rsp)", f"  {at + 8:x}:\tret"])

    want = ("vpdpbusd", "zmm")
    assert check(listing(), want) == ([], 1)
    assert check(listing("prefetcht1 (%rsi)", "mov    0x8(%rsp),%rax"), want) == ([], 1)
    assert check(listing("vmovdqa32 (%rbp),%zmm3"), want) == ([], 1), "%rbp is a pointer here"
    for spill in ("vmovdqa32 %zmm8,-0x38(%rsp)", "vmovaps -0x38(%rsp),%ymm8",
                  "vfmadd231ps 0x40(%rsp,%rax,4),%zmm1,%zmm2"):
        assert len(check(listing(spill), want)[0]) == 1, spill
    for scalar in ("vbroadcastss 0x10(%rsp),%zmm3", "vfmadd231ps 0x8(%rsp){1to16},%zmm1,%zmm2"):
        assert check(listing(scalar), want) == ([], 1), scalar
    spill = "vmovdqa32 %zmm8,-0x38(%rsp)"
    assert check(listing(spill), want, {1: 0.125})[0] == [] and len(check(listing(spill), want, {1: 0.12})[0]) == 1
    six = listing(spill).replace("<kernel>", "<I8Weights::multiply<6ul>(Task)>")
    assert len(check(six, want, {1: 1.0})[0]) == 1, "the allowance of one row is not that of six"
    dots, copies = ["vpdpbusd %zmm1,%zmm2,%zmm3"] * LONG, ["vmovdqa64 %zmm1,%zmm2"] * LONG
    assert len(check(listing(*dots, *copies), want, rows=1, length=1.5)[0]) == 1
    assert check(listing(*dots, *copies[:9]), want, rows=1, length=1.5) == ([], 1)
    assert check(listing(*copies), want, rows=1, length=1.5) == ([], 1), "a short loop"
    assert check(listing(), want, rows=2)[0] == ["no hot loop found of tiles of [2] rows"]
    framed = listing("vmovdqa32 %zmm8,-0x50(%rbp)", frame="  0e:\tmov    %rsp,%rbp")
    assert len(check(framed, want)[0]) == 1
    assert check(listing(operation="vpmaddubsw"), want)[0] == ["no hot loop has vpdpbusd of zmm"]
    assert check(listing(operation="vpaddd"), want)[0] == ["no hot loop found"]
    # The loop of prefetches inside does not hide the one around it.
    nested = listing("prefetcht1 (%rbx)", "jne    40", "vmovaps %zmm1,(%rsp)")
    assert len(check(nested, want)[0]) == 1
    path = "src/cpu/CMakeFiles/ciuic_cpu_avx512vnni.dir/gemm_i8.cpp.o"
    assert wanted_of(path) == want
    assert wanted_of(path.replace("gemm_i8", "rotate")) is None
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test())
    sys.exit(main(sys.argv[2], sys.argv[3:]))
