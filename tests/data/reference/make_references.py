#!/usr/bin/env python3
"""Makes two small references by an independent implementation in numpy (float64).

1. rslora-mini: a rank-stabilised LoRA adapter for the SmolLM2 GGUF, rank 6 with a
   rank_pattern and an alpha_pattern, on q, v and down of three layers, with the
   logits and greedy tokens that the model gives under it.
2. tiny-llama: a random Hugging Face folder of the Llama family (grouped heads,
   untied head, llama3 rope scaling, two shards of BF16 and F32), with logits.

    python3 make_references.py --model SmolLM2-135M-Instruct.Q4_1.gguf

Needs numpy alone. The forward pass is first held against the golden logits of the
base model that lie beside it; a difference over 2e-3 stops the script.
"""

import argparse
import json
import math
import mmap
import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent


# --- files ---------------------------------------------------------------------------


class Gguf:
    SCALAR = {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.at = 8
        tensors, keys = self.take("QQ")
        self.values = {}
        for _ in range(keys):
            key = self.string()
            self.values[key] = self.value(self.take("I")[0])
        self.tensors = {}
        for _ in range(tensors):
            name = self.string()
            dims = self.take("Q" * self.take("I")[0])
            kind, offset = self.take("IQ")
            self.tensors[name] = (dims[::-1], kind, offset)
        align = self.values.get("general.alignment", 32)
        self.base = (self.at + align - 1) // align * align

    def take(self, form):
        items = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return items

    def string(self):
        length = self.take("Q")[0]
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            item, count = self.take("IQ")
            return [self.value(item) for _ in range(count)]
        return self.take(self.SCALAR[kind])[0]

    def tensor(self, name):
        shape, kind, offset = self.tensors[name]
        count = math.prod(shape)
        begin = self.base + offset
        if kind == 0:
            return np.frombuffer(self.data, "<f4", count, begin).reshape(shape)
        per = {3: 20, 8: 34}[kind]
        raw = np.frombuffer(self.data, "u1", count // 32 * per, begin).reshape(-1, per)
        scale = raw[:, :2].copy().view("<f2").astype("f4")
        if kind == 8:
            return (scale * raw[:, 2:].view("i1").astype("f4")).reshape(shape)
        least = raw[:, 2:4].copy().view("<f2").astype("f4")
        nibbles = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1).astype("f4")
        return (scale * nibbles + least).reshape(shape)


def to_bf16(array):
    bits = array.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def write_safetensors(path, tensors, metadata=None):
    header, data, offset = {}, b"", 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, array) in sorted(tensors.items()):
        raw = array.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        data += raw
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# --- the model -----------------------------------------------------------------------


