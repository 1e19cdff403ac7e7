"""Measures ciuic-tiny on facts that it never saw: greedy decoding by transformers, from the weights as shipped, in f32.

    python evaluate.py ../../examples/models/ciuic-tiny               # the table of the model card
    python evaluate.py ../../examples/models/ciuic-tiny --samples 50  # a quick look

An answer is right when the decoded text, up to the end of text, is the answer that the grammar computes and nothing
else. A text that the model writes on its own is right when the grammar can read it and all its figures follow.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import grammar


def load(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in f32 and its tokenizer, as any user of transformers would load them."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(directory)


@torch.no_grad()
def answers(model: PreTrainedModel, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy continuations, end of text left out. Prompts of one length share a batch, so that nothing is padded."""
    by_length = defaultdict(list)
    for i, ids in enumerate(prompts):
        by_length[len(ids)].append(i)
    out: list[list[int]] = [[] for _ in prompts]
    for length, rows in by_length.items():
        ids = torch.tensor([prompts[i] for i in rows])
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens)
        for i, row in zip(rows, generated[:, length:].tolist()):
            end = model.generation_config.eos_token_id
            out[i] = row[: row.index(end)] if end in row else row
    return out


def held_out_sums() -> Iterator[tuple[int, int]]:
    """Every pair of terms that training never saw, in both orders."""
    for a in range(grammar.MAX_TERM + 1):
        for b in range(grammar.MAX_TERM + 1):
            if grammar.pair_is_held_out(a, b):
                yield a, b


def questions(samples: int) -> Iterator[tuple[str, list[grammar.Document], bool]]:
    """What is asked: (row of the table, documents, whether as a chat)."""
    every = [grammar.Document("sum", "en", ((f"{a}+{b}=", False), (f"{a + b}", True))) for a, b in held_out_sums()]
    yield "sums as `12+30=`, every held-out pair", every if samples >= 200 else every[::20], False

    seeds = iter(range(2024, 3000))

    def source(held_out: bool = True) -> grammar.Source:
        return grammar.Source(random.Random(next(seeds)), held_out)

    names = {
        "sum": "sums",
        "difference": "differences",
        "date": "dates",
        "inventory": "inventories",
        "order total": "orders, two prices",
    }
    for kind, name in names.items():
        for language, of in (("en", "English"), ("zh", "Chinese")):
            src = source()
            forms = [f for f in grammar.FORMS if f.kind == kind and f.language == language]
            yield f"{name}, {of}", [grammar.line_of(forms[i % len(forms)], src) for i in range(samples)], False
    src = source()
    yield "sums, chat", [grammar.line(src, "sum") for _ in range(samples)], True
    src = source(held_out=False)  # nothing of the table of products is held out
    yield "orders, m things at k coins (seen)", [grammar.line(src, "order") for _ in range(samples)], False
    src = source()
    texts = [grammar.inventory(src, lang) for lang in ("en", "zh") for _ in range(samples // 2)]
    yield "last line of inventory texts", texts, False
    src = source()
    yield "totals of order texts", [
        grammar.order(src, lang) for lang in ("en", "zh") for _ in range(samples // 2)
    ], False
    src = source(held_out=False)
    texts = [grammar.inventory(src, lang) for lang in ("en", "zh") for _ in range(samples // 2)]
    yield "inventory texts, written on from the first sentence", [first_sentence(text) for text in texts], False


def first_sentence(text: grammar.Document) -> grammar.Document:
    """What stands before the first event; the model may write on as it likes."""
    return grammar.Document(text.kind, text.language, (text.parts[0], ("", True)))


def ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, docs: Sequence[grammar.Document], chat: bool
) -> list[str]:
    """The model's answers to the documents' prompts."""
    if chat:
        turns = [[{"role": "user", "content": d.prompt.strip()}] for d in docs]
        prompts = [tokenizer.apply_chat_template(t, add_generation_prompt=True, return_dict=False) for t in turns]
    else:
        prompts = [tokenizer(d.prompt)["input_ids"] for d in docs]
    longest = max(len(d.answer.encode()) or 400 for d in docs)
    return [tokenizer.decode(ids) for ids in answers(model, prompts, longest + 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure ciuic-tiny on held-out facts.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=500, help="questions in a row of the table")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print N wrong answers of each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(options.model)
    print("| asked | right | of | share |\n|---|---:|---:|---:|")
    for name, docs, chat in questions(options.samples):
        said = ask(model, tokenizer, docs, chat)
        wanted = [d.answer.strip() if chat else d.answer for d in docs]
        wrong = [
            (d.prompt, got)
            for d, got, want in zip(docs, said, wanted)
            if (got != want if want else not grammar.check(d.prompt + got))
        ]
        right = len(docs) - len(wrong)
        print(f"| {name} | {right} | {len(docs)} | {100 * right / len(docs):.1f} % |", flush=True)
        for prompt, got in wrong[: options.show_wrong]:
            print(f"    {prompt!r} -> {got!r}")


if __name__ == "__main__":
    main()
