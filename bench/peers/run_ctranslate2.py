"""Measures CTranslate2: a random Llama saved with transformers and taken over by CTranslate2's own
converter. Needs ctranslate2, torch, transformers and tokenizers.

  run_ctranslate2.py --shape bench/shapes/llama-110m.json --work DIR --weights i8 --threads 2

DIR keeps the converted models. Its prompt pass cannot be called alone: prefill is the generation of
one token, decode what 1 + n tokens take beyond that.
"""
import os

from samples import arguments, measure, read_config, seconds_of, shape_name

TYPES = {"f32": "float32", "i8": "int8_float32"}
PARSER = arguments(__doc__, list(TYPES))
PARSER.add_argument("--work", required=True)
OPTIONS = PARSER.parse_args()

import ctranslate2  # noqa: E402


def make_directory(path, config):
    """A Hugging Face directory of random weights with a tokenizer of numbered words."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(1)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).save_pretrained(path)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for i in range(len(words), config["vocab_size"]):
        words[f"w{i}"] = i
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>",
        eos_token="</s>").save_pretrained(path)


def main():
    config = read_config(OPTIONS.shape)
    source = os.path.join(OPTIONS.work, shape_name(OPTIONS.shape))
    converted = f"{source}-ct2-{OPTIONS.weights}"
    if not os.path.exists(converted):
        if not os.path.exists(source):
            make_directory(source, config)
        ctranslate2.converters.TransformersConverter(source).convert(
            converted, quantization=TYPES[OPTIONS.weights])
    generator = ctranslate2.Generator(converted, device="cpu", compute_type=TYPES[OPTIONS.weights],
                                      inter_threads=1, intra_threads=OPTIONS.threads)
    prompt = [f"w{3 + i * 7919 % 31000}" for i in range(OPTIONS.prompt_tokens)]

    def generate(tokens):
        return seconds_of(lambda: generator.generate_batch(
            [prompt], max_length=tokens, min_length=tokens, sampling_topk=1,
            include_prompt_in_result=False))

    measure("ctranslate2", ctranslate2.__version__, OPTIONS, lambda: generate(1),
            lambda: generate(1 + OPTIONS.gen_tokens) - generate(1))


if __name__ == "__main__":
    main()
