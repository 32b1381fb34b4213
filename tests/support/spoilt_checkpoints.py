# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny sound checkpoints of every kind that conversions read, and the ways in which fuzz_conversion.py spoils them.

An edit is a list: folder, operation and its arguments, all of which JSON can write.
"""

import collections
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

from llava_uhd_v2_hf.conversion.assemble import AssemblyOptions, assemble
from llava_uhd_v2_hf.conversion.export import export_checkpoint
from tests.support.paths import GOLDEN


TOWER = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 29_900,  # the separators of the released models are among them
    "max_position_embeddings": 2048,
}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "bias": "none", "task_type": "CAUSAL_LM"}
RELEASED = json.loads((GOLDEN / "e2e/c_llama/checkpoint/config.json").read_text())
PREFIX = "base_model.model."

FORMS = ["one file", "one file", "shards", "pickle", "pickled shards", "old pickle"]
WEIGHTS = {
    **dict.fromkeys(("released", "tower", "text"), FORMS),
    "ours": FORMS[:3],
    "lora": ["one file", "pickle", "old pickle"],
}


def write_parts(folder: Path) -> str:
    """Writes sound checkpoints: a tower, a language model, ours, the same as released, and a LoRA folder."""
    torch.manual_seed(0)
    tower, text, ours, released, lora = (folder / name for name in ("tower", "text", "ours", "released", "lora"))
    of_text = TOWER | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}
    CLIPModel(CLIPConfig(vision_config=TOWER, text_config=of_text)).save_pretrained(tower)
    normalisation = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tower / "preprocessor_config.json").write_text(json.dumps(normalisation))
    LlamaForCausalLM(LlamaConfig(**TEXT)).to(torch.bfloat16).save_pretrained(text)
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", text, dirs_exist_ok=True)
    of_released = {"row_separator_id": 13, "slice_separator_id": 29892, "levels": (0, 2), "token_layout": "sequential"}
    assemble(tower, text, ours, AssemblyOptions(**of_released))
    values = json.loads((ours / "config.json").read_text())
    export_checkpoint(ours, released)
    exported = json.loads((released / "config.json").read_text())
    usual = {key: value for key, value in RELEASED.items() if key not in values["text_config"]}
    (released / "config.json").write_text(json.dumps(usual | exported))
    (released / "vision_tower_config.json").write_text(json.dumps(values["vision_config"]))
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps(LORA))
    tensors, weights = {}, load_file(released / "model.safetensors")
    for module in ("self_attn.q_proj", "mlp.down_proj"):
        outputs, inputs = weights[f"model.layers.0.{module}.weight"].shape
        tensors[f"{PREFIX}model.layers.0.{module}.lora_A.weight"] = torch.randn(4, inputs)
        tensors[f"{PREFIX}model.layers.0.{module}.lora_B.weight"] = torch.randn(outputs, 4)
    save_file(tensors, lora / "adapter_model.safetensors")
    full = {PREFIX + name: tensor for name, tensor in weights.items() if name.startswith("model.mm_projector.")}
    torch.save(full, lora / "non_lora_trainables.bin")
    return ""


# What is drawn

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 64, 128, 1.5, -0.0, 1e-320, 1e300, float("nan"), float("inf"), -float("inf")),
    *(2**15, 2**16, 2**20, 2**22, 2**31, 2**63, 2**64, 10**9, 10**18, 10**100, -(10**9)),
    *(
        "",
        "0",
        "1e5",
        "text",
        "NaN",
        "a\nb",
        "\0",
        "\ud800",
        "\x1b[31m",
        "bfloat16",
        "float8_e4m3fn",
        "flash_attention_2",
    ),
    *("..", "../secret.json", "/etc/passwd", "secret.json", "org/name--evil.Config", "evil.Config", "x" * 10**5),
    *("llama", "qwen2", "clip", "clip_vision_model", "llava_uhd_v2", "llava_llama", "llava_qwen", "auto"),
    *("@deep:900@", "@deep:100000@", "@digits:5000@", "{{ 1 / 0 }}", "{% for", "{{ 'a' * 10**10 }}"),
    *([], [[]], {}, [0], [None], ["a"], [2**16, 2**16], [64, 64], [1.5], {"": 0}, {"a": {"b": []}}, {"0": "a"}),
    *({"rope_type": "yarn", "factor": 1e9}, {"type": "linear"}, {"AutoConfig": "evil.Config"}, {"bits": 4}),
]
KEYS = [
    *("auto_map", "quantization_config", "rope_scaling", "rope_parameters", "rope_theta", "torch_dtype", "dtype"),
    *("architectures", "vision_config", "text_config", "projector_config", "tie_word_embeddings", "layer_types"),
    *("num_key_value_heads", "head_dim", "attention_bias", "attn_implementation", "_attn_implementation", "mlp_ratio"),
    *(
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "id2label",
        "num_labels",
        "transformers_version",
        "_name_or_path",
    ),
    *("chat_template", "added_tokens_decoder", "added_tokens", "tokenizer_class", "model_max_length", "use_fast"),
    *("extra_special_tokens", "additional_special_tokens", "unk_token", "processor_class", "image_processor_type"),
    *("custom_pipelines", "suppress_tokens", "do_sample", "temperature", "model_type", "weight_map", "metadata"),
    *("mm_hidden_size", "mm_vision_tower", "feature_scale_mask", "mm_vision_select_layer", "modules_to_save"),
    *("rank_pattern", "target_modules", "image_mean", "image_std", "size", "max_slices", "levels", "upsampler"),
]
REPLACEMENTS = [
    *("empty", "half", "list", "null", "mark", "latin1", "noise", "folder", "missing", "link outside", "link inside"),
    *("dangling link", "looping link", "pipe", "device", "huge"),
]
INDEX = [
    *(
        "../secret.json",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        ".",
        "",
        "\0",
        "a\nb",
        "\ud800",
        "C:x",
        "x" * 300,
    ),
    *(None, 5, [], {}, True, "missing.safetensors", "config.json", "link.safetensors", "folder.safetensors"),
]
TENSORS = [
    *("rename", "delete", "add", "transpose", "flatten", "unsqueeze", "longer", "shorter", "empty", "scalar", "nan"),
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool", "complex64"),
    *("odd name", "long name", "layer 99", "all"),
]
HEADERS = [
    *("length 0", "length 3", "length 2**63", "length 2**64-1", "no json", "deep", "huge shape", "negative shape"),
    *("fractional shape", "no shape", "offsets beyond", "offsets reversed", "offsets overlap", "unknown dtype", "F4"),
    *("twice", "metadata", "text offsets", "hole"),
]
PICKLES = [
    *("int key", "bool key", "tuple key", "none key", "nested", "list", "tensor", "none", "text", "object", "code"),
    *("expanded", "strided", "shared", "quantized", "sparse", "parameter", "meta", "empty", "ordered", "compressed"),
    *("claims", "zip", "protocol 0"),
]

number = st.integers(0, 10**4)
json_values = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(VALUES),
    st.integers(-(2**66), 2**66),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**33) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
# "config.json" or any file by its number
json_file = st.one_of(st.just("config.json"), st.just("config.json"), number)
set_key = st.tuples(st.just("set"), json_file, number, json_values)
EDITS = [
    set_key,
    set_key,
    set_key,
    st.tuples(st.just("scale"), json_file, number, st.sampled_from([2, 3, 0.5, -1, 1000, 10**6])),
    st.tuples(st.just("wrap"), json_file, number, st.sampled_from(["text", "list", "object", "float"])),
    st.tuples(st.just("new"), json_file, st.sampled_from(KEYS), json_values),
    st.tuples(st.just("new"), json_file, st.sampled_from(KEYS), json_values),
    st.tuples(st.just("delete"), json_file, number),
    st.tuples(st.just("twice"), json_file, number, json_values),
    st.tuples(st.just("replace"), number, st.sampled_from(REPLACEMENTS)),
    st.tuples(st.just("index"), number, st.sampled_from(INDEX)),
    st.tuples(st.just("tensor"), number, st.sampled_from(TENSORS)),
    st.tuples(st.just("header"), number, st.sampled_from(HEADERS)),
    st.tuples(st.just("pickle"), number, st.sampled_from(PICKLES)),
]


# How it is done


def apply_edit(work: Path, edit: list[Any]) -> None:
    """Spoils a folder of `work`; where there is nothing to be spoilt so, leaves it."""
    folder, operation, *arguments = edit
    globals()[f"_{operation}"](work / folder, *arguments)


def _stem(folder: Path) -> tuple[str, str]:
    """Names of weights without suffix: as safetensors, pickled."""
    return ("adapter_model", "adapter_model") if folder.name == "lora" else ("model", "pytorch_model")


def _form(folder: Path, form: str) -> None:
    safe, pickled = _stem(folder)
    path = folder / f"{safe}.safetensors"
    if form == "one file":
        return
    tensors = load_file(path)
    path.unlink()
    if form in ("pickle", "old pickle"):
        torch.save(tensors, folder / f"{pickled}.bin", _use_new_zipfile_serialization=form == "pickle")
        return
    stem, suffix, save = (safe, "safetensors", save_file) if form == "shards" else (pickled, "bin", torch.save)
    names, weight_map = sorted(tensors), {}
    for index, chosen in enumerate((names[::2], names[1::2])):
        name = f"{stem}-0000{index + 1}-of-00002.{suffix}"
        save({name: tensors[name] for name in chosen}, folder / name)
        weight_map |= dict.fromkeys(chosen, name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _pick(folder: Path, which: str | int, *suffixes: str) -> Path | None:
    paths = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
    if isinstance(which, str) and (folder / which).is_file():
        return folder / which
    return paths[(0 if isinstance(which, str) else which) % len(paths)] if paths else None


def _keys(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all entries, those of sub-objects behind their owner's; of the first entries of long ones."""
    found = []
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(entries)[:60]:
        found += [(*path, key), *_keys(value, (*path, key))]
    return found


