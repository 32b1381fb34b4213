# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Importing the package, and each of its modules, changes nothing in transformers but the Auto registries."""

import json
import re
import subprocess
import sys

import pytest
from transformers.pipelines import PIPELINE_REGISTRY

from tests.ecosystem.public_names import modules
from tests.support.paths import ROOT


OUR_KEYS = re.compile(
    r"\[(llava_uhd_v2|<class 'llava_uhd_v2_hf\.model\.configuration_llava_uhd_v2\.LlavaUhdV2Config'>)\]"
)
AUTO_MAPPINGS = {
    "CONFIG_MAPPING",
    "IMAGE_PROCESSOR_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_MAPPING",
    "PROCESSOR_MAPPING",
}


def changes(*names):
    """What importing modules changes, in a process of its own."""
    command = [sys.executable, ROOT / "tests/ecosystem/import_effects.py", *names]
    done = subprocess.run(command, text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_transformers_own_pipeline_stays():
    place = PIPELINE_REGISTRY.check_task("image-text-to-text")[1]["impl"]  # a class, or "module.Class" since 5.24
    assert getattr(place, "__module__", place).startswith("transformers.")


@pytest.mark.slow
@pytest.mark.parametrize("every_module", [False, True], ids=["package", "every module"])
def test_importing_adds_entries_to_the_auto_registries_and_nothing_else(every_module):
    found = changes(*(module.__name__ for module in modules()) if every_module else ["llava_uhd_v2_hf"])
    assert found["checked"] > 100_000
    assert found["replaced"] == []
    assert [place for place in found["added"] if not OUR_KEYS.search(place)] == []
    assert {re.search(r"\.(\w+)\._extra_content\[", place)[1] for place in found["added"]} == AUTO_MAPPINGS


@pytest.mark.slow
def test_changes_are_seen(tmp_path, monkeypatch):
    text = """
from transformers.pipelines import PIPELINE_REGISTRY
from transformers import AttentionInterface, PreTrainedModel
PIPELINE_REGISTRY.supported_tasks["image-text-to-text"]["impl"] = object
PIPELINE_REGISTRY.supported_tasks["mine"] = {}
PreTrainedModel.save_pretrained = None
"""
    (tmp_path / "changing.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = changes("changing")
    assert {
        "transformers.pipelines.PIPELINE_REGISTRY.supported_tasks[image-text-to-text][impl]",
        "transformers.modeling_utils.PreTrainedModel.save_pretrained",
    } <= set(found["replaced"])
    assert "transformers.pipelines.PIPELINE_REGISTRY.supported_tasks[mine]" in found["added"]


@pytest.mark.parametrize(
    "first",
    [
        "from transformers import AutoModel",
        "from transformers import LlamaForCausalLM",
        "from llava_uhd_v2_hf import LlavaUhdV2Processor",
        "import llava_uhd_v2_hf.model.text_llava_uhd_v2",
    ],
)
@pytest.mark.slow
def test_classes_are_registered_in_whatever_order_modules_are_imported(first):
    code = f"""
import llava_uhd_v2_hf
{first}
from llava_uhd_v2_hf import *
from transformers import CONFIG_MAPPING, IMAGE_PROCESSOR_MAPPING, MODEL_MAPPING, PROCESSOR_MAPPING
assert CONFIG_MAPPING["llava_uhd_v2"] is LlavaUhdV2Config
assert MODEL_MAPPING[LlavaUhdV2Config] is LlavaUhdV2Model
assert PROCESSOR_MAPPING[LlavaUhdV2Config] is LlavaUhdV2Processor
assert IMAGE_PROCESSOR_MAPPING[LlavaUhdV2Config]["pil"] is LlavaUhdV2ImageProcessor
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["ask"], ["visualize"], ["assemble"], ["push"], ["serve"], ["data", "check"]]
)
def test_help_loads_neither_torch_nor_transformers(arguments):
    code = f"""
import sys
from llava_uhd_v2_hf.cli.app import app
app({[*arguments, "--help"]!r}, standalone_mode=False)
assert not {{"numpy", "torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 0 and "--help" in done.stdout, done.stderr
