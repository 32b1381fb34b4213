# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a kind from outside the package has to go through: the journey of a checkpoint that has one."""

import os
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.export import export_checkpoint
from llava_uhd_v2_hf.inference.cost import estimate_cost
from tests.support.auto_class_results import assert_same, compute
from tests.support.commands import run_cli
from tests.support.environments import make_environment
from tests.support.finetune_data import write_checkpoint
from tests.support.paths import ROOT


IMAGE_SIZE = (40, 90)  # width and height: two slices and an overview, of different shapes


def picture() -> Image.Image:
    return Image.effect_mandelbrot(IMAGE_SIZE, (-2, -1.2, 1, 1.2), 100).convert("RGB")


def prepare(folder: Path) -> dict[str, torch.Tensor]:
    """The inputs of a question about [`picture`]."""
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "What colour?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def check_saving(folder: Path, tmp_path: Path, part: str, field: str, value: str) -> None:
    """A config that names the kind is saved and loaded, and so are its weights."""
    config = AutoConfig.from_pretrained(folder)
    assert getattr(getattr(config, part), field) == value
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert getattr(getattr(again.config, part), field) == value
    weights, expected = again.state_dict(), model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@torch.no_grad()
def check_generation(folder: Path) -> None:
    """Tokens generated with a cache are those that whole forward passes choose."""
    model, inputs = AutoModelForImageTextToText.from_pretrained(folder).eval(), prepare(folder)
    generated = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    prompt = inputs["input_ids"].shape[1]
    whole = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    logits = model(input_ids=generated, **whole).logits[0, prompt - 1 : -1]
    logits[:, model.generation_config.suppress_tokens] = -torch.inf
    logits[:, model.generation_config.eos_token_id] = -torch.inf
    assert logits.argmax(-1).tolist() == generated[0, prompt:].tolist()


def check_cost_and_inspection(folder: Path, tmp_path: Path) -> None:
    """Cost before the fact, the picture of the tokens and the prompt agree on the number of tokens."""
    processor, config = AutoProcessor.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    tokens = int((prepare(folder)["input_ids"] == config.image_token_id).sum())
    plan = processor.image_processor.slice_plan(IMAGE_SIZE[1], IMAGE_SIZE[0])
    assert plan.num_slices
    cost = estimate_cost([plan], config, torch.float32)
    assert cost.num_image_tokens == tokens and cost.vision_bytes > 0 and cost.cache_bytes > 0
    [counted] = processor._get_num_multimodal_tokens(image_sizes=[IMAGE_SIZE[::-1]])["num_image_tokens"]
    assert counted == tokens

    picture().save(tmp_path / "picture.png")
    arguments = ["--image", tmp_path / "picture.png", "--model", folder, "--out", tmp_path / "inspection.png"]
    result = run_cli("inspect", *arguments)
    assert result.exit_code == 0, result.stderr
    assert re.search(rf"^tokens +{tokens:,} =", result.stdout, re.MULTILINE)
    assert Image.open(tmp_path / "inspection.png").size > (100, 100)


def check_training(folder: Path, samples: Path, tmp_path: Path, trained: str) -> None:
    """A step of `train sft` changes every weight whose name holds `trained`, and the result answers."""
    output = tmp_path / "trained"
    settings = [f"model={folder}", f"data.source={samples}", f"training.output_dir={output}", "training.max_steps=1"]
    settings += ["batch_size=4", "training.use_cpu=true", "training.report_to=none", "training.warmup_steps=0"]
    settings += ["training.bf16=false", "training.gradient_checkpointing=false", "data.max_length=4096"]
    settings += ["training.per_device_train_batch_size=4", "training.dataloader_num_workers=0"]
    result = run_cli("train", "sft", "sft-paper", *settings)
    assert result.exit_code == 0, result.output
    before, after = (AutoModelForImageTextToText.from_pretrained(path).state_dict() for path in (folder, output))
    names = [name for name in before if trained in name]
    assert names
    assert [name for name in names if torch.equal(before[name], after[name].to(before[name].dtype))] == []
    check_generation(output)


def check_lora(folder: Path, targets: str) -> None:
    """LoRA in the layers that a pattern names trains, and merged it computes the same."""
    model, inputs = AutoModelForImageTextToText.from_pretrained(folder), prepare(folder)
    with torch.no_grad():
        untrained = model(**inputs).logits
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    assert any(".projector." in name or ".vision_tower." in name for name in adapted.targeted_module_names)
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.1)
    adapted(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)
    optimizer.step()
    with torch.no_grad():
        trained = adapted.eval()(**inputs).logits
        merged = adapted.merge_and_unload()(**inputs).logits
    assert not torch.allclose(trained, untrained, atol=1e-3)
    torch.testing.assert_close(merged, trained, rtol=0, atol=1e-4)


def check_export(folder: Path, tmp_path: Path, extension: str) -> None:
    """A folder with code answers the same in an environment without the package and without the extension's file."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    results = tmp_path / "results.safetensors"
    expected = compute(
        "package", folder, results, extensions=[extension] if extension else [], env=os.environ | {"PYTHONPATH": path}
    )
    exported = tmp_path / "exported"
    export_checkpoint(folder, exported, CardRequest(), with_code=True)
    python = make_environment(tmp_path / "environment")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    assert_same(compute("code", exported, results, python, isolated=True, env=environment, cwd=tmp_path), expected)


class Journey:
    """The tests of one kind, from config to export. A subclass says which; see the attributes.

    Attributes:
        changes: of `write_checkpoint`'s config, by part.
        named_by: part and field of the config that name the kind.
        trained: in the names of weights that a step of `train sft` changes.
        targets: layers that get LoRA, a regular expression.
        extension: module that registers the kind.
    """

    changes: dict[str, dict[str, object]]
    named_by: tuple[str, str]
    trained = "projector.window_attention.key"
    targets = r".*(window_attention\.(key|value)|language_model.*q_proj)"
    extension = ""

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory):
        return write_checkpoint(tmp_path_factory.mktemp("journey") / "model", width=32, **self.changes)

    def test_saving_and_loading(self, checkpoint, tmp_path):
        part, field = self.named_by
        check_saving(checkpoint, tmp_path, part, field, self.changes[part.removesuffix("_config")][field])

    def test_generation(self, checkpoint):
        check_generation(checkpoint)

    def test_cost_and_inspection(self, checkpoint, tmp_path):
        check_cost_and_inspection(checkpoint, tmp_path)

    def test_training(self, checkpoint, samples, tmp_path):
        check_training(checkpoint, samples, tmp_path, self.trained)

    def test_lora_with_merge(self, checkpoint):
        check_lora(checkpoint, self.targets)

    @pytest.mark.slow
    def test_export_with_code(self, checkpoint, tmp_path):
        check_export(checkpoint, tmp_path, self.extension)
