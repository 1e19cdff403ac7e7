#!/usr/bin/env python3
"""Makes the golden Llama directories: small random models and what Hugging Face transformers says they compute.

    python make_llama_golden.py [OUT_DIR]          (default: this folder)

Each directory holds config.json, model*.safetensors (and an index when sharded) and

  expected.safetensors   logits       f32 [tokens, vocab]  of the prompt, computed in f32 from the stored weights
                         long_logits  f32 [1, vocab]       last row of the long prompt, where there is one
  expected.json          prompt, greedy (the new ids of 64 greedy steps after the prompt, end-of-text ignored),
                         long_prompt, and how far the oracle can be trusted: min_gap (the least distance of the
                         best two logits on the greedy path), logit_std, f64_error (largest difference between
                         the f32 logits and the same model in f64)

The models are random but not trivial: logits are spread like a trained model's (std 2 to 5), and a seed whose
greedy path has a near tie is thrown away, so that equal greedy ids are a fair demand on any correct f32 runtime.
Made with the versions in expected.json.
"""
import json
import math
import pathlib
import shutil
import sys

import safetensors.torch
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)

GREEDY_TOKENS = 64
MIN_RELATIVE_GAP = 1e-3  # of the logits' standard deviation
MIN_MUTANT_DIFFERENCE = 0.2

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32, "rope_theta": 500.0}

# name: (config, on-disk dtype, options). Every case changes one or two things that a runtime can get wrong.
# `mutants` are configs that a wrong runtime might compute instead: each must move the logits visibly, or the case
# would prove nothing.
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 500.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
CASES = {
    "mha": (dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=4), torch.float32,
            dict(mutants=[dict(rope_parameters=DEFAULT_ROPE)])),
    "gqa2_tied": (dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
                  torch.float32, dict(long=True)),
    "gqa4_sharded": (dict(hidden_size=64, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=3),
                     torch.bfloat16, dict(shard="70KB")),
    "mqa_bf16": (dict(hidden_size=80, num_attention_heads=4, num_key_value_heads=1), torch.bfloat16, {}),
    "f16": (dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2), torch.float16, {}),
    "llama3_rope": (dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=3, rope_parameters=LLAMA3),
                    torch.float32,
                    dict(long=True, mutants=[dict(rope_parameters=DEFAULT_ROPE),
                                             dict(rope_parameters=LLAMA3 | {"high_freq_factor": 2.0}),
                                             dict(rope_parameters=LLAMA3 | {"low_freq_factor": 2.0}),
                                             dict(rope_parameters=LLAMA3 | {"factor": 4.0})])),
    "llama3_rope_old_keys_bf16_sharded": (
        dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, rope_parameters=LLAMA3),
        torch.bfloat16, dict(shard="60KB", old_keys=True, long=True)),
    "linear_rope": (dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=2, rope_parameters=LINEAR),
                    torch.float32, dict(long=True, mutants=[dict(rope_parameters=LINEAR | {"factor": 1.0})])),
    "three_heads_odd_vocab": (dict(hidden_size=36, num_attention_heads=3, num_key_value_heads=1, vocab_size=263),
                              torch.float32, {}),
    "five_heads_odd_vocab": (dict(hidden_size=60, num_attention_heads=5, num_key_value_heads=5, vocab_size=301,
                                  intermediate_size=77), torch.bfloat16, {}),
    "wide_heads": (dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=24),
                   torch.float32, {}),
    "narrow_heads": (dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=4, head_dim=6),
                     torch.float16, {}),
    "attention_bias": (dict(hidden_size=40, num_attention_heads=4, num_key_value_heads=2, attention_bias=True),
                       torch.float32, {}),
    "mlp_bias_tied_bf16": (dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, mlp_bias=True,
                                attention_bias=True, tie_word_embeddings=True), torch.bfloat16, {}),
    "eps_theta": (dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=0.05,
                       rope_parameters={"rope_type": "default", "rope_theta": 37.0}, num_hidden_layers=3),
                  torch.float32, dict(mutants=[dict(rms_norm_eps=1e-5), dict(rope_parameters=DEFAULT_ROPE)])),
}