def _write(path: Path, values: Any) -> None:
    text = json.dumps(values)
    for kind, make in (("deep", lambda n: "[" * n + "]" * n), ("digits", lambda n: "9" * n)):
        for size in (900, 5000, 100000):
            text = text.replace(f'"@{kind}:{size}@"', make(size))
    path.write_text(text)


def _change(folder: Path, which: str | int, key: int, change: Any) -> None:
    path = _pick(folder, which, ".json")
    values = json.loads(path.read_text()) if path else None
    keys = _keys(values)
    if keys:
        *owners, last = keys[key % len(keys)]
        owner = values
        for step in owners:
            owner = owner[step]
        change(owner, last)
        _write(path, values)


def _set(folder: Path, which: str | int, key: int, value: Any) -> None:
    _change(folder, which, key, lambda owner, last: owner.__setitem__(last, value))


def _scale(folder: Path, which: str | int, key: int, factor: float) -> None:
    def change(owner: Any, last: Any) -> None:
        if isinstance(owner[last], (int, float)):
            owner[last] = type(owner[last])(owner[last] * factor)

    _change(folder, which, key, change)


def _wrap(folder: Path, which: str | int, key: int, how: str) -> None:
    def change(owner: Any, last: Any) -> None:
        value = owner[last]
        wrapped = {"text": str(value), "list": [value], "object": {"value": value}}
        owner[last] = wrapped[how] if how != "float" else float(value) if isinstance(value, int) else value

    _change(folder, which, key, change)


