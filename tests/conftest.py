# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fixtures that several test files share: the recordings, a tiny model, a tiny converted checkpoint."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"

import gzip  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration  # noqa: E402
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector  # noqa: E402
from tests.support.finetune_data import write_checkpoint, write_samples  # noqa: E402
from tests.support.hub_process import Server  # noqa: E402
from tests.support.models import set_fixed_weights  # noqa: E402
from tests.support.paths import GOLDEN, ROOT  # noqa: E402


pytest_plugins = ["tests.support.client_table", "tests.support.serve_checkpoint"]

torch.set_num_threads(1)


def pytest_report_teststatus(report):
    """Counts apart the tests that are about something our classes don't have."""
    if getattr(report, "not_applicable", False):
        return "not applicable", "n", "NOT APPLICABLE"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Recordings of the authors' code: the full set where the environment names it, else the subset in golden/."""
    return Path(os.environ.get("LLAVA_UHD_V2_REFERENCE", GOLDEN))


@pytest.fixture
def tiny_config() -> LlavaUhdV2Config:
    """Every feature of the default architecture at the smallest size: three levels, four query sets, 3x3 queries."""
    return LlavaUhdV2Config(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "projection_dim": 32,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 320,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
        },
        projector_config={"query_grid": [3, 3], "num_attention_heads": 2},
        image_token_id=300,
        row_separator_id=13,
        slice_separator_id=44,
    )


@pytest.fixture
def tiny_model(tiny_config) -> LlavaUhdV2ForConditionalGeneration:
    """A tiny model with fixed weights, in evaluation mode."""
    model = LlavaUhdV2ForConditionalGeneration(tiny_config).eval()
    set_fixed_weights(model)
    return model


@pytest.fixture
def mid_projector():
    """Makes projectors of width 256 and 512, at which the reordered form really runs, with features and pixels.

    (features (2, 256, 24, 16), pixels (2, 3, 336, 224)); keyword arguments are of the projector's config.
    """

    def make(dtype=torch.float32, **options):
        config = LlavaUhdV2Config(
            vision_config={"hidden_size": 256, "num_attention_heads": 4, "patch_size": 14},
            text_config={"hidden_size": 512, "num_attention_heads": 4, "vocab_size": 32001},
            projector_config={"num_query_sets": 1, **options},
        )
        projector = LlavaUhdV2Projector(config).to(dtype).eval()
        set_fixed_weights(projector)
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(2, 256, 24, 16, generator=generator, dtype=dtype)
        return projector, features, torch.randn(2, 3, 24 * 14, 16 * 14, generator=generator, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A tiny model with random weights, complete with processor; read it, don't write to it."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "model", width=32, seed=5)


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    """32 samples of 8 images; files of other names may be put beside it."""
    return write_samples(tmp_path_factory.mktemp("pictures") / "samples", images=8)


@pytest.fixture(scope="session")
def authors_checkpoint(tmp_path_factory) -> Path:
    """A folder as the authors' code saves it: tiny random weights, config and the toy tokenizer."""
    folder = tmp_path_factory.mktemp("authors")
    recorded = GOLDEN / "e2e/c_llama/checkpoint"
    with gzip.open(recorded / "model.safetensors.gz") as packed, open(folder / "model.safetensors", "wb") as target:
        shutil.copyfileobj(packed, target)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(recorded / name, folder / name)
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def converted_checkpoint(authors_checkpoint, tmp_path_factory) -> Path:
    """The same checkpoint after conversion; read it, don't write to it."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    vision_config = GOLDEN / "e2e/c_llama/checkpoint/vision_tower_config.json"
    command = [sys.executable, ROOT / "convert/convert_checkpoint.py", authors_checkpoint, folder]
    subprocess.run([*command, "--vision-config", vision_config], check=True)
    return folder


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    """A small Hub on loopback."""
    server = Server(tmp_path)
    yield server
    server.process.terminate()
    server.process.wait()
    server.process.stdout.close()
