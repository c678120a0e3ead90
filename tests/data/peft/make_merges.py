"""Merges by PEFT's add_weighted_adapter, with the random choices that Lorica makes.

PEFT draws the masks of DARE from torch's generator; here they come from the formula in
adapters/merge_formulas.h, so that both sides drop the same values.
"""

import hashlib
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.model import LoraModel

PARTS = {
    "part-a": {"r": 8, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "part-b": {"r": 8, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"],
               "use_rslora": True},
    "part-c": {"r": 8, "lora_alpha": -8, "target_modules": ["v_proj", "up_proj"]},
    "part-d": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "o_proj"]},
    "part-e": {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
}


def merge(name, parts, weights, method, density=None, sign="total", seed=0):
    return {"name": name, "parts": parts, "weights": weights, "method": method,
            "density": density, "sign": sign, "seed": seed}


AB, ABC = ["part-a", "part-b"], ["part-a", "part-b", "part-c"]
MERGES = [
    merge("linear", AB, [0.7, 0.3], "linear"),
    merge("linear-negative", AB, [1.2, -0.5], "linear"),
    merge("linear-three", ABC, [0.5, 0.25, 0.75], "linear"),
    merge("linear-outside-layers", ["part-a", "part-e"], [0.6, 0.8], "linear"),
    merge("cat", AB, [0.7, 0.3], "cat"),
    merge("cat-ranks", ["part-a", "part-d"], [1.0, -0.4], "cat"),
    merge("cat-four", [*ABC, "part-d"], [0.4, 0.3, 0.2, 0.1], "cat"),
    merge("cat-outside-layers", ["part-e", "part-d"], [0.5, 1.0], "cat"),
    merge("ties", AB, [0.7, 0.3], "ties", 0.5),
    merge("ties-frequency", ABC, [0.7, 0.3, 0.9], "ties", 0.6, "frequency"),
    merge("ties-three", ABC, [0.7, -0.3, 0.9], "ties", 0.3),
    merge("ties-dense", AB, [0.5, 0.5], "ties", 1.0),
    merge("ties-outside-layers", ["part-a", "part-e"], [0.6, 0.8], "ties", 0.4),
    merge("dare-linear", AB, [0.7, 0.3], "dare_linear", 0.5),
    merge("dare-linear-seed", ABC, [0.7, 0.3, 0.5], "dare_linear", 0.8, seed=77),
    merge("dare-ties", AB, [0.7, 0.3], "dare_ties", 0.5),
    merge("dare-ties-frequency", ABC, [0.7, 0.3, 0.5], "dare_ties", 0.7, "frequency", 2**63 + 5),
    merge("magnitude-prune", AB, [0.7, 0.3], "magnitude_prune", 0.5),
    merge("magnitude-prune-three", ABC, [0.7, 0.3, -1.0], "magnitude_prune", 0.25),
]


def chances(stream, count):
    """SplitMix64, its outputs from the first on, as shares of one."""
    with np.errstate(over="ignore"):
        z = np.uint64(stream) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Masks:
    """Stands for torch.bernoulli while PEFT merges one module after the other."""

    def __init__(self, recipe):
        self.recipe, self.calls = recipe, []
        self.merge_module = LoraModel._generalized_task_arithmetic_weighted_adapter

    def enter(self, lora, method, adapters, weights, target, *rest):
        name = next(at for at, module in lora.model.named_modules() if module is target)
        parts = [i for i, a in enumerate(adapters)
                 if a in target.lora_A or a in target.lora_embedding_A]
        self.calls = [f"{self.recipe['seed']}/{name}/{side}/{i}" for side in "AB" for i in parts]
        return self.merge_module(lora, method, adapters, weights, target, *rest)

    def bernoulli(self, probabilities):
        digest = hashlib.sha256(self.calls.pop(0).encode()).digest()
        stream = int.from_bytes(digest[:8], "little")
        kept = chances(stream, probabilities.numel()) < self.recipe["density"]
        return torch.from_numpy(kept.astype(np.float32)).reshape(probabilities.shape)


def make_merges(here, make_base, fill, logits_of, logits):
    for seed, (name, config) in enumerate(PARTS.items()):
        random = torch.Generator().manual_seed(seed + 1000)
        model = get_peft_model(make_base("untied"), LoraConfig(task_type="CAUSAL_LM", **config))
        fill(model, random)
        model.save_pretrained(here / "adapters" / name, save_embedding_layers=False)
        (here / "adapters" / name / "README.md").unlink()
    entries = []
    for recipe in MERGES:
        first, *others = recipe["parts"]
        model = PeftModel.from_pretrained(make_base("untied"), here / "adapters" / first,
                                          adapter_name=first)
        for other in others:
            model.load_adapter(here / "adapters" / other, other)
        masks = Masks(recipe)
        entered = lambda lora, *rest: masks.enter(lora, *rest)
        method = "_generalized_task_arithmetic_weighted_adapter"
        with mock.patch.object(LoraModel, method, entered), \
             mock.patch.object(torch, "bernoulli", masks.bernoulli):
            model.add_weighted_adapter(
                recipe["parts"], recipe["weights"], "merged", recipe["method"],
                density=recipe["density"], majority_sign_method=recipe["sign"])
        model.set_adapter("merged")
        entries.append({**recipe, "logits": len(logits)})
        logits.append(logits_of(model.eval()))
        print(entries[-1])
    return entries
