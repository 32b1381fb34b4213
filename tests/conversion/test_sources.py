# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Hub ids as sources of conversions, against a small Hub on loopback: what is downloaded, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion.convert import convert_checkpoint
from llava_uhd_v2_hf.conversion.weight_files import WeightFiles
from tests.conversion.test_assemble import TEXT, TOWER
from tests.conversion.test_lora import low_rank
from tests.support.checkpoints import edit_json, read_weights
from tests.support.hub_process import CLI
from tests.support.paths import GOLDEN


VISION_CONFIG = GOLDEN / "e2e/c_llama/checkpoint/vision_tower_config.json"
PUBLISH = """
import sys
from huggingface_hub import HfApi

api = HfApi()
for repo_id, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    api.create_repo(repo_id)
    api.upload_folder(repo_id=repo_id, folder_path=folder)
"""


def publish(server, folders):
    """Pushes folders, by Hub id."""
    arguments = [str(word) for item in folders.items() for word in item]
    done = server.run([sys.executable, "-c", PUBLISH, *arguments])
    assert done.returncode == 0, done.stderr


def asked_for(server, repo):
    """The files of a repository that clients asked for, in order, each once."""
    requests = server.ask("/_test/requests")
    paths = [entry["path"] for entry in requests if f"/org/{repo}/resolve/" in entry["path"]]
    return list(dict.fromkeys(path.rpartition("/")[2] for path in paths))


def run(server, *arguments, **environment):
    return server.run([*CLI, *map(str, arguments)], **environment)


def assert_refused(result, *words):
    """Exit code 1, nothing on stdout, and at the end of stderr (behind logs and progress bars) one line."""
    message = result.stderr.rpartition("Error: ")[2]
    assert (result.returncode, result.stdout, message.count("\n")) == (1, "", 1), result.stderr
    for word in words:
        assert word in message


@pytest.fixture
def released(authors_checkpoint, tmp_path):
    """The authors' checkpoint with more beside it than a conversion reads."""
    folder = shutil.copytree(authors_checkpoint, tmp_path / "released")
    torch.save(read_weights(folder), folder / "pytorch_model.bin")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "modeling_llava.py").write_text("raise SystemExit('code ran')")
    (folder / "README.md").write_text("# Released\n")
    (folder / "checkpoint-100").mkdir()
    (folder / "checkpoint-100/model.safetensors").write_bytes(b"of an earlier step")
    return folder


# Without a server: the tests run with HF_HUB_OFFLINE=1


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "org/name", "output"],
        ["verify", "org/name", "there"],
        ["assemble", "org/name", "there", "output"],
        ["export-released", "org/name", "output"],
        ["convert-lora", "lora", "org/name", "output"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_unreachable_hub_is_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for name, file, values in (("there", "config.json", {}), ("lora", "adapter_config.json", {"peft_type": "LORA"})):
        Path(name).mkdir()
        Path(name, file).write_text(json.dumps(values))
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("Error: There is no folder org/name, and it can't be downloaded from the Hub: ")
    assert "HF_HUB_OFFLINE" in result.stderr and "run the same command again" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "there"]