def make_model(config, seed):
    """Random weights at a scale at which every part of the model moves the logits."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, std):
        return torch.randn(shape, generator=generator) * std

    model = LlamaForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1.0 + normal(parameter.shape, 0.2))
            elif name.endswith(".bias"):
                parameter.copy_(normal(parameter.shape, 0.3))
            elif "embed_tokens" in name:
                parameter.copy_(normal(parameter.shape, 1.0 if not config.tie_word_embeddings else 0.4))
            elif "lm_head" in name:
                parameter.copy_(normal(parameter.shape, 3.0 / math.sqrt(parameter.shape[1])))
            elif "q_proj" in name or "k_proj" in name:
                parameter.copy_(normal(parameter.shape, 1.3 / math.sqrt(parameter.shape[1])))
            else:
                parameter.copy_(normal(parameter.shape, 1.2 / math.sqrt(parameter.shape[1])))
    return model


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


@torch.no_grad()
def greedy(model, prompt):
    ids, least_gap = list(prompt), math.inf
    for _ in range(GREEDY_TOKENS):
        last = logits_of(model, ids)[-1]
        best = torch.topk(last, 2).values
        least_gap = min(least_gap, float(best[0] - best[1]) / float(last.std()))
        ids.append(int(torch.argmax(last)))
    return ids[len(prompt):], least_gap


def check_mutants(model, settings, mutants, prompt, logits):
    for mutant in mutants:
        config = LlamaConfig(**(settings | mutant))
        config._attn_implementation = "eager"
        other = LlamaForCausalLM(config).to(torch.float32).eval()
        other.load_state_dict(model.state_dict())
        difference = float((logits_of(other, prompt) - logits).abs().max())
        if difference < MIN_MUTANT_DIFFERENCE:
            sys.exit(f"{mutant} changes no logit by more than {difference}")


def with_old_keys(path):
    """config.json as transformers 4 wrote it: rope_theta beside rope_scaling, torch_dtype."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


def make_case(out, name, overrides, dtype, long=False, shard=None, old_keys=False, mutants=()):
    settings = dict(intermediate_size=72, num_hidden_layers=2, vocab_size=199, max_position_embeddings=512,
                    rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    settings.update(overrides)
    directory = out / name
    base = sum(map(ord, name)) * 1000
    for seed in range(base, base + 1000):
        if directory.exists():
            shutil.rmtree(directory)
        config = LlamaConfig(**settings)
        config._attn_implementation = "eager"
        model = make_model(config, seed).to(dtype)
        model.save_pretrained(directory, max_shard_size=shard or "1GB")
        if old_keys:
            with_old_keys(directory / "config.json")
        # What counts is what is on disk, computed in f32.
        load = lambda t: LlamaForCausalLM.from_pretrained(directory, dtype=t, attn_implementation="eager").eval()
        model = load(torch.float32)
        generator = torch.Generator().manual_seed(seed + 1)
        ids = torch.randint(3, settings["vocab_size"], (300,), generator=generator).tolist()
        prompt = [1] + ids[: 24 + seed % 24]
        logits = logits_of(model, prompt)
        new_ids, gap = greedy(model, prompt)
        std = float(logits.std())
        if gap >= MIN_RELATIVE_GAP and 1.8 <= std <= 5.5 and len(set(new_ids)) >= 12:
            break
    else:
        sys.exit(f"{name}: no seed gives a clear greedy path")
    check_mutants(model, settings, mutants, prompt, logits)
    exact = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    tensors = {"logits": logits.contiguous()}
    expected = {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__,
                      "safetensors": safetensors.__version__},
        "seed": seed, "prompt": prompt, "greedy": new_ids, "min_gap": round(gap, 6), "logit_std": round(std, 4),
        "f64_error": float((logits - logits_of(exact, prompt)).abs().max()),
    }
    if long:
        expected["long_prompt"] = [1] + ids[50:249]
        tensors["long_logits"] = logits_of(model, expected["long_prompt"])[-1:].contiguous()
    safetensors.torch.save_file(tensors, directory / "expected.safetensors")
    (directory / "expected.json").write_text(json.dumps(expected) + "\n")
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{name:36} {size / 1024:7.0f} KiB  files {len(list(directory.glob('model*.safetensors')))}  "
          f"prompt {len(prompt)}  std {std:.2f}  gap {gap:.4f}  f64 {expected['f64_error']:.1e}  "
          f"distinct {len(set(new_ids))}  tries {seed - base + 1}")
    return size


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    total = sum(make_case(out, name, overrides, dtype, **options)
                for name, (overrides, dtype, options) in CASES.items())
    print(f"{len(CASES)} directories, {total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