def _delete(folder: Path, which: str | int, key: int) -> None:
    _change(folder, which, key, lambda owner, last: owner.pop(last))


def _new(folder: Path, which: str | int, key: str, value: Any) -> None:
    path = _pick(folder, which, ".json")
    values = json.loads(path.read_text()) if path else None
    if isinstance(values, dict):
        _write(path, values | {key: value})
        (folder / "evil.py").write_text("open('canary', 'w')\n")


def _twice(folder: Path, which: str | int, key: int, value: Any) -> None:
    """Repeats a key of the outermost object with another value."""
    path = _pick(folder, which, ".json")
    text = path.read_text() if path else ""
    values = json.loads(text) if text.startswith("{") else {}
    if values:
        name = list(values)[key % len(values)]
        end = text.rindex("}")
        path.write_text(f"{text[:end]}, {json.dumps(name)}: {json.dumps(value)}{text[end:]}")


def _replace(folder: Path, which: int, how: str) -> None:
    path = _pick(folder, which, ".json", ".safetensors", ".bin", ".model", ".jinja")
    if path is None:
        return
    data = path.read_bytes()
    text = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "list": b"[]",
        "null": b"null",
        "mark": b"\xef\xbb\xbf" + data,
    }
    text |= {"latin1": b'{"a": "\xe9"}', "noise": bytes(range(256)) * 20}
    path.unlink()
    if how in text:
        path.write_bytes(text[how])
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "huge":
        path.write_bytes(data)
        os.truncate(path, 2**29)
    elif how != "missing":
        targets = {"link outside": "../secret.json", "dangling link": "gone", "looping link": path.name}
        targets |= {"device": "/dev/zero", "link inside": f"of_{path.name}"}
        (folder / f"of_{path.name}").write_bytes(data)
        path.symlink_to(targets[how])


