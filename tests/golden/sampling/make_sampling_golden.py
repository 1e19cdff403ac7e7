"""Writes sampling.json: next-token distributions by Hugging Face transformers' logits processors.

    python make_sampling_golden.py        # needs torch and transformers

Each case holds logits, a history and options, and the probabilities that transformers would draw from:
repetition penalty, temperature, top-k, top-p, softmax, in that order.
"""

import json
import pathlib
import random

import torch
from transformers import (LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                          TopKLogitsWarper, TopPLogitsWarper)


def main() -> None:
    rng = random.Random(20261120)
    cases = []
    for _ in range(60):
        vocab = rng.randint(2, 40)
        logits = [round(rng.gauss(0.0, 2.5), 4) for _ in range(vocab)]
        history = [rng.randrange(vocab) for _ in range(rng.randint(1, 12))]
        temperature = rng.choice([0.3, 0.7, 1.0, 1.8])
        top_k = rng.choice([0, 0, 2, 5, 100])
        top_p = rng.choice([1.0, 0.95, 0.8, 0.5, 0.1])
        penalty = rng.choice([1.0, 1.0, 1.3, 0.8])
        processors = LogitsProcessorList()
        if penalty != 1.0:
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        processors.append(TemperatureLogitsWarper(temperature))
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p < 1.0:
            processors.append(TopPLogitsWarper(top_p))
        scores = processors(torch.tensor([history]), torch.tensor([logits], dtype=torch.float32))
        probabilities = torch.softmax(scores.double(), dim=-1)[0].tolist()
        cases.append({"logits": logits, "history": history, "temperature": temperature, "top_k": top_k,
                      "top_p": top_p, "repetition_penalty": penalty,
                      "probabilities": [round(p, 9) for p in probabilities]})
    path = pathlib.Path(__file__).with_name("sampling.json")
    path.write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
