#!/usr/bin/env python3
"""Writes seed inputs for the fuzz targets: python3 make_corpus.py OUT_DIR makes OUT_DIR/{safetensors,config}."""
import json
import pathlib
import struct
import sys

DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
          "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
          "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}


def header(tensors, metadata=None):
    """tensors: (name, dtype, shape) one after the other. Returns the text and the bytes it covers."""
    entries, end = ({"__metadata__": metadata} if metadata is not None else {}), 0
    for name, dtype, shape in tensors:
        size = DTYPES[dtype]
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size // 8]}
        end += size // 8
    return json.dumps(entries).encode(), end


def safetensors_seeds():
    for dtype in DTYPES:
        yield dtype, *header([("x", dtype, [8])])
    yield "empty", *header([])
    yield "scalar", *header([("s", "F32", [])])
    yield "several", *header([("a", "F32", [2, 3]), ("b", "BF16", [4]), ("c", "U8", [0, 7])], {"format": "pt"})
    yield "rank8", *header([("r", "U8", [1, 2, 1, 2, 1, 2, 1, 2])])
    yield "escapes", b'{"\\u0061\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1


def config_seeds():
    base = dict(model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=64, intermediate_size=88,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=256,
                max_position_embeddings=512, hidden_act="silu", bos_token_id=1, eos_token_id=[2, 3], pad_token_id=None,
                tie_word_embeddings=False, attention_bias=False, mlp_bias=False, torch_dtype="bfloat16")
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32)
    yield "plain", base | {"rope_theta": 10000.0}
    yield "llama3", base | {"rope_theta": 5e5, "rope_scaling": llama3}
    yield "new", base | {"rope_parameters": llama3 | {"rope_theta": 500.0}, "head_dim": 32}
    yield "linear", base | {"rope_scaling": {"type": "linear", "factor": 2}}
    yield "generation", dict(eos_token_id=[1, 2], do_sample=True, temperature=0.6, top_k=50, top_p=0.95,
                             repetition_penalty=1.1, max_new_tokens=20)


def main():
    out = pathlib.Path(sys.argv[1])
    for kind in ("safetensors", "config"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for name, text, size in safetensors_seeds():
        (out / "safetensors" / name).write_bytes(bytes([size]) + text)
        whole = struct.pack("<Q", len(text)) + text + bytes(size)
        (out / "safetensors" / f"{name}_file").write_bytes(b"\x80" + whole)
    (out / "safetensors" / "made").write_bytes(b"\xC0" + bytes(range(1, 60, 3)) * 2)
    for name, config in config_seeds():
        (out / "config" / name).write_text(json.dumps(config))


if __name__ == "__main__":
    main()
