#!/usr/bin/env python3
"""Makes the goldens of examples/models/ciuic-tiny: held-out facts, and what transformers computes for them.

    python make_tiny_golden.py [OUT_DIR]          (default: this folder)

  heldout_sums.jsonl   200 prompts about sums that training never saw, with the right answer (the grammar's)
  heldout_text.txt     about 20 KB of held-out lines
  expected.json        from the weights as shipped, computed in f32:
    windows      [{first_byte, bytes, nll}]: heldout_text.txt in pieces of whole lines (last newline left out) that
                 fit the context; each is scored on its own behind <|begin|>; nll: sum of -ln p over its bytes
    perplexity   exp(sum of nll / sum of bytes)
    logprobs     of each byte of the first window
    greedy       [{prompt, chat, ids, text, min_gap, past_end}]: new ids of greedy decoding up to the end of text (left
                 out); min_gap is the least distance between the best two logits on the way, end of text included;
                 past_end: the same but with the end of text as any other token, 64 ids or as many as come before the
                 first choice between two logits closer than 0.01; chat: the prompt is a user's turn of a chat

No answer in `ids` hangs on two logits closer than 0.01 either: of the prompts that leave much open, the first that keeps
this distance is taken.
Made with the versions in expected.json.
"""

import json
import pathlib
import random
import sys

import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tools" / "tiny_model"))

import evaluate  # noqa: E402
import grammar  # noqa: E402

WINDOW = 1000  # bytes: the context of 1024 less the begin token, with room to spare
CLOSE = 0.01
PROMPTS = [
    "12+30=",
    "47 + 38 = ",
    "What is 12+30?",
    "64 plus 19 is ",
    "88加45等于",
    "31加62等于多少？",
    "105-47=",
    "The day after 2024-02-28 is ",
    "The day before 2031-01-01 is ",
    "2024年2月28日的第二天是",
    "Anna has 12 apples and buys 30 more. Now Anna has ",
    "小明有42个苹果，卖了17个。现在小明有",
    "An order of 3 boxes at 4 coins each costs ",
    "Inventory: 71 eggs and 23 lamps. Tom brings 18 eggs. Now there are ",
    "库存：71个苹果和23个杯子。小红拿走18个苹果。现在有",
]
OPEN = [  # of each row the first
    ["Inventory:", "Inventory: ", *(f"Inventory: {n} " for n in range(20, 60))],
    ["库存：", *(f"库存：{n}个" for n in range(20, 60))],
    [f"Order {n}:" for n in range(7, 60)],
    [f"订单{n}：" for n in range(7, 60)],
]
CHATS = ["What is 12+30?", "56+27=", "39加44等于多少？", "The day after 2024-02-29 is"]


def greedy(model, ids, new_tokens, stop):
    """New ids, and the gap between the best two logits at each."""
    end, out, gaps, past = model.generation_config.eos_token_id, [], [], None
    feed = torch.tensor([ids])
    while len(out) < new_tokens:
        result = model(feed, past_key_values=past, use_cache=True)
        past = result.past_key_values
        (best, second), (token, _) = (t.tolist() for t in result.logits[0, -1].topk(2))
        gaps.append(best - second)
        if stop and token == end:
            break
        out.append(token)
        feed = torch.tensor([[token]])
    return out, gaps


@torch.no_grad()
def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    torch.set_num_threads(1)
    model, tokenizer = evaluate.load(ROOT / "examples" / "models" / "ciuic-tiny")
    source = grammar.Source(random.Random(31), held_out=True)

    forms = [f for f in grammar.FORMS if f.kind == "sum"]
    sums = [grammar.line_of(forms[i % len(forms)], source) for i in range(200)]
    rows = [json.dumps({"prompt": d.prompt, "answer": d.answer}, ensure_ascii=False) for d in sums]
    (out / "heldout_sums.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")

    lines = []
    while sum(len(line.encode()) + 1 for line in lines) < 20_000:
        lines.append(grammar.document(source).text)
    (out / "heldout_text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    pieces = [lines[0]]
    for line in lines[1:]:
        longer = pieces[-1] + "\n" + line
        if len(longer.encode()) <= WINDOW:
            pieces[-1] = longer
        else:
            pieces.append(line)
    windows, first_byte, logprobs = [], 0, []
    for piece in pieces:
        ids = torch.tensor([tokenizer(piece)["input_ids"]])
        of_tokens = torch.log_softmax(model(ids).logits[0, :-1].double(), -1).gather(1, ids[0, 1:, None])[:, 0]
        size = len(piece.encode())
        assert ids.shape[1] == 1 + size
        windows.append({"first_byte": first_byte, "bytes": size, "nll": round(-of_tokens.sum().item(), 5)})
        logprobs = logprobs or [round(x, 6) for x in of_tokens.tolist()]
        first_byte += size + 1
    total = sum(w["nll"] for w in windows) / sum(w["bytes"] for w in windows)

    def answer_to(text, chat=False):
        turn = [{"role": "user", "content": text}]
        ids = (
            tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
            if chat
            else tokenizer(text)["input_ids"]
        )
        new, gaps = greedy(model, ids, 256, stop=True)
        past, past_gaps = greedy(model, ids, 64, stop=False)
        certain = next((i for i, gap in enumerate(past_gaps) if gap < CLOSE), len(past))
        return {
            "prompt": text,
            "chat": chat,
            "ids": new,
            "text": tokenizer.decode(new),
            "min_gap": round(min(gaps), 4),
            "past_end": past[:certain],
        }

    answers = [answer_to(p) for p in PROMPTS] + [answer_to(p, chat=True) for p in CHATS]
    answers += [next(a for a in map(answer_to, row) if a["min_gap"] >= CLOSE) for row in OPEN]
    assert all(a["min_gap"] >= CLOSE and len(a["ids"]) < 256 for a in answers)

    expected = {
        "made_with": {
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "perplexity": round(float(torch.tensor(total, dtype=torch.float64).exp()), 6),
        "windows": windows,
        "logprobs": logprobs,
        "greedy": answers,
    }
    text = json.dumps(expected, ensure_ascii=False, separators=(",", ":"))
    for key in ('"perplexity"', '"windows"', '"logprobs"', '"greedy"', '{"first_byte"', '{"prompt"'):
        text = text.replace("," + key, ",\n" + key)  # a line for each thing, so that a change can be read
    (out / "expected.json").write_text(text + "\n", encoding="utf-8")
    print(f"perplexity {expected['perplexity']}, {len(windows)} windows")
    for answer in answers:
        print(answer["min_gap"], len(answer["past_end"]), repr(answer["prompt"]), "->", repr(answer["text"]))


if __name__ == "__main__":
    main()
