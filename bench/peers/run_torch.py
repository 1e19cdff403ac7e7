"""Measures PyTorch: transformers' LlamaForCausalLM in f32, or with its Linear layers dynamically
quantized to int8. Needs torch and transformers.

  run_torch.py --shape bench/shapes/llama-110m.json --weights i8 --threads 2
"""
import warnings

from samples import arguments, measure, read_config, seconds_of

OPTIONS = arguments(__doc__, ["f32", "i8", "bf16"]).parse_args()

warnings.filterwarnings("ignore")
import torch  # noqa: E402  (after the options, so that --help is quick)
import transformers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402


def main():
    torch.set_num_threads(OPTIONS.threads)
    torch.manual_seed(1)
    config = read_config(OPTIONS.shape)
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa")).eval()
    if OPTIONS.weights == "bf16":
        model = model.to(torch.bfloat16)
    if OPTIONS.weights == "i8":
        torch.backends.quantized.engine = "onednn"  # its fastest where the processor has VNNI
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    prompt = torch.randint(3, config["vocab_size"], (1, OPTIONS.prompt_tokens))
    state = {}

    def prefill():
        state["cache"] = model(prompt, use_cache=True, logits_to_keep=1).past_key_values

    def decode():
        cache, token = state["cache"], prompt[:, :1]
        beyond = cache.get_seq_length() - OPTIONS.prompt_tokens
        if beyond > 0:
            cache.crop(-beyond)
        for _ in range(OPTIONS.gen_tokens):
            logits = model(token, use_cache=True, past_key_values=cache, logits_to_keep=1).logits
            token = logits[:, -1].argmax(-1, keepdim=True)

    with torch.inference_mode():
        measure("torch", f"{torch.__version__}, transformers {transformers.__version__}", OPTIONS,
                lambda: seconds_of(prefill), lambda: seconds_of(decode))


if __name__ == "__main__":
    main()