def _index(folder: Path, which: int, name: Any) -> None:
    """Puts a name into the index of the weights, which is made where there is none."""
    safe, pickled = _stem(folder)
    weights = _pick(folder, which, ".safetensors", ".bin")
    if weights is None:
        return
    stem, suffix = (safe, "safetensors") if weights.suffix == ".safetensors" else (pickled, "bin")
    path = folder / f"{stem}.{suffix}.index.json"
    values = json.loads(path.read_text()) if path.is_file() else {"weight_map": {"model.norm.weight": weights.name}}
    (folder / "link.safetensors").symlink_to("../secret.json")
    (folder / "folder.safetensors").mkdir()
    weight_map = values["weight_map"]
    weight_map[sorted(weight_map)[which % len(weight_map)]] = name
    _write(path, values)


def _load(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def _tensor(folder: Path, which: int, how: str) -> None:
    path = _pick(folder, which, ".safetensors", ".bin")
    if path is None:
        return
    tensors = _load(path)
    name = sorted(tensors)[which * 7 % len(tensors)]
    tensor = tensors.pop(name)
    names = {"rename": f"{name}s", "odd name": "\ud7ff\n", "long name": "x" * 10**5, "layer 99": "model.layers.99.a"}
    if how == "all":
        tensors = {key: value.to(torch.float16) for key, value in tensors.items()}
    elif how == "add":
        tensors["extra"] = tensor.clone()
    elif how == "nan":
        tensor = torch.full_like(tensor, float("nan"))
    elif hasattr(torch, how) and isinstance(getattr(torch, how), torch.dtype):
        tensor = tensor.to(getattr(torch, how))
    else:
        changes = {"transpose": lambda: tensor.T, "flatten": tensor.flatten, "unsqueeze": lambda: tensor[None]}
        changes |= {"longer": lambda: torch.cat([tensor.reshape(-1, *tensor.shape[1:])] * 2)}
        changes |= {"shorter": lambda: tensor[:-1] if tensor.ndim else tensor, "empty": lambda: tensor.flatten()[:0]}
        changes |= {"scalar": lambda: tensor.sum()}
        tensor = changes[how]() if how in changes else tensor
    if how != "delete":
        tensors[names.get(how, name)] = tensor.contiguous()
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)


