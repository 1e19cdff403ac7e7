"""Makes a Hugging Face directory of a Llama shape with random bf16 weights, for ciuic to quantize: a
quantized directory loads in a second where random weights take ten. Needs numpy.

  make_directory.py --shape bench/shapes/llama-1.1b.json --out DIR

writes DIR/llama-1.1b. cpu_report.py does so, and quantizes it, on first use.
"""
import argparse
import json
import os
import shutil
import struct

import numpy as np

from samples import read_config, shape_name


def tensors(config):
    """(name, shape) of every weight, in the order of the file."""
    model, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = model // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocab, model)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (model,)
        yield layer + "self_attn.q_proj.weight", (model, model)
        yield layer + "self_attn.k_proj.weight", (kv, model)
        yield layer + "self_attn.v_proj.weight", (kv, model)
        yield layer + "self_attn.o_proj.weight", (model, model)
        yield layer + "post_attention_layernorm.weight", (model,)
        yield layer + "mlp.gate_proj.weight", (ffn, model)
        yield layer + "mlp.up_proj.weight", (ffn, model)
        yield layer + "mlp.down_proj.weight", (model, ffn)
    yield "model.norm.weight", (model,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, model)


def write(config, path):
    header, end = {}, 0
    for name, shape in tensors(config):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(1)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors(config):
            values = np.ones(shape, np.float32) if len(shape) == 1 else (
                random.standard_normal(shape, dtype=np.float32) * np.float32(0.02))
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())


def make(shape, out):
    """The directory's path; made unless it is there."""
    path = os.path.join(out, shape_name(shape))
    if not os.path.exists(path):
        part = path + ".part"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        shutil.copy(shape, part + "/config.json")
        write(read_config(shape), part + "/model.safetensors")
        os.rename(part, path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    print(make(options.shape, options.out))


if __name__ == "__main__":
    main()
