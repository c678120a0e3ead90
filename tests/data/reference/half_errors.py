#!/usr/bin/env python3
"""How far 16-bit arithmetic in Hugging Face's transformers is from the fp32 reference.

Root mean square over the vocabulary of the logits at the last prompt position, for every
model that has a file in ../logits: the measure that Lorica's own error is held against.
The file of weights becomes fp32 first and then 16 bits, as on a GPU of Lorica's.

    python3 half_errors.py --model SmolLM2-135M-Instruct.Q4_1.gguf --adapters FOLDER

Needs torch with a GPU, transformers, peft and gguf (made with 2.11, 5.17.0, 0.21.0 and
0.19.0). Writes ../logits/half_errors.json.
"""

import argparse
import copy
import json
import pathlib

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

DATA = pathlib.Path(__file__).resolve().parent.parent


def rms(model, prompt, expected):
    ids = torch.tensor([prompt], device="cuda")
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu().numpy()
    return float(np.sqrt(np.mean((logits - expected) ** 2)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--adapters", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=DATA / "logits" / "half_errors.json")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    errors = {"float32": {}, "bfloat16": {}, "float16": {}}
    base = AutoModelForCausalLM.from_pretrained(
        options.model.parent, gguf_file=options.model.name, dtype=torch.float32
    )
    for golden in json.loads((DATA / "goldens.json").read_text()):
        if "logits_file" not in golden:
            continue
        name = golden["adapter"]
        expected = np.load(DATA / "logits" / pathlib.Path(golden["logits_file"]).name)
        for kind, of_kind in errors.items():
            dtype = getattr(torch, kind)
            model = copy.deepcopy(base).to(dtype).cuda()
            if name != "base":
                model = PeftModel.from_pretrained(model, options.adapters / name)
                model = model.to(dtype)
            of_kind[name] = rms(model.eval(), golden["prompt_ids"], expected)
            print(name, kind, of_kind[name], flush=True)
    del errors["float32"]  # printed alone: tells that the reference is met
    options.out.write_text(json.dumps(errors, indent=1) + "\n")


if __name__ == "__main__":
    main()
