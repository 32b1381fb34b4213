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


def run(*arguments):
    """What a program prints, in a process of its own."""
    done = subprocess.run([sys.executable, *arguments], text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def changes(*names):
    """What importing modules changes."""
    return json.loads(run(ROOT / "tests/ecosystem/import_effects.py", *names).splitlines()[-1])


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "from transformers import AutoConfig",
        "from transformers import LlamaForCausalLM, Trainer, pipeline",
        "import transformers.generation.utils",
        "import peft",
        "import trl; trl.SFTTrainer",
        "from llava_uhd_v2_hf import LlavaUhdV2Processor",
        "import llava_uhd_v2_hf.model.text_llava_uhd_v2",
        "import importlib; from transformers import AutoModel; importlib.reload(llava_uhd_v2_hf)",
    ],
)
def test_classes_are_registered_in_whatever_order_modules_are_imported(first):
    code = f"""
import llava_uhd_v2_hf
{first}
import transformers
from llava_uhd_v2_hf import *
registered = {{name: getattr(transformers, name) for name in {sorted(AUTO_MAPPINGS - {"CONFIG_MAPPING"})}}}
assert transformers.CONFIG_MAPPING["llava_uhd_v2"] is LlavaUhdV2Config
assert {{name: mapping[LlavaUhdV2Config] for name, mapping in registered.items()}} == {{
    "IMAGE_PROCESSOR_MAPPING": {{"pil": LlavaUhdV2ImageProcessor}},
    "MODEL_FOR_CAUSAL_LM_MAPPING": LlavaUhdV2ForConditionalGeneration,
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING": LlavaUhdV2ForConditionalGeneration,
    "MODEL_MAPPING": LlavaUhdV2Model,
    "PROCESSOR_MAPPING": LlavaUhdV2Processor,
}}
"""
    run("-c", code)


@pytest.mark.slow
def test_a_spawned_process_registers_the_classes_with_what_it_unpickles(tmp_path):
    code = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from llava_uhd_v2_hf import LlavaUhdV2Config


def model_class(config):
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)].__name__


if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(model_class, LlavaUhdV2Config()).result() == "LlavaUhdV2Model"
"""
    script = tmp_path / "spawning.py"
    script.write_text(code)
    run(script)


def test_the_package_loads_neither_torch_nor_transformers_and_lists_its_names():
    code = """
import sys
import llava_uhd_v2_hf
assert not {"numpy", "torch", "transformers"} & set(sys.modules)
assert set(llava_uhd_v2_hf.__all__) <= set(dir(llava_uhd_v2_hf))
assert not hasattr(llava_uhd_v2_hf, "LlavaUhdV3Config")
"""
    run("-c", code)


def test_help_of_every_command_loads_neither_torch_nor_transformers():
    code = """
import sys
from typer.main import get_command
from llava_uhd_v2_hf.cli.app import app


def helps(command, *words):
    yield [*words, "--help"]
    for name, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, *words, name)


for arguments in helps(get_command(app)):
    app(arguments, standalone_mode=False)
    loaded = {"numpy", "torch", "transformers"} & set(sys.modules)
    assert not loaded, (arguments, loaded)
"""
    assert "data check" in run("-c", code)
