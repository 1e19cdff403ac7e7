"""Trains ciuic-tiny on the lines of grammar.py and writes it as a Hugging Face directory.

    python train.py --phase 1 --out /tmp/sums                         # how the model that ships was made: sums first,
    python train.py --phase 2 --start /tmp/sums --out ../../examples/models/ciuic-tiny             # then everything
    python train.py --phase 1 --out /tmp/try --steps 600              # a quick look

Runs on the CPU. Everything is seeded; sums of floats still differ between machines and thread counts, so a re-run gives
a model like the one that ships, not the same bytes. The directory is complete from the first checkpoint on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import grammar

# ---- The tokenizer: a token is a byte --------------------------------------------------------------------------------

BEGIN, END, USER, ASSISTANT, PAD = range(256, 261)
SPECIAL = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"]

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('ciuic-tiny knows the roles user and assistant') }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_symbols() -> list[str]:
    """The character for each byte in a byte-level vocabulary: printable bytes as they are, others from 256 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def tokenizer_json() -> dict:
    """Byte-level BPE without merges: the id of a byte is the byte; `<|begin|>` is put in front of every text."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": BEGIN + i, "content": token} | added for i, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first],
            "pair": [begin, first, begin | {"SpecialToken": {"id": SPECIAL[0], "type_id": 1}}, second],
            "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [BEGIN], "tokens": [SPECIAL[0]]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {symbol: i for i, symbol in enumerate(byte_symbols())},
            "merges": [],
        },
    }  # fmt: skip


# ---- The model -------------------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.04,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": PAD,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}


def save(model: LlamaForCausalLM, directory: Path) -> None:
    """Writes the directory: weights rounded to bf16, tied output matrix left out."""

    def write(name: str, content: dict) -> None:
        (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

    directory.mkdir(parents=True, exist_ok=True)
    ids = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    write("config.json", CONFIG)
    write("generation_config.json", ids | {"do_sample": False})
    write("tokenizer.json", tokenizer_json())
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "pad_token": SPECIAL[4],
        "additional_special_tokens": SPECIAL[2:4],
        "model_max_length": CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    })  # fmt: skip
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


# ---- The same model, for training ------------------------------------------------------------------------------------


def loss_of(w: dict[str, torch.Tensor], ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of ids [rows, length] of weight times -ln p; w: LlamaForCausalLM's weights by their names.

    Written out because torch.compile then makes it up to 1.8 times as fast on a CPU as LlamaForCausalLM: matrices and
    their inputs are bf16, the residual stream and the norms f32. `train` compares the two before it starts.
    """
    heads, kv_heads, dim = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], CONFIG["head_dim"]
    rows, length = ids.shape[0], ids.shape[1] - 1
    angle = torch.outer(torch.arange(length).float(), CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2) / dim))
    cos, sin = angle.cos()[:, None].bfloat16(), angle.sin()[:, None].bfloat16()
    future = torch.full((length, length), -torch.inf).triu(1).bfloat16()

    def linear(x: torch.Tensor, *names: str) -> torch.Tensor:
        return F.linear(x, torch.cat([w[name + ".weight"] for name in names]).bfloat16())

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], w[name + ".weight"], CONFIG["rms_norm_eps"]).bfloat16()

    x = F.embedding(ids[:, :-1], w["model.embed_tokens.weight"])
    for i in range(CONFIG["num_hidden_layers"]):
        layer, attn, mlp = f"model.layers.{i}.", f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        qkv = linear(norm(x, layer + "input_layernorm"), attn + "q_proj", attn + "k_proj", attn + "v_proj")
        qk, v = qkv.view(rows, length, -1, dim).split([heads + kv_heads, kv_heads], 2)
        a, b = qk.chunk(2, -1)
        q, k = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).split([heads, kv_heads], 2)
        # The query heads of one key head are rows of one product.
        q = q.transpose(1, 2).reshape(rows * kv_heads, -1, dim)
        k, v = (y.transpose(1, 2).reshape(rows * kv_heads, length, dim) for y in (k, v))
        scores = torch.bmm(q, k.transpose(1, 2)) * dim**-0.5
        p = torch.softmax(scores.view(rows, heads, length, length) + future, -1).view_as(scores)
        mixed = torch.bmm(p, v).view(rows, heads, length, dim).transpose(1, 2).reshape(rows, length, -1)
        x = x + linear(mixed, attn + "o_proj")
        gate, up = linear(norm(x, layer + "post_attention_layernorm"), mlp + "gate_proj", mlp + "up_proj").chunk(2, -1)
        x = x + linear(F.silu(gate) * up, mlp + "down_proj")
    logits = linear(norm(x, "model.norm"), "model.embed_tokens").float().flatten(0, 1)
    return (F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none") * weights[:, 1:].flatten()).sum()


# ---- What it reads ---------------------------------------------------------------------------------------------------

FREE = 0.1  # weight in the loss of a token that nothing determines; an answer's token has weight 1
Row = tuple[list[int], list[float]]


def encode(parts: Sequence[tuple[str, bool]]) -> Row:
    """Ids and loss weights of a text in parts."""
    ids: list[int] = []
    weights: list[float] = []
    for text, is_answer in parts:
        data = text.encode()
        ids += data
        weights += [1.0 if is_answer else FREE] * len(data)
    return ids, weights


def plain_row(docs: Sequence[grammar.Document]) -> Row:
    """<|begin|>text<|end|>; several documents are lines of one text."""
    ids, weights = [BEGIN], [0.0]
    for i, doc in enumerate(docs):
        if i:
            ids.append(ord("\n"))
            weights.append(FREE)
        more = encode(doc.parts)
        ids += more[0]
        weights += more[1]
    return ids + [END], weights + [1.0 if len(docs) == 1 else FREE]


def chat_row(docs: Sequence[grammar.Document]) -> Row:
    """<|begin|>, then for each document <|user|>prompt<|assistant|>answer<|end|>."""
    ids, weights = [BEGIN], [0.0]
    for doc in docs:
        question, answer = encode([(doc.prompt.strip(), False)]), encode([(doc.answer.strip(), True)])
        ids += [USER, *question[0], ASSISTANT, *answer[0], END]
        weights += [FREE, *question[1], FREE, *answer[1], 1.0]
    return ids, weights


def rows(seed: int, mixture: str) -> Iterator[Row]:
    """Single lines mostly; one row in seven is a chat and one in a hundred a page of several lines."""
    rng = random.Random(seed)
    docs = grammar.documents(seed + 1, mixture=mixture)
    while True:
        kind = rng.random()
        if kind < 0.15:
            row = chat_row([next(docs) for _ in range(rng.choice([1, 1, 1, 2, 3]))])
        elif kind < 0.16:
            row = plain_row([next(docs) for _ in range(rng.choice([2, 3, 4, 6, 8, 12, 16]))])
        else:
            row = plain_row([next(docs)])
        if len(row[0]) <= CONFIG["max_position_embeddings"]:
            yield row


def chunks(batch: list[Row], tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of a batch, sorted by length and padded in chunks of about so many tokens: ids and weights."""
    batch = sorted(batch, key=lambda row: len(row[0]))
    while batch:
        if len(batch) == 1:  # a chunk has two rows at least: torch.compile would make one row a case of its own
            batch = batch * 2
            batch[1] = (batch[1][0], [0.0] * len(batch[1][0]))
        n = 2
        widest = 8 + len(batch[0][0]) * 3 // 2  # so that little is padding
        while n < len(batch) and len(batch[n][0]) <= min(tokens // (n + 1), widest):
            n += 1
        part, batch = batch[:n], batch[n:]
        width = len(part[-1][0])
        ids = torch.tensor([i + [PAD] * (width - len(i)) for i, _ in part])
        yield ids, torch.tensor([w + [0.0] * (width - len(w)) for _, w in part])


# ---- Training --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def quick_accuracy(model: LlamaForCausalLM, docs: Sequence[grammar.Document]) -> float:
    """How many of the documents get every token of their last answer and its end from greedy decoding."""
    right = 0
    batch = []
    for doc in docs:
        ids = plain_row([doc])[0]
        asked = 1 + len(doc.answer.encode())
        batch.append((ids, [0.0] * (len(ids) - asked) + [1.0] * asked))
    for ids, asked in chunks(batch, 4096):
        best = model(ids, use_cache=False).logits[:, :-1].argmax(-1)
        right += int(((best == ids[:, 1:]) | (asked[:, 1:] == 0)).all(-1).sum())
    return right / len(docs)


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 3 % of the steps, then a cosine down to 1 %."""
    warm = max(1, steps * 3 // 100)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Phase:
    """One run of the optimizer; lr is the peak rate of AdamW."""

    mixture: str
    steps: int
    lr: float
    seed: int


PHASES = {
    1: Phase("sums", 7000, 1.5e-3, 1),
    2: Phase("all", 2000, 6e-4, 2),
}


def train(options: argparse.Namespace) -> None:
    phase = PHASES[options.phase]
    steps = options.steps or phase.steps
    torch.manual_seed(phase.seed)
    torch.set_num_threads(options.threads)
    if options.start:
        model = LlamaForCausalLM.from_pretrained(options.start, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(LlamaConfig(**(CONFIG | {"torch_dtype": "float32"}))).float()
    weights = dict(model.named_parameters())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    # Muon for the matrices inside the layers, its updates 2.5 times the size of AdamW's; AdamW for the others.
    matrices = [p for name, p in weights.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in weights.items() if p.ndim == 1 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=2.5 * phase.lr, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    source, held_out = rows(phase.seed, phase.mixture), grammar.Source(random.Random(99), held_out=True)
    probes = {
        kind: [grammar.line(held_out, kind) for _ in range(100)] for kind in ("sum", "difference", "date", "inventory")
    }
    loss_function = torch.compile(loss_of, dynamic=True)

    sample = next(chunks([next(source) for _ in range(8)], 2048))
    with torch.no_grad():
        logits = model(sample[0][:, :-1], use_cache=False).logits
        losses = F.cross_entropy(logits.flatten(0, 1), sample[0][:, 1:].flatten(), reduction="none")
        theirs = (losses * sample[1][:, 1:].flatten()).sum()
        torch.testing.assert_close(loss_of(weights, *sample), theirs, rtol=2e-3, atol=0.0)

    start, seen, loss_sum = time.monotonic(), 0, 0.0
    for step in range(steps):
        batch = [next(source) for _ in range(options.rows)]
        total = sum(sum(row[1]) for row in batch)
        for ids, token_weights in chunks(batch, 2048):
            loss = loss_function(weights, ids, token_weights) / total
            loss.backward()
            loss_sum += loss.item()
            seen += ids.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * schedule(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % options.every == 0 or step + 1 == steps:
            save(model, options.out)
            scores = " ".join(f"{kind} {quick_accuracy(model, docs):.3f}" for kind, docs in probes.items())
            seconds = time.monotonic() - start
            mean = loss_sum / options.every
            print(f"{step + 1:6} {seconds:6.0f} s {seen / 1e6:6.1f} M tokens, loss {mean:.4f}, {scores}", flush=True)
            loss_sum = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Train ciuic-tiny.")
    parser.add_argument("--out", type=Path, required=True, help="the directory to write")
    parser.add_argument("--phase", type=int, choices=PHASES, required=True)
    parser.add_argument("--start", type=Path, help="a directory written by an earlier phase, to go on from")
    parser.add_argument("--steps", type=int, help="instead of the phase's own number")
    parser.add_argument("--rows", type=int, default=64, help="rows of text in a step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
