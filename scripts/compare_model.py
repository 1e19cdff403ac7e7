"""compare_model.py CIUIC DIR PROMPT WEIGHTS: ciuic and transformers on one prompt, token by token, logit by logit.

The tokens must be equal. With unquantized weights every logit must be within a thousandth of the largest one, and
the greedy answers equal up to a choice between tokens that are closer than that. Quantized weights are measured,
not judged. Exit status: 0 they agree, 1 they do not, 4 they could not be compared.
"""
import json
import subprocess
import sys
import tempfile
import traceback

import torch
import transformers

NEW_TOKENS = 32
TOLERANCE = 1e-3  # of the largest logit: rounding of f32 through some dozens of layers stays well below


def read_logits(path):
    """The one tensor of a safetensors file: 8 bytes of header length, the header, the data."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    entry = header["logits"]
    first, last = entry["data_offsets"]
    return torch.frombuffer(data[first:last], dtype=torch.float32).reshape(entry["shape"])


def main():
    ciuic, directory, prompt, weights = sys.argv[1:5]

    def run(command, *more):
        line = [ciuic, command, "--model", directory, "--weights", weights, "--json", *more]
        return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout)

    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/prompt.txt", "w", encoding="utf-8", newline="") as file:
            file.write(prompt)
        tokens = run("score", "--text-file", folder + "/prompt.txt", "--logits", folder + "/logits.safetensors")["tokens"]
        ours = read_logits(folder + "/logits.safetensors")
    answer = run("generate", "--prompt", prompt, "--greedy", "--max-new-tokens", str(NEW_TOKENS))["results"][0]["tokens"]

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    dtype = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56) else "torch_dtype"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", **{dtype: torch.float32}).eval()
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    with torch.no_grad():
        theirs = model(torch.tensor([tokens])).logits[0]
        # Their greedy continuation, and how far behind its choice our token was where the two part.
        expected, behind, ids = [], 0.0, list(tokens)
        while len(expected) < NEW_TOKENS:
            row = model(torch.tensor([ids])).logits[0, -1]
            best = int(row.argmax())
            at = len(expected)
            ours_next = {answer[at]} if at < len(answer) else ends  # a short answer chose to end
            if best not in ours_next and ours_next != {None}:
                behind = min(float(row[best] - row[token]) for token in ours_next)
                break
            if best in ends:
                break
            expected.append(best)
            ids.append(best)

    same_tokens = tokenizer(prompt)["input_ids"] == tokens
    difference = float((ours - theirs).abs().max())
    largest = float(theirs.abs().max())
    top1 = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    kl = float(torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True,
                                          reduction="batchmean"))
    same_answer = answer == expected
    tie = not same_answer and 0.0 < behind <= TOLERANCE * largest
    print(f"tokens      {len(tokens)}, {'equal' if same_tokens else 'DIFFERENT: ' + str(tokenizer(prompt)['input_ids'])}")
    print(f"logits      largest difference {difference:.2e}, {difference / largest:.1e} of the largest logit")
    print(f"            same first choice at {100 * top1:.1f} % of positions, mean KL {kl:.2e}")
    if same_answer:
        print(f"greedy      {len(answer)} tokens, equal")
    else:
        print(f"greedy      parts after {len(expected)} of {len(answer)} tokens, by {behind:.2e}{' (a tie)' if tie else ''}")
    if weights in ("i8", "i4"):
        agrees, verdict = same_tokens, "measured only: quantized weights are not judged here"
    else:
        agrees = same_tokens and difference <= TOLERANCE * largest and (same_answer or tie)
        verdict = f"{'agrees' if agrees else 'DISAGREES'} with transformers {transformers.__version__}"
    print(f"verdict     {verdict}")
    return 0 if agrees else 1


if __name__ == "__main__":
    try:
        status = main()
    except Exception:  # Python would end with 1, which here is a verdict
        traceback.print_exc()
        status = 4
    sys.exit(status)
