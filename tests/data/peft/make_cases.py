#!/usr/bin/env python3
"""Writes one adapter for everything that PEFT's LoraConfig can say, and what PEFT makes of it.

    tests/data/peft/make.sh

Two small random models of the Llama family (head of its own, head tied to the embedding); for each
case an adapter as PEFT saves it, and the logits of the last positions of one prompt as PEFT
computes them in fp32 from the files it wrote. What cannot be served has words that the refusal must
hold. Everything is seeded: the same versions give the same files.
"""

import dataclasses
import json
import math
import pathlib
import shutil
import tempfile
import warnings

import numpy as np
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from make_merges import make_merges

HERE = pathlib.Path(__file__).resolve().parent
POSITIONS = 4  # the last ones of the prompt, which the references hold
PROMPT = [1, 17, 250, 33, 8, 91, 17, 140, 5, 201, 66, 8, 119, 250, 3, 78]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QV = ["q_proj", "v_proj"]


@dataclasses.dataclass
class Case:
    name: str
    config: dict
    model: str = "untied"
    dtype: torch.dtype = torch.float32
    refused: str = ""  # words of the refusal; empty: it is served
    edit_config: dict = dataclasses.field(default_factory=dict)  # of the file, after saving
    how: str = ""  # "" fills it with random values; or a function's name below
    save: dict = dataclasses.field(default_factory=dict)


def lora(name, target=None, how="", refused="", model="untied", dtype=torch.float32, save=None,
         edit=None, **config):
    config = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    if "target_parameters" not in config or target:
        config["target_modules"] = target or QV
    return Case(name, config, model, dtype, refused, edit or {}, how, save or {})


F16, BF16 = torch.float16, torch.bfloat16
NOT_BASE = "modified base"