def test_a_folder_wins_over_a_hub_id(authors_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(authors_checkpoint, "org/name")
    convert_checkpoint("org/name", Path("output"), vision_config=VISION_CONFIG, skip_tokenizer=True)
    assert json.loads(Path("output/conversion.json").read_text())["repositories"] == {}
    for name in ("org/typo", "name", "/org/name/typo", "a/b/c"):
        result = CliRunner().invoke(app, ["convert", name, "other"])
        assert (result.exit_code, result.stderr) == (
            1,
            f"Error: There is no folder {name}, and it is no Hub id like org/name.\n",
        )


def test_an_index_names_files_of_its_folder_alone(tmp_path):
    for name in ("../model.safetensors", "/etc/passwd"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ValueError, match="Expected names of files without folders in `weight_map`"):
            WeightFiles.from_folder(tmp_path)


# From a server


@pytest.mark.slow
def test_a_released_repository_is_converted_and_verified(server, released, tmp_path):
    publish(server, {"org/released": released})
    command = ("convert", "org/released", tmp_path / "output", "--vision-config", VISION_CONFIG)
    result = run(server, *command, token="")
    assert result.returncode == 0, result.stderr
    first, *small, last = asked_for(server, "released")
    assert (first, last) == ("config.json", "model.safetensors")
    assert {"tokenizer.model", "tokenizer_config.json", "generation_config.json"} < set(small)
    assert all(name.endswith((".json", ".model")) for name in small)  # no pickles, no code
    assert len(server.requests("GET", "/cdn/")) == 1  # where weights are downloaded from

    assert run(server, "convert", released, tmp_path / "expected", *command[3:]).returncode == 0
    for path in (tmp_path / "expected").iterdir():
        if path.name != "conversion.json":
            assert (tmp_path / "output" / path.name).read_bytes() == path.read_bytes(), path.name
    record = json.loads((tmp_path / "output/conversion.json").read_text())
    commit = server.ask("/api/models/org/released")["sha"]
    assert record["repositories"] == {"source": f"org/released@{commit}"}

    # what is in the cache is not downloaded again, and is enough without the Hub
    server.process.terminate()
    result = run(server, "verify", "org/released", tmp_path / "output", token="")
    assert result.returncode == 0, result.stderr
    assert "No difference" in result.stdout


@pytest.mark.slow
def test_other_repositories_are_refused_before_their_weights_are_downloaded(server, released, tmp_path):
    shutil.copytree(released, tmp_path / "llava")
    edit_json(tmp_path / "llava/config.json", model_type="llava")
    shutil.copytree(released, tmp_path / "mlp")
    edit_json(tmp_path / "mlp/config.json", mm_projector_type="mlp2x_gelu")
    shutil.copytree(released, tmp_path / "bare")
    (tmp_path / "bare/config.json").unlink()
    publish(server, {f"org/{name}": tmp_path / name for name in ("llava", "mlp", "bare")})
    work = tmp_path / "work"
    work.mkdir()
    options = ["--vision-config", VISION_CONFIG]
    for name, words in {
        "org/llava": ("released LLaVA-UHD v2 checkpoint", "`model_type`='llava'"),
        "org/mlp": ("`mm_projector_type`='mlp2x_gelu' is not supported",),
        "org/bare": ("org/bare", "no config.json"),
        "org/none": ("There is no folder org/none, and the Hub has no such model", "hf auth login"),
    }.items():
        assert_refused(run(server, "convert", name, work / "output", *options), *words)
    assert_refused(run(server, "export-released", "org/llava", work / "output"), "llava_uhd_v2", "org/llava")
    assert server.requests("GET", "/cdn/") == []
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_download_continues(server, released, tmp_path):
    publish(server, {"org/released": released})
    server.ask("/_test/faults", [{"method": "GET", "path": "/cdn/", "times": 100, "status": "drop"}])
    command = ("convert", "org/released", tmp_path / "output", "--vision-config", VISION_CONFIG)
    assert_refused(run(server, *command), "org/released", "can't be downloaded", "run the same command again")
    assert not list(tmp_path.glob("output*"))
    server.ask("/_test/faults", [])
    before = len(server.requests("GET", "/resolve/"))
    result = run(server, *command)
    assert result.returncode == 0, result.stderr
    assert server.requests("GET", "/resolve/")[before:] == []  # small files are in the cache
    assert server.requests("GET", "/cdn/")[-1]["status"] in (200, 206)
    assert (tmp_path / "output/config.json").is_file()


@pytest.mark.slow
def test_parts_and_bases_of_repositories(server, converted_checkpoint, authors_checkpoint, tmp_path):
    tower, text, lora = tmp_path / "tower", tmp_path / "text", tmp_path / "lora"
    vision_model = CLIPVisionModel(CLIPVisionConfig(**TOWER))
    vision_model.config.save_pretrained(tower)
    torch.save(vision_model.state_dict(), tower / "pytorch_model.bin")  # as the Hub has CLIP
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(text)
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", text, dirs_exist_ok=True)
    publish(server, {"org/tower": tower, "org/text": text, "org/base": converted_checkpoint})

    separators = ["--row-separator-id", 13, "--slice-separator-id", 44]
    result = run(server, "assemble", "org/text", "org/text", tmp_path / "output", *separators)
    assert_refused(result, "is not supported. Choose one of clip_vision_model")
    result = run(server, "assemble", "org/tower", "org/tower", tmp_path / "output", *separators)
    assert_refused(result, "Expected a causal language model in org/tower", "clip_vision_model")
    assert server.requests("GET", "/cdn/") == []
    result = run(server, "assemble", "org/tower", "org/text", tmp_path / "output", *separators)
    assert result.returncode == 0, result.stderr
    ours = read_weights(tmp_path / "output")
    name = "embeddings.class_embedding"
    assert torch.equal(ours[f"model.visual.vision_tower.{name}"], vision_model.state_dict()[name])
    record = json.loads((tmp_path / "output/conversion.json").read_text())
    assert record["repositories"].keys() == {"vision_tower", "text_model"}
    assert {"vision_tower/pytorch_model.bin", "text_model/model.safetensors"} <= record["sources"].keys()

    weights = len(server.requests("GET", "/cdn/"))
    lora.mkdir()
    torch.save(low_rank(read_weights(authors_checkpoint)), lora / "adapter_model.bin")
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    result = run(server, "convert-lora", lora, "org/base", tmp_path / "adapter")
    assert result.returncode == 0, result.stderr
    adapter = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "org/base"
    assert (tmp_path / "adapter/processor_config.json").is_file()
    assert asked_for(server, "base")[0] == "config.json" and "model.safetensors" not in asked_for(server, "base")
    assert len(server.requests("GET", "/cdn/")) == weights