def _header(folder: Path, which: int, how: str) -> None:
    """Spoils the header of a safetensors file."""
    path = _pick(folder, which, ".safetensors")
    if path is None:
        return
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    if how.startswith("length"):
        claimed = {"length 0": 0, "length 3": 3, "length 2**63": 2**63, "length 2**64-1": 2**64 - 1}[how]
        path.write_bytes(struct.pack("<Q", claimed) + data[8:])
        return
    header = json.loads(data[8 : 8 + length])
    name = sorted(header.keys() - {"__metadata__"})[which * 7 % (len(header) - 1)]
    entry = header[name]
    start, end = entry["data_offsets"]
    changes: dict[str, dict[str, Any]] = {
        "huge shape": {"shape": [2**31, 2**31]},
        "negative shape": {"shape": [-1, *entry["shape"]]},
        "fractional shape": {"shape": [1.5]},
        "offsets beyond": {"data_offsets": [start, 2**40]},
        "offsets reversed": {"data_offsets": [end, start]},
        "offsets overlap": {"data_offsets": [0, end - start]},
        "text offsets": {"data_offsets": ["0", "1"]},
        "unknown dtype": {"dtype": "F128"},
        "F4": {"dtype": "F4"},
    }
    entry |= changes.get(how, {})
    if how == "no shape":
        del entry["shape"]
    if how == "metadata":
        header["__metadata__"] = {"format": {"a": 1}}
    if how == "hole":
        del header[name]
    text = json.dumps(header)
    text = {"no json": "{" * 20, "deep": "[" * 10**5 + "]" * 10**5}.get(how, text)
    if how == "twice":
        text = f"{text[:-1]}, {json.dumps(name)}: {json.dumps(entry)}}}"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])


class _Code:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


def _pickle(folder: Path, which: int, how: str) -> None:
    """Replaces weights by a pickle that holds something else."""
    _, pickled = _stem(folder)
    weights = _pick(folder, which, ".safetensors", ".bin")
    if weights is None:
        return
    tensors = _load(weights)
    path = weights if weights.suffix == ".bin" else folder / f"{pickled}.bin"
    if path != weights:
        for stale in (weights, *folder.glob("*.index.json")):
            stale.unlink(missing_ok=True)
    name = sorted(tensors)[which * 7 % len(tensors)]
    tensor, zeros = tensors[name], torch.zeros(1, dtype=tensors[name].dtype)
    keys = {"int key": 0, "bool key": True, "tuple key": ("a", 1), "none key": None}
    entries: dict[str, Any] = {
        **{how: {**tensors, key: tensor} for how, key in keys.items()},
        "nested": {"state_dict": tensors, "epoch": 1},
        "list": list(tensors.values()),
        "tensor": tensor,
        "none": None,
        "text": {**tensors, "note": "text"},
        "object": {**tensors, name: folder},
        "code": {**tensors, name: _Code()},
        "expanded": {**tensors, name: zeros.expand(10**10)},
        "strided": {**tensors, name: tensor.flatten()[::2]},
        "shared": {**tensors, name: next(iter(tensors.values())).flatten()[:3]},
        "sparse": {**tensors, name: torch.eye(3).to_sparse()},
        "parameter": {**tensors, name: torch.nn.Parameter(tensor)},
        "meta": {**tensors, name: tensor.to("meta")},
        "ordered": collections.OrderedDict(tensors),
        "empty": {},
    }
    if how == "quantized":
        entries[how] = {**tensors, name: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}
    if how == "protocol 0":
        path.write_bytes(pickle.dumps({"a": 1}, 0))
    elif how == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"junk")
    elif how == "compressed":
        torch.save(entries["ordered"], path)
        with zipfile.ZipFile(path) as archive:
            contents = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in contents.items():
                archive.writestr(member, content if len(content) < 10**6 else bytes(2**31))
    elif how == "claims":
        torch.save({name: torch.zeros(12345)}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(b"M90", b"J\xff\xff\xff\x7f"))
    else:
        torch.save(entries[how], path)