CASES = [
    # which linears
    *[lora(f"only-{m.removesuffix('_proj')}", [m]) for m in ALL],
    lora("all-seven", ALL, dtype=BF16),
    lora("all-linear", "all-linear", dtype=BF16),
    lora("attention", ALL[:4], dtype=BF16),
    lora("mlp", ALL[4:], dtype=BF16),
    lora("full-names", ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"]),
    lora("regex", r".*layers\.1\..*\.(q|down)_proj"),
    lora("default-targets", how="default_targets"),
    lora("exclude-list", ALL, exclude_modules=["up_proj", "layers.0.self_attn.q_proj"], dtype=BF16),
    lora("exclude-regex", "all-linear", exclude_modules=r".*\.(mlp\..*|o_proj)", dtype=BF16),
    lora("one-layer", ALL, layers_to_transform=1),
    lora("layer-list", QV, layers_to_transform=[0]),
    lora("layers-pattern", QV, layers_to_transform=[1], layers_pattern="layers"),
    # rank and scale
    *[lora(f"rank-{r}", QV, r=r) for r in (1, 2, 7, 8, 9, 16, 33)],
    lora("rank-256", ["q_proj"], r=256, lora_alpha=4096, layers_to_transform=[1], dtype=BF16),
    lora("rank-257", ["q_proj"], r=257, layers_to_transform=[1], dtype=BF16, refused="257"),
    lora("alpha-zero", QV, lora_alpha=0),
    lora("alpha-negative", QV, lora_alpha=-6),
    lora("alpha-fraction", QV, lora_alpha=2.75),
    lora("rslora", QV, use_rslora=True),
    lora("rslora-rank-12", ALL, use_rslora=True, r=12, dtype=BF16),
    lora("rank-pattern", ALL, rank_pattern={"q_proj": 2, "mlp.down_proj": 9}, dtype=BF16),
    lora("rank-pattern-regex", QV, rank_pattern={r"model\.layers\.[01]\.self_attn\.v_proj": 6}),
    lora("rank-pattern-anchored", QV, rank_pattern={r"^model.layers.1.self_attn.q_proj": 3}),
    lora("alpha-pattern", QV, alpha_pattern={"v_proj": 3, r".*\.0\.self_attn\.q_proj": 20}),
    lora("both-patterns", ALL, rank_pattern={".*_proj": 5, "up_proj": 2},
         alpha_pattern={"up_proj": 1}, dtype=BF16),
    lora("rslora-patterns", QV, use_rslora=True, rank_pattern={"v_proj": 9},
         alpha_pattern={"q_proj": 5}),
    # how it is stored
    lora("f16", QV, dtype=F16),
    lora("bf16", QV, dtype=BF16),
    lora("mixed-dtypes", QV, how="mixed_dtypes"),
    lora("named-adapter", QV, how="named_adapter"),
    lora("dropout", QV, lora_dropout=0.3),
    lora("fan-in-fan-out", QV, edit={"fan_in_fan_out": True}),
    lora("no-bias-to-train", QV, bias="all"),
    lora("lora-only-bias", QV, bias="lora_only"),
    # DoRA
    lora("dora", QV, use_dora=True),
    lora("dora-all-seven", ALL, use_dora=True, dtype=BF16),
    lora("dora-rslora", ALL[4:], use_dora=True, use_rslora=True, dtype=F16),
    lora("dora-patterns", QV, use_dora=True, rank_pattern={"q_proj": 9},
         alpha_pattern={"v_proj": 2}),
    lora("dora-one-layer", ["o_proj"], use_dora=True, layers_to_transform=[1]),
    # biases of lora_B
    lora("lora-bias", QV, lora_bias=True),
    lora("lora-bias-all-seven", ALL, lora_bias=True, dtype=BF16),
    lora("lora-bias-rslora", ["o_proj", "down_proj"], lora_bias=True, use_rslora=True, r=9),
    lora("lora-bias-patterns", QV, lora_bias=True, rank_pattern={"q_proj": 2}, dtype=F16),
    lora("lora-bias-alpha-pattern", ["gate_proj", "up_proj"], lora_bias=True,
         alpha_pattern={"up_proj": -3}),
    # the output head and the embedding
    lora("head", ["lm_head"], dtype=BF16),
    lora("head-and-linears", ["q_proj", "lm_head"], dtype=BF16),
    lora("head-rslora-rank-9", ["lm_head"], use_rslora=True, r=9, dtype=BF16),
    lora("head-bias", ["lm_head"], lora_bias=True, dtype=BF16),
    lora("head-dora", ["lm_head"], use_dora=True, dtype=BF16),
    lora("head-without-copy", ["lm_head", "v_proj"], save={"save_embedding_layers": False}),
    lora("head-tied", ["lm_head"], model="tied", dtype=BF16),
    lora("embedding", ["embed_tokens"], dtype=BF16),
    lora("embedding-and-linears", ["embed_tokens", "q_proj", "down_proj"], dtype=BF16),
    lora("embedding-rank-9", ["embed_tokens"], r=9, use_rslora=True, dtype=BF16),
    lora("embedding-without-copy", ["embed_tokens"], save={"save_embedding_layers": False}),
    lora("embedding-tied", ["embed_tokens"], model="tied", dtype=BF16),
    lora("embedding-dora", ["embed_tokens"], use_dora=True, dtype=BF16),
    lora("embedding-and-head", ["embed_tokens", "lm_head", "v_proj"], dtype=BF16),
    lora("embedding-and-head-tied", ["embed_tokens", "lm_head"], model="tied", dtype=BF16),
    lora("embedding-tied-to-head", ["embed_tokens", "q_proj"], model="tied",
         ensure_weight_tying=True, dtype=BF16),
    lora("embedding-changed", ["embed_tokens"], dtype=BF16, how="changed_embedding",
         refused="not this base model's"),
    lora("embedding-larger", ["embed_tokens"], how="larger_embedding", refused="vocabulary"),
    # how it was initialised
    *[lora(f"init-{i}", QV, init_lora_weights=i) for i in ("gaussian", "orthogonal", "mica")],
    lora("init-false", QV, init_lora_weights=False),
    lora("init-eva", QV, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0), how="eva"),
    lora("init-loftq", QV, edit={"init_lora_weights": "loftq"}),
    *[lora(f"init-{i}", QV, init_lora_weights=i, refused=NOT_BASE) for i in
      ("pissa", "pissa_niter_4", "olora")],
    lora("init-corda", QV, edit={"init_lora_weights": "corda"}, refused=NOT_BASE),
    lora("init-lora-ga", QV, edit={"init_lora_weights": "lora_ga"}, refused=NOT_BASE),
    lora("pissa-converted", QV, init_lora_weights="pissa", how="converted"),
    lora("olora-converted", QV, init_lora_weights="olora", how="converted"),
    lora("pissa-rslora-converted", QV, init_lora_weights="pissa", use_rslora=True, how="converted"),
    # other ways to train
    lora("velora", QV, velora_config=VeloraConfig(num_groups=4)),
    lora("monteclora", QV, monteclora_config=MontecloraConfig(num_samples=2)),
    # what is not served
    lora("save-head", QV, modules_to_save=["lm_head"], refused="modules_to_save", dtype=BF16),
    lora("save-embedding", QV, modules_to_save=["embed_tokens"], refused="modules_to_save",
         dtype=BF16),
    lora("save-head-tied", QV, modules_to_save=["lm_head"], model="tied", refused="modules_to_save",
         dtype=BF16),
    lora("save-embedding-tied", QV, modules_to_save=["embed_tokens"], model="tied",
         ensure_weight_tying=True, refused="modules_to_save", dtype=BF16),
    lora("save-norm", QV, modules_to_save=["input_layernorm"], refused="modules_to_save"),
    lora("token-indices", QV, trainable_token_indices=[3, 8, 250],
         refused="trainable_token_indices"),
    lora("token-indices-tied", QV, trainable_token_indices={"embed_tokens": [3, 8]}, model="tied",
         refused="trainable_token_indices"),
    lora("parameters", target_parameters=["mlp.gate_proj.weight"], refused="target_parameters"),
    lora("layer-replication", QV, layer_replication=[[0, 2], [1, 2]], refused="layer_replication"),
    lora("qalora", QV, edit={"use_qalora": True}, refused="use_qalora"),
    lora("activated", QV, alora_invocation_tokens=[8, 119], refused="alora_invocation_tokens"),
    lora("block-diagonal", ["q_proj", "o_proj"], refused="use_bdlora",
         use_bdlora=BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"],
                                 nblocks=2)),
    lora("arrow", QV, edit={"arrow_config": {"top_k": 2}}, refused="arrow_config"),
    lora("kasa", QV, kasa_config=KasaConfig(), refused="kasa_config"),
    lora("biases", QV, bias="all", model="biased", refused="bias"),
    # later ones: a case's place seeds it
    lora("embedding-dora-tied", ["embed_tokens", "lm_head", "v_proj"], model="tied", use_dora=True,
         use_rslora=True, r=9, dtype=BF16),
]


