"""Runs ciuic and its peers side by side on this processor, and writes bench/results/cpu.md.

  cpu_report.py --samples FILE --ciuic BUILD --python PYTHON --work DIR
                [--llama DIR] [--ik DIR] [--only PATTERN] [--seconds 85]
  cpu_report.py --samples FILE --report bench/results

A *pair* is one cell (shape, weights, threads, batch and context) against one peer. A round of it runs
ciuic, the peer and ciuic again, each in a process of its own, and appends one line of JSON to FILE: what
the machine could do just then, the peer's tokens/s, and the mean of ciuic's two. (Of two rounds of one
cell, the second begins with the run that ended the first.) Only figures of one round are ever divided by
each other; the report gives medians over rounds. A "pair" with nobody, NAME:alone, is ciuic's alone.

Each call takes the pairs with the fewest rounds first, and starts none that would not end within
--seconds. --work holds the models (make_gguf.py writes DIR/gguf; others are made on first use).
"""
import argparse
import datetime
import fnmatch
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = os.path.join(os.path.dirname(HERE), "shapes")
GGUF = {"i8": "Q8_0", "i4": "Q4_0", "bf16": "BF16", "f32": "F32"}
LABELS = {"llama": "llama.cpp", "ik": "ik_llama.cpp", "torch": "PyTorch",
          "onnx": "ONNX Runtime", "ct2": "CTranslate2", "onednn": "oneDNN"}


def make_pairs():
    """name -> what to run."""
    pairs = {}

    def add(peer, **cell):
        short = cell["shape"].removeprefix("llama-")
        batch = f"-b{cell['batch']}c{cell['context']}" if cell["batch"] > 1 else ""
        pairs[f"{short}-{cell['weights']}-t{cell['threads']}{batch}:{peer}"] = {"peer": peer, **cell}

    for threads in (2, 1):
        one = {"threads": threads, "batch": 1, "context": 512}
        for weights, peer in itertools.product(("i8", "i4", "bf16", "f32"), ("ik", "llama")):
            add(peer, shape="llama-1.1b", weights=weights, **one)
        for weights in ("i8", "f32"):
            for peer in ("ik", "llama", "torch", "onnx", "ct2"):
                add(peer, shape="llama-110m", weights=weights, **one)
        for context, batch, peer in itertools.product((192, 1024), (8, 32), ("ik", "llama")):
            add(peer, shape="llama-1.1b", weights="i8", threads=threads, batch=batch,
                context=context)
        for weights in ("i8", "i4", "bf16", "f32"):
            add("alone", shape="llama-1.1b", weights=weights, **one)
        for context, batch in itertools.product((192, 1024), (8, 32)):
            add("alone", shape="llama-1.1b", weights="i8", threads=threads, batch=batch,
                context=context)
        for weights, mode, matrix in itertools.product(
                ("i8", "f32"), ("hot", "cold"),
                ("768x3072", "2048x2048", "2048x5632", "4096x4096")):
            pairs[f"gemm-{weights}-{mode}-{matrix}-t{threads}:onednn"] = {
                "peer": "onednn", "weights": weights, "mode": mode, "matrix": matrix,
                "threads": threads}
    return pairs


