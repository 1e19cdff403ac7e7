#!/usr/bin/env python3
"""Makes the tokenizer goldens with the reference implementation (PyPI `tokenizers`).

Trains three small byte-level BPE tokenizers on text made here, with the component set-ups of GPT-2,
Llama-3 and Qwen2, and writes next to this script:
  gpt2.json, llama3.json, qwen2.json   the tokenizers, as tokenizer.json
  lines.jsonl                          one test text a line, shared by all three
  gpt2.ids, llama3.ids, qwen2.ids      for each text three lines: ids with special tokens parsed,
                                       ids with their literals as text, and how the ids of the first
                                       decode, as a JSON string, or = for the text itself
  long.json                            count and hash of the ids of the 1 MB lines that the test makes
Usage: make_tokenizer_golden.py [--out DIR]
"""
import argparse
import json
import pathlib
import random

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

GPT2_SPECIAL = ["<|endoftext|>"]
LLAMA3_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
                  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                  "<|eot_id|>"] + ["<|reserved_special_token_%d|>" % i for i in range(11)]
QWEN2_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
                 r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>"]
QWEN2_ADDED = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<think>", "</think>"]

WORDS = ("the of and to in a is that for it as was with be by on not he his but at are this have from or "
         "had an they which one you were all her she there would their we him been has when who will no "
         "more if out so up said what its about than into them can only other time new some could these "
         "two may first then do any like my now over such our man me even most made after also did many "
         "off before must well back through years much where your way down should because long each just "
         "state those people too mr how little good world make very year still see own work men day get "
         "here old between both life being under three never know same last another while us might great "
         "river water mountain number token model batch engine memory queue thread answer question light "
         "function return value system network weight layer attention result request").split()
CHINESE = ("的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定"
           "行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些"
           "然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公")
CODE = ["def f(x):\n    return x * 2\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "if x != None and y >= 3: pass\n",
        "std::vector<int> v{1, 2, 3};\n", "SELECT id, name FROM users WHERE age > 21;\n", "\t\tprintf(\"%d\\n\", value);\n",
        "# comment\nimport os\n", "{\"key\": [1.5, true, null]}\n", "let y = x?.map(z => z ** 2) ?? [];\n", "<div class=\"a\">&amp;</div>\n"]


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
    if rng.random() < 0.2:
        words[rng.randrange(len(words))] += rng.choice(["'s", "'t", "'re", "'ve", "'ll", "'d", "'m"])
    if rng.random() < 0.3:
        words.insert(rng.randrange(len(words)), str(rng.randint(0, 10 ** rng.randint(1, 7))))
    text = " ".join(words)
    return text[0].upper() + text[1:] + rng.choice([".", ".", "?", "!", ",", ":", " -"])


def chinese(rng):
    text = "".join(rng.choice(CHINESE) for _ in range(rng.randint(2, 24)))
    return text + rng.choice(["。", "，", "？", "！", ""])


def corpus(rng):
    for _ in range(9000):
        kind = rng.random()
        if kind < 0.55:
            yield " ".join(sentence(rng) for _ in range(rng.randint(1, 3)))
        elif kind < 0.75:
            yield chinese(rng)
        elif kind < 0.89:
            yield "".join(rng.choice(CODE) for _ in range(rng.randint(1, 3)))
        elif kind < 0.9:  # so that long runs have something to merge
            yield rng.choice("aa .-") * rng.randint(2, 70)
        else:
            yield " ".join(str(rng.randint(0, 10 ** rng.randint(1, 9))) for _ in range(5))


def train(tokenizer, size, special):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(random.Random(7)), trainer)
    return tokenizer


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    t.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, 2500, [AddedToken(s, special=True, normalized=True) for s in GPT2_SPECIAL])
    # What a user may add: each flag once.
    t.add_tokens([AddedToken("riverbed", single_word=True), AddedToken("[pad ]", lstrip=True, normalized=False),
                  AddedToken("{{x}}", rstrip=True, normalized=False)])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return t


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    train(t, 3000, [])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in LLAMA3_SPECIAL])
    bos = "<|begin_of_text|>"
    t.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
        processors.TemplateProcessing(single=bos + " $A", pair="%s $A %s:1 $B:1" % (bos, bos),
                                      special_tokens=[(bos, t.token_to_id(bos))])])
    return t


def qwen2():
    t = Tokenizer(models.BPE(dropout=None, unk_token=None, continuing_subword_prefix="",
                             end_of_word_suffix="", fuse_unk=False, byte_fallback=False))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    t.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    train(t, 2000, [])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in QWEN2_SPECIAL])
    t.add_tokens([AddedToken(s, special=False, normalized=False) for s in QWEN2_ADDED])
    return t


MIXED = ["مرحبا بالعالم كيف حالك", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก น้ำ", "안녕하세요 세계 가나다", "こんにちは世界 カタカナ ｶﾀｶﾅ", "Привет, мир!",
         "Γειά σου Κόσμε ΑΣ ας", "שלום עולם", "Tiếng Việt có dấu", "İstanbul ıI ſtraße ẞ", "ไม้เอก ๑๒๓", "२०२४ १२३", "٠١٢٣٤٥", "１２３ＡＢＣ", "ⅣⅫ ½ ² ①",
         "日本語とEnglishと한국어mix", "ᠮᠣᠩᠭᠣᠯ᠎ᠠ", "𝒳𝓎𝓏 𝟙𝟚𝟛", "𠀀𠀁𪛖 㐀㐁", "Ǆǅǆ ﬁﬂ ﬆ", "e\u0301 é ạ̈ q̣̇ ﷺ", "각 각 각", "¿Qué? ¡No! «ça» „wie“ …—–"]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "🫠", "☃", "👁️‍🗨️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u0085", "\u2028", "\u2029", "\u3000", "\u200b", "\u180e", "\u1680",
          "\u2003", "\u202f", "\ufeff", "\v", "\f", "\x1c", "\x00"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'VE", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D", "'\u017f", "'st",
                "\u2019s", "'x", "''s", "'ſt", "'\u212a", "' s"]
