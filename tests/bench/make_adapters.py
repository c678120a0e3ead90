#!/usr/bin/env python3
"""Makes random PEFT adapters for any Llama-shaped model, for benchmarks and load tests.

    make_adapters.py OUT --count 8 --rank 16                         SmolLM2-135M, all seven linears
    make_adapters.py OUT --config mistral/config.json --modules q_proj,v_proj --rank 8 --count 2000
    make_adapters.py OUT --ranks 8,16,32,64 --count 32               ranks in turn
    make_adapters.py OUT --gguf --count 8                            also OUT/rNNNN.gguf

Weights are bf16 of size 0.008 to 0.03 with random signs: enough to change the output, not
enough to break it. The same --seed gives the same bytes. Needs Python's own library alone.
"""

import argparse
import json
import pathlib
import random
import struct

SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
MODULES = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
GGUF_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
# The high byte of a bf16 with exponent 2^-7 or 2^-6, either sign, by one random bit.
HIGH_BYTE = bytes(0x3C if value & 1 else 0xBC for value in range(256))


def shapes(config):
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    q, kv = heads * size, config.get("num_key_value_heads", heads) * size
    return {
        "q_proj": (q, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, q),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
    }


def bf16_values(source, count):
    data = bytearray(2 * count)
    data[0::2] = source.randbytes(count)
    data[1::2] = source.randbytes(count).translate(HIGH_BYTE)
    return bytes(data)


def make_tensors(config, modules, rank, source):
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            out, width = shapes(config)[module]
            name = f"model.layers.{layer}.{MODULES[module]}.{module}"
            yield name, layer, module, "A", (rank, width), bf16_values(source, rank * width)
            yield name, layer, module, "B", (out, rank), bf16_values(source, out * rank)


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, _, _, side, shape, data in tensors:
        header[f"base_model.model.{name}.lora_{side}.weight"] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            file.write(tensor[-1])


def write_gguf(path, tensors, alpha):
    string = lambda text: struct.pack("<Q", len(text)) + text.encode()
    keys = [
        ("general.type", "adapter"),
        ("general.architecture", "llama"),
        ("adapter.type", "lora"),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys) + 1)
    for key, value in keys:
        head += string(key) + struct.pack("<I", 8) + string(value)
    head += string("adapter.lora.alpha") + struct.pack("<If", 6, alpha)
    body = b""
    for _, layer, module, side, shape, data in tensors:
        head += string(f"blk.{layer}.{GGUF_NAMES[module]}.weight.lora_{side.lower()}")
        head += struct.pack("<IQQIQ", 2, shape[1], shape[0], 0, len(body))
        widened = bytearray(2 * len(data))  # bf16 to fp32: two zero bytes below
        widened[2::4], widened[3::4] = data[0::2], data[1::2]
        body += bytes(widened) + b"\0" * (-len(widened) % 32)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + body)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--config", help="config.json of the base model; SmolLM2-135M without")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--ranks", help="several ranks, used in turn")
    parser.add_argument("--modules", default=",".join(MODULES))
    parser.add_argument("--prefix", default="r")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gguf", action="store_true")
    arguments = parser.parse_args()
    config = json.load(open(arguments.config)) if arguments.config else SMOLLM2_135M
    modules = arguments.modules.split(",")
    unknown = [module for module in modules if module not in MODULES]
    if unknown:
        parser.error(f"unknown modules {unknown}; known are {list(MODULES)}")
    ranks = (
        [int(rank) for rank in arguments.ranks.split(",")] if arguments.ranks else [arguments.rank]
    )
    for index in range(arguments.count):
        rank = ranks[index % len(ranks)]
        source = random.Random(arguments.seed * 1_000_003 + index)
        folder = arguments.out / f"{arguments.prefix}{index:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = list(make_tensors(config, modules, rank, source))
        write_safetensors(folder / "adapter_model.safetensors", tensors)
        (folder / "adapter_config.json").write_text(
            json.dumps(
                {
                    "peft_type": "LORA",
                    "task_type": "CAUSAL_LM",
                    "r": rank,
                    "lora_alpha": rank,
                    "target_modules": modules,
                    "bias": "none",
                    "init_lora_weights": True,
                }
            )
            + "\n"
        )
        if arguments.gguf:
            write_gguf(arguments.out / f"{arguments.prefix}{index:04d}.gguf", tensors, float(rank))
    print(f"{arguments.count} adapters in {arguments.out}")


if __name__ == "__main__":
    main()