class Llama:
    def __init__(self, config, weights):
        self.config, self.weights = config, weights

    def frequencies(self):
        size, scaling = self.config["head_dim"], self.config.get("rope_scaling")
        inverse = self.config["rope_theta"] ** (-np.arange(0, size, 2) / size)
        if not scaling:
            return inverse
        length = 2 * np.pi / inverse
        original = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        blend = (original / length - low) / (high - low)
        mixed = inverse * ((1 - blend) / scaling["factor"] + blend)
        return np.where(
            length < original / high,
            inverse,
            np.where(length > original / low, inverse / scaling["factor"], mixed),
        )

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"]) * weight

    def linear(self, x, name):
        return x @ self.weights[name].T

    def rotate(self, x):
        half = x.shape[-1] // 2
        angle = np.arange(x.shape[0])[:, None] * self.frequencies()[None]
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, at):
        heads, groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        size, rows = self.config["head_dim"], x.shape[0]
        q = self.rotate(self.linear(x, at + "q_proj").reshape(rows, heads, size))
        k = self.rotate(self.linear(x, at + "k_proj").reshape(rows, groups, size))
        v = self.linear(x, at + "v_proj").reshape(rows, groups, size)
        k, v = (np.repeat(t, heads // groups, axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(size)
        scores = np.where(np.tril(np.ones((rows, rows), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, v).reshape(rows, -1), at + "o_proj")

    def logits(self, ids):
        x = self.weights["embed"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.attention(
                self.norm(x, self.weights[at + "input_layernorm"]), at + "self_attn."
            )
            h = self.norm(x, self.weights[at + "post_attention_layernorm"])
            gate, up = self.linear(h, at + "mlp.gate_proj"), self.linear(h, at + "mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj")
        return self.norm(x, self.weights["norm"]) @ self.weights["head"].T

    def with_lora(self, pairs):
        weights = dict(self.weights)
        for name, (a, b, scale) in pairs.items():
            weights[name] = weights[name] + scale * (b.astype("f8") @ a.astype("f8"))
        return Llama(self.config, weights)

    def greedy(self, ids, steps):
        ids, out, margins = list(ids), [], []
        for _ in range(steps):
            last = self.logits(np.array(ids))[-1]
            first, second = np.sort(last)[::-1][:2]
            out.append(int(last.argmax()))
            margins.append(round(float(first - second), 5))
            ids.append(out[-1])
        return out, margins


def load_smollm(path):
    gguf = Gguf(path)
    get = lambda name: gguf.tensor(name).astype("f8")
    heads = gguf.values["llama.attention.head_count"]
    groups = gguf.values["llama.attention.head_count_kv"]
    hidden = gguf.values["llama.embedding_length"]
    config = {
        "num_hidden_layers": gguf.values["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": hidden // heads,
        "rope_theta": gguf.values["llama.rope.freq_base"],
        "rms_norm_eps": gguf.values["llama.attention.layer_norm_rms_epsilon"],
    }
    unpermute = lambda w, n: w.reshape(n, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
    weights = {"embed": get("token_embd.weight"), "norm": get("output_norm.weight")}
    weights["head"] = weights["embed"]
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config["num_hidden_layers"]):
        at, to = f"blk.{layer}.", f"model.layers.{layer}."
        for source, target in names.items():
            weights[to + target] = get(at + source + ".weight")
        weights[to + "self_attn.q_proj"] = unpermute(get(at + "attn_q.weight"), heads)
        weights[to + "self_attn.k_proj"] = unpermute(get(at + "attn_k.weight"), groups)
    return Llama(config, weights)


# --- rslora-mini ---------------------------------------------------------------------


def make_rslora(model, random, prompts):
    folder = HERE / "rslora-mini"
    folder.mkdir(exist_ok=True)
    rank, alpha = 6, 9.0
    rank_pattern, alpha_pattern = {"mlp.down_proj": 11}, {"model.layers.13.self_attn.q_proj": 4.0}
    tensors, pairs = {}, {}
    for layer in (0, 13, 29):
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{module}"
            out, width = model.weights[name].shape
            r = rank_pattern.get(module, rank)
            s = alpha_pattern.get(name, alpha) / math.sqrt(r)
            # Sized so that the change is about a quarter of the base weight's own size.
            size = 0.25 * model.weights[name].std() / s / math.sqrt(r)
            a = from_bf16(to_bf16(random.standard_normal((r, width)) * math.sqrt(size)))
            b = from_bf16(to_bf16(random.standard_normal((out, r)) * math.sqrt(size)))
            tensors[f"base_model.model.{name}.lora_A.weight"] = ("BF16", to_bf16(a))
            tensors[f"base_model.model.{name}.lora_B.weight"] = ("BF16", to_bf16(b))
            pairs[name] = (a, b, s)
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": True,
        "use_dora": False,
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "layers_to_transform": [0, 13, 29],
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    adapted = model.with_lora(pairs)
    entries = []
    for ids in prompts:
        tokens, margins = adapted.greedy(ids, 12)
        last = adapted.logits(np.array(ids))[-1]
        entries.append(
            {
                "prompt_ids": ids,
                "output_ids": tokens,
                "margin": margins,
                "base_distance": float(np.abs(last - model.logits(np.array(ids))[-1]).max()),
            }
        )
        np.save(HERE / f"rslora_logits_{len(entries) - 1}.npy", last.astype("<f4"))
    (HERE / "rslora-mini.json").write_text(json.dumps(entries, indent=1) + "\n")
    print("rslora-mini:", [(e["base_distance"], min(e["margin"])) for e in entries])


# --- tiny-llama ----------------------------------------------------------------------


def byte_tokens():
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in shown}, 256
    for byte in range(256):
        if byte not in table:
            table[byte], extra = chr(extra), extra + 1
    return [table[b] for b in range(256)]


def make_tiny(random):
    folder = HERE / "tiny-llama"
    folder.mkdir(exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "vocab_size": 272,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 258]}\n')
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, groups, size = 4, 2, config["head_dim"]
    shapes = {
        "self_attn.q_proj": (heads * size, hidden),
        "self_attn.k_proj": (groups * size, hidden),
        "self_attn.v_proj": (groups * size, hidden),
        "self_attn.o_proj": (hidden, heads * size),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }
    draw = lambda *shape: (random.standard_normal(shape) / math.sqrt(shape[-1])).astype("f4")
    shards, weights = [{}, {}], {}

    def add(shard, name, array, dtype="BF16", key=None):
        if dtype == "BF16":
            array = from_bf16(to_bf16(array))
        shards[shard][name] = (dtype, to_bf16(array) if dtype == "BF16" else array.astype("<f4"))
        weights[key or name.removesuffix(".weight")] = array.astype("f8")

    add(0, "model.embed_tokens.weight", draw(config["vocab_size"], hidden) * 8, key="embed")
    for layer in range(2):
        at = f"model.layers.{layer}."
        for module, shape in shapes.items():
            add(layer, at + module + ".weight", draw(*shape) * 1.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(layer, at + norm + ".weight", 1 + 0.1 * draw(hidden), "F32")
    add(1, "model.norm.weight", 1 + 0.1 * draw(hidden), "F32", "norm")
    add(1, "lm_head.weight", draw(config["vocab_size"], hidden) * 8, "F32", "head")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, shard in zip(names, shards):
        write_safetensors(folder / name, shard, {"format": "pt"})
    index = {
        "metadata": {"total_size": 0},
        "weight_map": {t: n for n, s in zip(names, shards) for t in s},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    tokens = byte_tokens()
    vocab = {t: i for i, t in enumerate(tokens)}
    special = ["<s>", "</s>", "<|end|>"]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256 + i,
                "content": t,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, t in enumerate(special)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False) + "\n")
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}
        )
        + "\n"
    )
    model = Llama(config, weights)
    ids = [256] + list(
        b"The quick brown fox jumps over the lazy dog, twice and then once more; "
        b"it is a long way past the sixty-fourth position here."
    )
    np.save(HERE / "tiny_llama_logits.npy", model.logits(np.array(ids)).astype("<f4"))
    (HERE / "tiny-llama.json").write_text(json.dumps({"prompt_ids": ids}) + "\n")
    print("tiny-llama:", len(ids), "positions")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    random = np.random.default_rng(20)
    make_tiny(random)
    model = load_smollm(arguments.model)
    goldens = [
        json.loads(line.rstrip(",\n"))
        for line in (DATA / "goldens.json").open()
        if line.startswith(("{", " {"))
    ]
    base = [g for g in goldens if g["adapter"] == "base"]
    expected = np.load(DATA / "logits" / "logits_base_0.npy")
    difference = np.abs(model.logits(np.array(base[0]["prompt_ids"]))[-1] - expected).max()
    print("base against the golden logits:", difference)
    if difference > 2e-3:
        raise SystemExit("the forward pass here is wrong")
    make_rslora(model, random, [g["prompt_ids"] for g in base[:2]])


if __name__ == "__main__":
    main()
