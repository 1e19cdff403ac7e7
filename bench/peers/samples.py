"""What the peer scripts share: their options, and the line that they print for a measurement.

A sample is one JSON object on one line of stdout. `context` is the number of tokens in the cache
when decoding starts, or the length of the prompt that was prefilled."""
import argparse
import json
import statistics
import time


def arguments(doc, weights):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", required=True, help="a Hugging Face config.json")
    parser.add_argument("--weights", choices=weights, default=weights[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--gen-tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1, help="passes of which the median counts")
    return parser


def shape_name(path):
    return path.rsplit("/", 1)[-1].removesuffix(".json")


def read_config(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def emit(**sample):
    print(json.dumps(sample), flush=True)


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(engine, version, options, prefill, decode):
    """Prints a sample of each: `prefill()` computes the prompt, up to the logits of its last token, and
    `decode()` generates `gen_tokens` tokens of that one sequence. Both return their seconds; a first
    call of each does not count."""
    common = {"engine": engine, "version": version, "shape": shape_name(options.shape),
              "weights": options.weights, "threads": options.threads, "batch": 1,
              "context": options.prompt_tokens}
    for what, run, tokens in (("prefill", prefill, options.prompt_tokens),
                              ("decode", decode, options.gen_tokens)):
        run()
        seconds = statistics.median(run() for _ in range(options.repeat))
        emit(**common, what=what, tokens_per_s=tokens / seconds)
