"""Measures llama.cpp, or a fork of it, with its own programs llama-bench and llama-batched-bench.

  run_llama.py --bin DIR --engine llama.cpp --gguf DIR --shape bench/shapes/llama-1.1b.json
               --weights Q8_0 --threads 2 --what prefill,decode
  run_llama.py ... --what batched --batch 8,32 --prompt-tokens 192 [--shared-prompt]

`--shared-prompt` computes one prompt for all sequences, which saves minutes. llama.cpp then copies it
to each of them; ik_llama.cpp lets all share its cells, which spares it memory traffic that sequences
of their own would cost: such a sample carries "shared_prompt": true.
"""
import json
import os
import re
import subprocess
import tempfile

from samples import arguments, emit, shape_name


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          cwd=tempfile.gettempdir())  # where some write a log
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def has_flag(program, flag):
    """Whether its help text knows a flag: the programs differ between versions."""
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return re.search(rf"(^|\s){re.escape(flag)}[\s,]", done.stdout + done.stderr) is not None


def main():
    parser = arguments(__doc__, ["Q8_0", "Q4_0", "BF16", "F32"])
    parser.add_argument("--bin", required=True, help="where the peer's programs are")
    parser.add_argument("--engine", default="llama.cpp")
    parser.add_argument("--gguf", required=True, help="the directory that make_gguf.py wrote")
    parser.add_argument("--what", default="prefill,decode")
    parser.add_argument("--batch", default="8,32")
    parser.add_argument("--shared-prompt", action="store_true")
    parser.add_argument("--extra", default="", help="more flags for the peer, e.g. '-rtr 1'")
    parser.add_argument("--version", help="the peer's commit, where its build does not know it")
    options = parser.parse_args()
    options.bin, options.gguf = os.path.abspath(options.bin), os.path.abspath(options.gguf)
    model = f"{options.gguf}/{shape_name(options.shape)}-{options.weights}.gguf"
    common = {"engine": options.engine, "shape": shape_name(options.shape),
              "weights": options.weights, "threads": options.threads}
    bench = options.bin + "/llama-bench"
    threads, extra = str(options.threads), options.extra.split()

    def llama_bench(flags):
        text = run([bench, "-m", model, "-t", threads, "-r", str(options.repeat), "-o", "json",
                    *flags, *extra])
        return json.loads(text[text.index("[\n"):text.rindex("]") + 1])[0]

    for what in options.what.split(","):
        prompt, new = str(options.prompt_tokens), str(options.gen_tokens)
        if what == "prefill":
            row = llama_bench(["-p", prompt, "-n", "0"])
        elif what == "decode":
            depth = has_flag(bench, "-d")
            row = llama_bench(["-p", "0", "-n", new, "-d", prompt] if depth
                              else ["-p", "0", "-n", "0", "-gp", f"{prompt},{new}"])
        if what != "batched":
            emit(**common, version=options.version or row["build_commit"], what=what, batch=1,
                 context=options.prompt_tokens, tokens_per_s=row["avg_ts"])
            continue
        for batch in options.batch.split(","):
            cells = int(batch) * (options.prompt_tokens + options.gen_tokens)
            text = run([options.bin + "/llama-batched-bench", "-m", model, "-t", threads, "-tb",
                        threads, "-npp", prompt, "-ntg", new, "-npl", batch, "-c",
                        str(cells + 256), "-b", "2048", "-ub", "512",
                        *(["-pps"] if options.shared_prompt else []), *extra])
            row = re.search(rf"\|\s*{prompt} \|\s*{new} \|\s*{batch} \|(.*)\|", text)
            if row is None:
                raise SystemExit(f"llama-batched-bench printed no row:\n{text[-2000:]}")
            _, _, prefill, _, decode, _, _ = (float(x) for x in row[1].split("|"))
            shared = {"shared_prompt": True} if options.shared_prompt else {}
            row = {"batch": int(batch), "context": options.prompt_tokens, **shared}
            emit(**common, what="decode", tokens_per_s=decode, **row)
            if not shared:
                emit(**common, what="prefill", tokens_per_s=prefill, **row)


if __name__ == "__main__":
    main()