# --- models --------------------------------------------------------------------------


def make_base(name):
    random = torch.Generator().manual_seed(7)
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
        rms_norm_eps=1e-5, tie_word_embeddings=name == "tied", bos_token_id=1, eos_token_id=2,
        attention_bias=name == "biased", name_or_path=f"tiny-{name}",
    )
    model = LlamaForCausalLM(config).eval()
    for at, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=random)
        if "norm" in at:
            values = 1 + 0.1 * values
        elif "proj" in at:
            values *= 1.5 / math.sqrt(parameter.shape[-1])
        parameter.data = values.to(BF16).float()
    return model


def save_base(name):
    folder = HERE / "models" / name
    model = make_base(name)
    model.to(BF16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


# --- adapters ------------------------------------------------------------------------


def fill(model, random):
    """Random values of a size that changes the logits without drowning the base, in place: tied
    parameters stay tied."""
    for at, parameter in sorted(model.named_parameters()):
        draw = lambda: torch.randn(parameter.shape, generator=random)
        if "lora_embedding_A" in at:
            parameter.data.copy_(draw())
        elif "lora_embedding_B" in at:
            parameter.data.copy_(0.2 * draw())
        elif "lora_A" in at:
            parameter.data.copy_(draw() / math.sqrt(parameter.shape[-1]))
        elif "lora_B" in at and at.endswith("bias"):
            parameter.data.copy_(0.2 * draw())
        elif "lora_B" in at:
            parameter.data.copy_(0.25 * draw() / math.sqrt(parameter.shape[-1]))
        elif "lora_magnitude" in at:
            parameter.data.mul_(1 + 0.2 * draw())
        elif "modules_to_save" in at or "trainable_tokens" in at:
            parameter.data.add_(0.1 * draw())


def build(case, base, config, folder, random):
    model = get_peft_model(base, config)
    fill(model, random)
    model.save_pretrained(folder, **case.save)


def default_targets(case, base, config, folder, random):
    config.target_modules = None  # PEFT's own choice for the family
    build(case, base, config, folder, random)


def named_adapter(case, base, config, folder, random):
    model = get_peft_model(base, config, adapter_name="other")
    fill(model, random)
    model.save_pretrained(folder)
    for file in list((folder / "other").iterdir()):
        file.rename(folder / file.name)
    (folder / "other").rmdir()


def mixed_dtypes(case, base, config, folder, random):
    build(case, base, config, folder, random)
    kinds = [torch.float32, F16, BF16]
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = {k: v.to(kinds[i % 3]) for i, (k, v) in enumerate(sorted(tensors.items()))}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def eva(case, base, config, folder, random):
    model = get_peft_model(base, config)
    data = [{"input_ids": torch.randint(3, 256, (4, 16), generator=random)} for _ in range(4)]
    for batch in data:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    initialize_lora_eva_weights(model, data, show_progress_bar=False)
    fill(model, random)
    model.save_pretrained(folder)


def converted(case, base, config, folder, random):
    """As PEFT's guide says: save the start, train, subtract the start when saving."""
    model = get_peft_model(base, config)
    start = folder / "start"
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(start)
    model.peft_config["default"].init_lora_weights = config.init_lora_weights
    for at, parameter in sorted(model.named_parameters()):
        if "lora_" in at:
            size = 0.3 * parameter.data.std()
            parameter.data = parameter.data + size * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
    shutil.rmtree(start)


def changed_embedding(case, base, config, folder, random):
    base.get_input_embeddings().weight.data[200] += 0.5
    build(case, base, config, folder, random)


def larger_embedding(case, base, config, folder, random):
    base.resize_token_embeddings(260)
    build(case, base, config, folder, random)


def in_dtype(folder, dtype):
    """Casts what PEFT saved; trainers save in the type they train in."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    magnitudes = lambda k: torch.float32 if "magnitude" in k else dtype
    save_file({k: v.to(magnitudes(k)).contiguous() for k, v in tensors.items()}, path,
              {"format": "pt"})


def write_case(case, folder, seed):
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    config = LoraConfig(**case.config)
    globals()[case.how or "build"](case, make_base(case.model), config, folder, random)
    (folder / "README.md").unlink(missing_ok=True)
    if case.dtype != torch.float32:
        in_dtype(folder, case.dtype)
    path = folder / "adapter_config.json"
    text = json.loads(path.read_text())
    text.update(case.edit_config)
    path.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")


@torch.no_grad()
def logits_of(model):
    return model(torch.tensor([PROMPT])).logits[0, -POSITIONS:].float().numpy()


def reference(case, folder):
    """What PEFT computes from the files."""
    base = make_base(case.model)
    with tempfile.TemporaryDirectory() as at:
        shutil.copytree(folder, at, dirs_exist_ok=True)
        path = pathlib.Path(at) / "adapter_config.json"
        text = json.loads(path.read_text())
        if case.edit_config:  # fields that change nothing, or PEFT would run for them
            text.update({"init_lora_weights": True, "fan_in_fan_out": False})
        path.write_text(json.dumps(text))
        return logits_of(PeftModel.from_pretrained(base, at).eval())


def main():
    warnings.simplefilter("ignore")
    for name in ("models", "adapters"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    base = {name: logits_of(make_base(name)) for name in ("untied", "tied")}
    for name in base:
        save_base(name)
    entries, logits = [], []
    for seed, case in enumerate(CASES):
        folder = HERE / "adapters" / case.name
        write_case(case, folder, seed + 100)
        entry = {"name": case.name, "model": case.model}
        if case.refused:
            entry["refused"] = case.refused
        else:
            entry["logits"] = len(logits)
            logits.append(reference(case, folder))
            distance = float(np.abs(logits[-1] - base[case.model]).max())
            entry["base_distance"] = round(distance, 4)
        entries.append(entry)
        print(entry)
    merges = make_merges(HERE, make_base, fill, logits_of, logits)
    document = {"prompt_ids": PROMPT, "references": len(logits), "cases": entries,
                "merges": merges}
    text = json.dumps(document).replace('{"name"', '\n{"name"')
    (HERE / "cases.json").write_text(text + "\n")
    np.save(HERE / "logits.npy", np.stack(logits).astype("<f4"))


if __name__ == "__main__":
    main()
