"""Makes a random-weight GGUF file of a Llama shape for llama.cpp and its forks, and quantizes it with
the peer's own tool. Needs the Python packages gguf and numpy.

  make_gguf.py --shape bench/shapes/llama-1.1b.json --out DIR [--quantize LLAMA_QUANTIZE] [TYPE ...]

writes DIR/llama-1.1b-F32.gguf and, for each TYPE (Q8_0, Q4_0, BF16 ...), DIR/llama-1.1b-TYPE.gguf.
"""
import argparse
import os
import subprocess

import gguf
import numpy as np

from samples import read_config, shape_name


def vocabulary(size):
    """Tokens that no text needs to contain: three special ones, the bytes, numbered words."""
    special = [(b"<unk>", gguf.TokenType.UNKNOWN), (b"<s>", gguf.TokenType.CONTROL),
               (b"</s>", gguf.TokenType.CONTROL)]
    tokens = special + [(b"<0x%02X>" % i, gguf.TokenType.BYTE) for i in range(256)]
    tokens += [(f"\u2581w{i}".encode(), gguf.TokenType.NORMAL) for i in range(size - len(tokens))]
    return tokens


def write(config, name, path):
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    model, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = model // heads * config["num_key_value_heads"]
    random = np.random.default_rng(1)
    out = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    out.add_name(name)
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(model)
    out.add_block_count(layers)
    out.add_feed_forward_length(ffn)
    out.add_head_count(heads)
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_dimension_count(model // heads)
    out.add_rope_freq_base(config["rope_theta"])
    out.add_vocab_size(vocab)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = vocabulary(vocab)
    out.add_tokenizer_model("llama")
    out.add_token_list([text for text, _ in tokens])
    out.add_token_scores([-float(i) for i in range(vocab)])
    out.add_token_types([kind for _, kind in tokens])
    out.add_unk_token_id(0)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)

    def matrix(tensor, rows, cols):
        weights = random.standard_normal((rows, cols), dtype=np.float32)
        weights *= np.float32(0.02)
        out.add_tensor(tensor + ".weight", weights)

    def norm(tensor):
        out.add_tensor(tensor + ".weight", np.ones(model, np.float32))

    matrix("token_embd", vocab, model)
    for i in range(layers):
        block = f"blk.{i}."
        norm(block + "attn_norm")
        matrix(block + "attn_q", model, model)
        matrix(block + "attn_k", kv, model)
        matrix(block + "attn_v", kv, model)
        matrix(block + "attn_output", model, model)
        norm(block + "ffn_norm")
        matrix(block + "ffn_gate", ffn, model)
        matrix(block + "ffn_up", ffn, model)
        matrix(block + "ffn_down", model, ffn)
    norm("output_norm")
    matrix("output", vocab, model)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--quantize", help="the peer's llama-quantize")
    parser.add_argument("types", nargs="*")
    options = parser.parse_args()
    name = shape_name(options.shape)
    os.makedirs(options.out, exist_ok=True)
    plain = os.path.join(options.out, name + "-F32.gguf")
    if not os.path.exists(plain):
        write(read_config(options.shape), name, plain + ".part")
        os.rename(plain + ".part", plain)
    for kind in options.types:
        path = os.path.join(options.out, f"{name}-{kind}.gguf")
        if not os.path.exists(path):
            # --pure: every matrix in that type, as ciuic does it, and no mixture of types.
            subprocess.run([options.quantize, "--pure", plain, path + ".part", kind], check=True)
            os.rename(path + ".part", path)


if __name__ == "__main__":
    main()