class Runner:
    def __init__(self, options):
        self.o = options
        self.last = None, None  # a cell, and what ciuic did in it

    def lines(self, command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def model(self, cell):
        """Which weights ciuic is to take. Quantized directories load faster than random weights."""
        shape = f"{SHAPES}/{cell['shape']}.json"
        if cell["weights"] == "f32" or not self.o.work:
            return ["--random-weights", shape, "--weights", cell["weights"]]
        folder = f"{self.o.work}/ciuic"
        path = f"{folder}/{cell['shape']}-{cell['weights']}"
        if not os.path.exists(path):
            import make_directory  # needs numpy, which a report does not
            source = make_directory.make(shape, folder)
            subprocess.run([f"{self.o.ciuic}/bin/ciuic", "quantize", "--model", source, "--out", path,
                            "--weights", cell["weights"]], check=True)
        return ["--model", path]

    def ciuic(self, cell):
        cell = {key: value for key, value in cell.items() if key != "peer"}
        command = [f"{self.o.ciuic}/bin/ciuic", "bench", "--json", *self.model(cell), "--threads",
                   str(cell["threads"]), "--batch", str(cell["batch"]), "--prompt-tokens",
                   str(cell["context"]), "--gen-tokens", str(tokens(cell)), "--repeat",
                   "1" if cell["shape"] == "llama-1.1b" and cell["batch"] == 1 else "3"]
        row = self.lines(command)[0]["runs"][0]
        self.last = cell, {what: row[f"{what}_tokens_per_s"] for what in ("prefill", "decode")}
        return self.last[1]

    def peer(self, cell):
        flags = ["--shape", f"{SHAPES}/{cell['shape']}.json", "--threads", str(cell["threads"]),
                 "--prompt-tokens", str(cell["context"]), "--gen-tokens", str(tokens(cell))]
        script = {"llama": "run_llama", "ik": "run_llama", "torch": "run_torch",
                  "onnx": "run_onnx", "ct2": "run_ctranslate2"}[cell["peer"]]
        weights = cell["weights"]
        if script == "run_llama":
            weights = GGUF[weights]
            folder = self.o.llama if cell["peer"] == "llama" else self.o.ik
            flags += ["--bin", folder, "--gguf", f"{self.o.work}/gguf", "--engine",
                      LABELS[cell["peer"]], "--repeat", "1"]
            version = getattr(self.o, cell["peer"] + "_version")
            flags += ["--version", version] if version else []
            if cell["batch"] > 1:
                flags += ["--what", "batched", "--batch", str(cell["batch"])]
                flags += ["--shared-prompt"] if shares_prompt(cell) else []
        else:
            flags += ["--repeat", "3"]
            if script != "run_torch":
                flags += ["--work", f"{self.o.work}/{cell['peer']}"]
        rows = self.lines([self.o.python, f"{HERE}/{script}.py", "--weights", weights, *flags])
        version = next((row["version"] for row in rows if "version" in row), "")
        return {row["what"]: row["tokens_per_s"] for row in rows}, version

    def round(self, cell):
        record = {"cell": cell}
        if self.o.ciuic:
            probe = self.lines([f"{self.o.ciuic}/bench/probe_machine", "--rounds", "9"])[0]
            record["probe"] = probe[f"t{cell['threads']}"]
        if cell["peer"] == "onednn":
            record["gemm"] = self.lines([
                f"{self.o.ciuic}/bench/gemm_onednn", "--weights", cell["weights"], "--mode",
                cell["mode"], "--threads", str(cell["threads"]), "--shape", cell["matrix"]])
            return record
        if not self.o.ciuic:
            record["peer"], record["version"] = self.peer(cell)
            return record
        if cell["peer"] == "alone":
            record["peer"], record["ciuic"] = {}, self.ciuic(cell)
            return record
        same = self.last[0] == {key: value for key, value in cell.items() if key != "peer"}
        before = self.last[1] if same else self.ciuic(cell)
        record["peer"], record["version"] = self.peer(cell)
        after = self.ciuic(cell)
        record["ciuic"] = {what: (before[what] + after[what]) / 2 for what in before}
        return record


def tokens(cell):
    """How many tokens each sequence generates in a measurement."""
    if cell["shape"] == "llama-110m":
        return 64
    return 32 if cell["batch"] == 1 else 8


def shares_prompt(cell):
    """llama.cpp copies one prompt to all sequences, so that nothing is lost by computing but one; the
    cells that ik_llama.cpp's sequences share spare it work, and it is let off only where computing
    all prompts would take minutes."""
    return cell["peer"] == "llama" or cell["batch"] * cell["context"] / cell["threads"] > 4200


def read_samples(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def measure(options):
    """Rounds of the pairs that match, those with the fewest first, while there is time."""
    start, runner, pairs = time.time(), Runner(options), make_pairs()
    have = {"torch": True, "onnx": True, "ct2": True, "onednn": options.ciuic,
            "alone": options.ciuic,
            "llama": options.llama, "ik": options.ik}
    names = [n for n, c in pairs.items() if have[c["peer"]] and
             any(fnmatch.fnmatch(n, p) for p in options.only)]
    rounds, cost = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    for sample in read_samples(options.samples):
        name = sample["name"]
        if name in rounds and ("ciuic" in sample or "gemm" in sample or not options.ciuic):
            rounds[name] += 1
            cost[name] = max(cost[name], sample["took_s"])
    for name in sorted(names, key=lambda n: rounds[n]):
        began = time.time()
        if began - start + cost[name] > options.seconds:
            continue
        try:
            record = runner.round(pairs[name])
        except (RuntimeError, IndexError, KeyError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        took = time.time() - began
        record = {"name": name, "at": datetime.datetime.now().isoformat(timespec="seconds"),
                  "took_s": round(took, 1), **record}
        with open(options.samples, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name} {took:.0f} s: {record.get('ciuic', '')} {record.get('peer', '')}")


def work(shape):
    """Multiply-adds of one token in the layers' matrices, in those and the head; elements of the keys
    and values of one position."""
    with open(f"{SHAPES}/{shape}.json", encoding="utf-8") as file:
        c = json.load(file)
    model, layers = c["hidden_size"], c["num_hidden_layers"]
    kv = model // c["num_attention_heads"] * c["num_key_value_heads"]
    matrices = layers * (2 * model * model + 2 * model * kv + 3 * model * c["intermediate_size"])
    return matrices, matrices + c["vocab_size"] * model, layers * 2 * kv


def roof(cell, probe, what):
    """Tokens/s that the machine allows: the multiply-add peak, and for decoding what reading every
    weight once a step takes (from context 1024 on, the keys and values as well)."""
    layers, parameters, kv = work(cell["shape"])
    peak = probe["byte_dot_gops" if cell["weights"] in ("i8", "i4") else "fma_gflops"] * 1e9
    if what == "prefill":
        return peak / (2 * layers)
    step_bytes = parameters * {"f32": 4, "bf16": 2, "i8": 1, "i4": 0.5 + 2 / 64}[cell["weights"]]
    if cell["context"] >= 1024:
        step_bytes += cell["batch"] * cell["context"] * kv * (4 if cell["weights"] == "f32" else 2)
    steps = probe["read_gb_per_s"] * 1e9 / step_bytes
    return min(peak / (2 * parameters), steps * cell["batch"])


def summarise(samples):
    """(cell, what) -> ciuic's rate and share of the roof, and each peer's rate and ratio."""
    table = {}
    for sample in samples:
        cell = {k: v for k, v in sample["cell"].items() if k != "peer"}
        for what in sample.get("ciuic", {}):
            row = table.setdefault((json.dumps(cell), what), {"cell": cell, "ours": [], "share": [],
                                                              "peers": {}, "flattered": set()})
            ours = sample["ciuic"][what]
            row["ours"].append(ours)
            row["share"].append(ours / roof(cell, sample["probe"], what))
            if what in sample["peer"]:  # nothing for those alone
                flattered = cell["batch"] > 1 and sample["cell"]["peer"] == "ik" and (
                    shares_prompt(sample["cell"]))
                row["flattered"] |= {"ik"} if flattered else set()
                row["peers"].setdefault(sample["cell"]["peer"], []).append(
                    (sample["peer"][what], ours / sample["peer"][what]))
    return table


def rate_and_ratio(pairs):
    ratios = [ratio for _, ratio in pairs]
    text = f"{statistics.median(rate for rate, _ in pairs):.1f} (**{statistics.median(ratios):.2f}×**"
    if len(pairs) > 1:
        text += f", {min(ratios):.2f}-{max(ratios):.2f}"
    return text + f", n={len(pairs)})"


def behind(table):
    """Lines that name every cell in which some peer was ahead of ciuic."""
    lines = []
    for (_, what), row in table.items():
        cell = row["cell"]
        for peer, pairs in row["peers"].items():
            ratio = statistics.median(r for _, r in pairs)
            if ratio < 1:
                lines.append(f"- {cell['shape']}, {cell['weights']}, {cell['threads']} threads, {what} of "
                             f"{cell['batch']} at {cell['context']}: {LABELS[peer]} {1 / ratio:.2f}× of "
                             "ciuic")
    return lines


def model_table(rows, peers):
    lines = ["| weights | threads | batch, context | | ciuic | of the roof | " +
             " | ".join(LABELS[p] for p in peers) + " |", "|---" * (6 + len(peers)) + "|"]
    for (_, what), row in rows:
        cell = row["cell"]
        cells = [cell["weights"], str(cell["threads"]), f"{cell['batch']}, {cell['context']}", what,
                 f"{statistics.median(row['ours']):.1f}", f"{statistics.median(row['share']):.2f}"]
        for peer in peers:
            pairs = row["peers"].get(peer)
            cells.append("" if not pairs else rate_and_ratio(pairs) +
                         ("†" if peer in row["flattered"] else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def gemm_table(samples):
    cells = {}
    for sample in samples:
        for row in sample.get("gemm", []):
            key = (row["weights"], row["mode"], row["threads"], f"{row['in']}×{row['out']}",
                   row["rows"])
            cells.setdefault(key, []).append(row)
    lines = ["| weights | | threads | matrix | rows | ciuic, 10⁹/s | of the roof | oneDNN, of the roof "
             "| ratio | runs |", "|---" * 10 + "|"]
    for key in sorted(cells):
        rows = cells[key]
        middle = lambda field: statistics.median(row[field] for row in rows)  # noqa: E731
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {key[3]} | {key[4]} | "
                     f"{middle('ciuic_gops'):.0f} | {middle('ciuic_of_roof'):.2f} | "
                     f"{middle('peer_of_roof'):.2f} | **{middle('ratio'):.2f}×** | {len(rows)} |")
    return lines if cells else []


COLOURS = {"llama": "#b5651d", "ik": "#d9a066", "torch": "#c0504d", "onnx": "#7f7f7f",
           "ct2": "#8064a2"}


def picture(title, rows, path):
    """A bar for each peer: its rate as a part of ciuic's, which is the line at 1."""
    bars = [(f"{r['cell']['weights']}, {r['cell']['threads']} thr., {r['cell']['batch']} seq. at "
             f"{r['cell']['context']}", peer, 1 / statistics.median(q for _, q in pairs))
            for _, r in rows for peer, pairs in r["peers"].items()]
    if not bars:
        return False
    left, width, line = 210, 420, 18
    scale = width / max(1.05, max(value for *_, value in bars))
    height = 50 + line * len(bars) + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 130} {height}" '
           'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="18" font-size="14" font-weight="bold">{title}</text>',
           '<text x="10" y="34" fill="#555">tokens/s of the peer, where ciuic is 1 (the line)</text>']
    previous = None
    for i, (label, peer, value) in enumerate(bars):
        y = 46 + line * i
        if label != previous:
            out.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{label}</text>')
        previous = label
        out.append(f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{line - 4}" '
                   f'fill="{COLOURS[peer]}"/><text x="{left + value * scale + 5:.1f}" y="{y + 11}">'
                   f'{LABELS[peer]} {value:.2f}</text>')
    x = left + scale
    out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="42" y2="{height - 8}" stroke="#1f6f8b" '
               'stroke-width="2"/></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")
    return True


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        pairs = (line.partition(":") for line in file)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
    return (f"{fields.get('model name', platform.machine())}, family {fields.get('cpu family')} model "
            f"{fields.get('model')}, {os.cpu_count()} processors")


def report(options):
    samples = read_samples(options.samples)
    table = summarise(samples)
    versions = sorted({(s["cell"]["peer"], s["version"]) for s in samples if s.get("version")} |
                      {("onednn", g["version"]) for s in samples for g in s.get("gemm", [])})
    os.makedirs(f"{options.report}/cpu", exist_ok=True)
    out = ["# ciuic and its peers on one processor", "",
           f"{processor()}. Made by `bench/peers/cpu_report.py` from {len(samples)} rounds. Rates are "
           "tokens/s, medians over rounds; in brackets ciuic's rate over the peer's in the same round, "
           "n rounds. The roof of prefill is the multiply-add peak (bytes for i8 and i4, f32 for f32 and "
           "bf16) probed in that round over the multiply-adds of the layers' matrices; the roof of "
           "decoding is the smaller of that and of read bandwidth over the weights' bytes (from "
           "context 1024 on with those of keys and values, f16 beside all weights but f32). All weights "
           "are random; peers hold them as Q8_0, Q4_0, BF16 and F32, or in their own int8.", "",
           "The processor is shared with others, whom nobody here controls: what the same program does "
           "changes by a third within minutes, for all engines alike. So ratios count, and their range "
           "over the rounds stands behind them; rates and shares of the roof are those of busy minutes.",
           "",
           *([options.note, ""] if options.note else []),
           "Versions: " + "; ".join(f"{LABELS[p]} {v}" for p, v in versions) + ".", ""]
    for shape, title in (("llama-1.1b", "1.1 B Llama shape"), ("llama-110m", "110 M Llama shape")):
        rows = [(k, r) for k, r in table.items() if r["cell"]["shape"] == shape]
        rows.sort(key=lambda kr: (kr[1]["cell"]["batch"], kr[1]["cell"]["context"],
                                  kr[0][1] == "decode",
                                  kr[1]["cell"]["weights"], kr[1]["cell"]["threads"]))
        rows = [kr for kr in rows if kr[0][1] == "decode" or kr[1]["cell"]["batch"] == 1]
        if not rows:
            continue
        peers = [p for p in LABELS if any(p in r["peers"] for _, r in rows)]
        out += [f"## {title}", "", *model_table(rows, peers), ""]
        if any(r["flattered"] for _, r in rows):
            out += ["† Its sequences share the cells of one prompt, where ciuic's have their own.", ""]
        for what in ("prefill", "decode"):
            name = f"{shape}-{what}".replace(".", "_")
            if picture(f"{title}: {what}", [kr for kr in rows if kr[0][1] == what],
                       f"{options.report}/cpu/{name}.svg"):
                out += [f"![{title}, {what}](cpu/{name}.svg)", ""]
    out += ["## Where a peer is ahead", "", *(behind(table) or ["Nowhere, by the medians above."]), ""]
    gemm = gemm_table(samples)
    if gemm:
        out += ["## Matrices alone, against oneDNN", "",
                "i8: ciuic quantizes its input and scales its output in the time; oneDNN multiplies "
                "u8 by s8 into s32 and no more.", "", *gemm, ""]
    out += ["## To repeat it", "", "```sh",
            "cmake --preset release -DCIUIC_BUILD_BENCH=ON -DCIUIC_BENCH_ONEDNN=ON && "
            "cmake --build --preset release",
            "bench/peers/make_gguf.py --shape bench/shapes/llama-1.1b.json --out WORK/gguf "
            "--quantize LLAMA/llama-quantize Q8_0 Q4_0 BF16",
            "bench/peers/cpu_report.py --samples FILE --ciuic build/release --python PYTHON --work WORK "
            "--llama LLAMA --ik IK    # again and again",
            "bench/peers/cpu_report.py --samples FILE --report bench/results", "```"]
    with open(f"{options.report}/cpu.md", "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", required=True, help="lines of JSON, appended to")
    parser.add_argument("--report", metavar="DIR", help="write DIR/cpu.md and measure nothing")
    parser.add_argument("--note", help="a paragraph for the report")
    parser.add_argument("--ciuic", help="a build directory with the benchmarks; without it the peers "
                        "run alone, and no ratio comes of it")
    parser.add_argument("--python", default=sys.executable, help="one that has the peers' packages")
    parser.add_argument("--work", help="where the peers' models are kept")
    parser.add_argument("--llama", help="llama.cpp's programs; without it, it is left out")
    parser.add_argument("--ik", help="ik_llama.cpp's programs; likewise")
    parser.add_argument("--llama-version", help="the commit, where the build does not know its own")
    parser.add_argument("--ik-version")
    parser.add_argument("--only", nargs="*", default=["*"], metavar="PATTERN",
                        help="pairs to measure, e.g. '1.1b-i8-*:ik'; --list shows all")
    parser.add_argument("--seconds", type=float, default=85)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(make_pairs()))
    elif options.report:
        report(options)
    else:
        measure(options)


if __name__ == "__main__":
    main()