LITERALS = (GPT2_SPECIAL + LLAMA3_SPECIAL[:6] + QWEN2_SPECIAL + QWEN2_ADDED +
            ["<mask>", "riverbed", "riverbeds", "[pad ]", "{{x}}", "<|im_start", "<|endoftext|", "<think></think>", "<|im_start|><|im_end|>"])


def random_code_point(rng, bound=0x110000):
    while True:
        c = rng.randrange(bound)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def lines(rng):
    yield ""
    yield from SPACES
    yield from MIXED
    yield from EMOJI
    yield from LITERALS
    yield from (chr(c) for c in range(1, 128))
    for n in (100, 1000, 10000):
        for c in ("a", " ", ".", "\n", "中", "1", "\u0301", "ä", "\t"):
            if n * len(c.encode()) <= 10000:
                yield c * n
    yield "a" * 10000 + " b"
    for word in ("I", "they", "It", "WE", "x9", "中"):
        for c in CONTRACTIONS:
            yield word + c + rng.choice(["", " ", " ok", "!"])
    for _ in range(260):
        yield sentence(rng)
    for _ in range(160):
        yield chinese(rng) + rng.choice(["", " ", sentence(rng)])
    for _ in range(120):
        yield "".join(rng.choice(CODE) for _ in range(rng.randint(1, 2)))
    for _ in range(160):
        yield rng.choice(["", "a", "中"]).join(rng.choice(EMOJI) for _ in range(rng.randint(1, 4)))
    for _ in range(200):  # white space torture
        yield "".join(rng.choice(SPACES + ["a", "B", "1", ".", "中"]) for _ in range(rng.randint(1, 14)))
    for _ in range(160):
        yield rng.choice(["", " ", "\u0301", "\n"]).join(rng.choice(MIXED) for _ in range(rng.randint(1, 3)))
    for _ in range(200):
        parts = [rng.choice(LITERALS + [" ", "\n", "word", "  "]) for _ in range(rng.randint(1, 5))]
        yield rng.choice(["", " ", "x"]).join(parts)
    for _ in range(120):  # combining marks in any order
        yield "".join(rng.choice("aeioqA한가") + "".join(chr(rng.choice(
            [0x300, 0x301, 0x308, 0x323, 0x327, 0x334, 0x345, 0x35C, 0x1AB0, 0x20D0, 0x3099, 0x64B, 0x651, 0x5B0, 0x8CA, 0x1ABF]))
            for _ in range(rng.randint(0, 4))) for _ in range(rng.randint(1, 6)))
    for _ in range(120):
        yield "".join(chr(rng.choice([0x30, 0x660, 0x6F0, 0x966, 0xE50, 0xFF10, 0x1D7CE, 0x10D40, 0x1FBF0]) + rng.randint(0, 9))
                      for _ in range(rng.randint(1, 9)))
    for _ in range(200):
        yield "".join(random_code_point(rng) for _ in range(rng.randint(1, 8)))
    for _ in range(200):
        yield "".join(random_code_point(rng, rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x20000])) for _ in range(rng.randint(1, 10)))


# The 1 MB lines are made by the test in the same way.
LONG = {"run_of_a": "a" * 1_000_000, "run_of_spaces": " " * 999_999 + "x", "words": "the quick brown fox 123 " * 40_000,
        "chinese": "中文分词" * 83_000}


def fnv1a(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for byte in int(i).to_bytes(4, "little"):
            h = ((h ^ byte) * 0x100000001B3) & (2 ** 64 - 1)
    return "%016x" % h


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    out = parser.parse_args().out
    texts = list(lines(random.Random(20240229)))
    with open(out / "lines.jsonl", "w", encoding="utf-8", newline="\n") as f:
        for text in texts:
            f.write(json.dumps(text, ensure_ascii=False) + "\n" if text.isprintable() else json.dumps(text) + "\n")
    long = {}
    for name, make in (("gpt2", gpt2), ("llama3", llama3), ("qwen2", qwen2)):
        tokenizer = make()
        tokenizer.save(str(out / (name + ".json")), pretty=False)
        tokenizer = Tokenizer.from_file(str(out / (name + ".json")))
        with open(out / (name + ".ids"), "w", encoding="utf-8", newline="\n") as f:
            for text in texts:
                tokenizer.encode_special_tokens = False
                parsed = tokenizer.encode(text).ids
                tokenizer.encode_special_tokens = True
                plain = tokenizer.encode(text).ids
                decoded = tokenizer.decode(parsed, skip_special_tokens=False)
                f.write(" ".join(map(str, parsed)) + "\n")
                f.write(("=" if plain == parsed else " ".join(map(str, plain))) + "\n")
                f.write(("=" if decoded == text else json.dumps(decoded)) + "\n")
        long[name] = {key: [len(ids), fnv1a(ids)] for key, ids in
                      ((key, tokenizer.encode(text, add_special_tokens=False).ids) for key, text in LONG.items())}
    with open(out / "long.json", "w", newline="\n") as f:
        json.dump(long, f, indent=1)
        f.write("\n")
    print(len(texts), "lines")


main()
