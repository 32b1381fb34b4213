# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Ways to quantise a model on a CPU, what is looked at in one, and a tiny trained model to lose something by it."""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from tests.support.finetune_data import write_checkpoint, write_samples
from tests.support.finetune_runs import train


WIDTH = 128  # on a CPU bitsandbytes' 4-bit layers take multiples of 64
STEPS = 400
RECIPE = [
    "batch_size=16",
    "training.per_device_train_batch_size=16",
    "training.logging_steps=10",
    "training.gradient_checkpointing=false",
]
PRETRAINING = ["training.learning_rate=3e-3", "training.max_steps=20", "training.save_strategy=no"]
TUNING = [
    "training.learning_rate=1e-3",
    "parts.vision_tower.learning_rate=2e-4",
    f"training.max_steps={STEPS}",
    f"training.save_steps={STEPS}",
]
PARTS = {
    "vision tower": "model.visual.vision_tower.",
    "projector": "model.visual.projector.",
    "text model": "model.language_model.",
    "head": "lm_head",
}
KEPT = {"vision tower", "projector", "head"}
FULL = "Linear of Parameter"


class Method(NamedTuple):
    """A way to quantise.

    Args:
        make_config: the `quantization_config` for `from_pretrained`.
        layer: what it makes of a linear layer: the types of the layer and of its weight.
    """

    make_config: Callable[[], BitsAndBytesConfig | TorchAoConfig]
    layer: str


def int8_by_bitsandbytes() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


def nf4_by_bitsandbytes() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def int8_by_torchao() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def dynamic_int8_by_torchao() -> TorchAoConfig:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig())


def few_bits_by_torchao(weight_dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup

    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=weight_dtype, granularity=PerGroup(32)))


BY_BITSANDBYTES = {
    "bitsandbytes int8": Method(int8_by_bitsandbytes, "Linear8bitLt of Int8Params"),
    "bitsandbytes nf4": Method(nf4_by_bitsandbytes, "Linear4bit of Params4bit"),
}
BY_TORCHAO = {
    "torchao int8, weights": Method(int8_by_torchao, "Linear of Int8Tensor"),
    "torchao int8, dynamic": Method(dynamic_int8_by_torchao, "Linear of Int8Tensor"),
    "torchao int4, weights": Method(partial(few_bits_by_torchao, torch.int4), "Linear of IntxUnpackedToInt8Tensor"),
}
METHODS = BY_BITSANDBYTES | BY_TORCHAO
# too few bits: shows that the questions notice damage
CONTROL = "torchao int2, a control"
EVERY_METHOD = METHODS | {
    CONTROL: Method(partial(few_bits_by_torchao, torch.int2), "Linear of IntxUnpackedToInt8Tensor")
}


def load(folder: Path, **options: Any) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, device_map="cpu", **options).eval()


def layer_types(model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """How many linear layers each part has of which types of layer and weight."""
    return {
        part: dict(
            Counter(
                f"{type(module).__name__} of {type(module.weight).__name__}"
                for name, module in model.named_modules()
                if name.startswith(prefix) and isinstance(module, nn.Linear)
            )
        )
        for part, prefix in PARTS.items()
    }


def unchanged_parts(model: PreTrainedModel, reference: PreTrainedModel) -> set[str]:
    """The parts that have every parameter of the reference, to the bit."""
    parameters = dict(model.named_parameters())
    changed = [
        name
        for name, expected in reference.named_parameters()
        # torchao's tensors can't be compared
        if type(parameters[name]) is not nn.Parameter or not torch.equal(parameters[name], expected)
    ]
    return {part for part, prefix in PARTS.items() if not any(name.startswith(prefix) for name in changed)}


def bytes_in_memory(model: PreTrainedModel) -> int:
    """Of weights, scales and all that is saved with them; of a model that has not run, which bitsandbytes repacks."""
    return sum(map(tensor_bytes, model.state_dict().values()))


def tensor_bytes(tensor: Any) -> int:
    """Of a tensor; of those it consists of, where it is torchao's, which give themselves out for float32."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes if isinstance(tensor, torch.Tensor) else 0


def bytes_on_disk(folder: Path) -> int:
    return sum(os.path.getsize(file) for file in folder.glob("*.safetensors"))


class Subject(NamedTuple):
    """A trained model, and 128 held-out questions about 32 images."""

    checkpoint: Path
    held_out: Path


def train_subject(folder: Path) -> Subject:
    """Trains a tiny model until it sees: four minutes on one core."""
    training = write_samples(folder / "training", images=256)
    held_out = write_samples(folder / "held-out", images=32, seed=1)
    base = write_checkpoint(folder / "base", width=WIDTH)
    # the projector in its plain order: faster at toy sizes
    with patch.object(projector_module, "reordering_pays", lambda *_: False):
        begun = train("pretrain", base, training, folder / "begun", *RECIPE, *PRETRAINING, "chat_template=null")
        return Subject(train("sft", begun, training, folder / "trained", *RECIPE, *TUNING), held_out)


def check_what_is_quantised(checkpoint: Path, folder: Path, method: Method) -> None:
    """Only the text model's layers, and so too after saving and loading; the logits stay near, and then the same."""
    reference, quantised = load(checkpoint), load(checkpoint, quantization_config=method.make_config())
    quantised.save_pretrained(folder)
    reloaded = load(folder)
    for model in (quantised, reloaded):
        types = layer_types(model)
        assert {part: set(found) for part, found in types.items()} == dict.fromkeys(PARTS, {FULL}) | {
            "text model": {method.layer}
        }
        assert unchanged_parts(model, reference) == KEPT
    expected, got, again = (logits_of(model) for model in (reference, quantised, reloaded))
    assert 0 < (got - expected).abs().mean() < 0.5 * expected.abs().mean()
    torch.testing.assert_close(again, got, rtol=0, atol=0)


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=torch.arange(5, 45)[None]).logits
