# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Publishing: complete folders, code, push and load against a small Hub on loopback, see hub_server.py."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.hub import publishing as hub
from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.publishing import AUTO_MAP, export_checkpoint, push_checkpoint, read_checkpoint, reshard
from tests.support.hub_process import CLI, OWN_CARD
from tests.support.paths import ROOT


PACKAGE = Path(hub.__file__).parent
OLDEST_TRANSFORMERS = "5.19.0"


@pytest.fixture
def checkpoint(converted_checkpoint, tmp_path):
    """A copy of the converted checkpoint, to write to."""
    return Path(shutil.copytree(converted_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="session")
def large_checkpoint(converted_checkpoint, tmp_path_factory):
    """The converted checkpoint in float32: 36 MB in one file."""
    folder = Path(shutil.copytree(converted_checkpoint, tmp_path_factory.mktemp("large") / "model"))
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    assert (folder / "model.safetensors").stat().st_size > 30e6
    return folder


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_error(result, *words):
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr


def needed_modules():
    """The package's modules that the five classes need, found by their syntax trees."""
    found, open_ = set(), {name.partition(".")[0] for name in AUTO_MAP.values()}
    while open_:
        name = open_.pop()
        found.add(f"{name}.py")
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module, f"{name}.py may only have `from .module import name`"
                if f"{node.module}.py" not in found:
                    open_.add(node.module)
    return found


# Complete folders


def test_complete_checkpoint(checkpoint):
    (checkpoint / "optimizer.pt").write_bytes(b"pickle")
    (checkpoint / "checkpoint-500").mkdir()
    (checkpoint / "checkpoint-500/modeling_llava_uhd_v2.py").write_text("")
    found = read_checkpoint(checkpoint)
    assert list(found.weights) == ["model.safetensors"]
    assert {"config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json"} < set(found.files)
    assert found.left_out == ["checkpoint-500", "optimizer.pt"]
    assert not found.has_code


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
)
def test_missing_files_are_named(checkpoint, name):
    (checkpoint / "tokenizer.model").unlink()  # with which alone it would be complete
    (checkpoint / name).unlink()
    assert_error(run_cli("export", checkpoint), "not complete", name)


def test_all_missing_files_are_named_at_once(tmp_path):
    result = run_cli("push", tmp_path, "org/name")
    assert_error(result, "config.json", "generation_config.json", "tokenizer", "model.safetensors")


def test_pickles_are_no_weights(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert_error(run_cli("push", checkpoint, "org/name"), "model.safetensors", "pytorch_model.bin won't do")


def test_cut_weights_are_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert_error(run_cli("export", checkpoint), weights, "not whole")


def test_lost_shards_and_tensors_are_refused(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    first = sorted(tensors)[0]
    weight_map = dict.fromkeys(tensors, "model-00002-of-00002.safetensors") | {
        first: "model-00001-of-00002.safetensors"
    }
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file(tensors, checkpoint / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match="Missing: model-00001-of-00002.safetensors"):
        read_checkpoint(checkpoint)
    second = sorted(tensors)[1]
    save_file({second: tensors[second]}, checkpoint / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=f"00001-of-00002.safetensors has no `{re.escape(first)}`"):
        read_checkpoint(checkpoint)


def test_other_models_are_refused(checkpoint):
    (checkpoint / "config.json").write_text('{"model_type": "llava"}')
    assert_error(run_cli("export", checkpoint), "`llava`", "`llava_uhd_v2`")


def test_folder_that_is_not_there(tmp_path):
    assert_error(run_cli("export", tmp_path / "none"), tmp_path / "none")


# Code


def test_export_adds_card_and_code_to_the_folder(checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    result = run_cli("export", checkpoint, "--with-code")
    assert result.exit_code == 0
    assert "license, base_model, datasets" in result.stderr

    added = {path.name for path in checkpoint.iterdir()} - set(before)
    assert added == needed_modules() | {"README.md"}
    for name in needed_modules():
        assert (checkpoint / name).read_bytes() == (PACKAGE / name).read_bytes()
    changed = {name for name, content in before.items() if (checkpoint / name).read_bytes() != content}
    assert changed == {"config.json", "processor_config.json"}
    config = json.loads((checkpoint / "config.json").read_text())
    assert set(config.pop("auto_map")) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoImageProcessor",
        "AutoProcessor",
    }
    assert config == json.loads(before["config.json"])
    assert AUTO_MAP["AutoModel"] == "modeling_llava_uhd_v2.LlavaUhdV2Model"
    assert read_checkpoint(checkpoint).has_code


def test_export_writes_a_copy(checkpoint, tmp_path):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    (checkpoint / "training_args.bin").write_bytes(b"pickle")
    out = tmp_path / "copy"
    arguments = ["export", checkpoint, "--with-code", "--out", out, "--repo-id", "org/name", "--card", "vicuna-7b"]
    result = run_cli(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == set(before) | needed_modules() | {"README.md"}
    assert (out / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert 'name = "org/name"' in ModelCard.load(out / "README.md").text
    assert (checkpoint / "config.json").read_bytes() == before["config.json"]
    assert_error(run_cli(*arguments), out, "not an empty folder")


def test_interrupted_export_leaves_what_loads(checkpoint, monkeypatch):
    calls = []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise KeyboardInterrupt
        shutil.move(source, target)

    monkeypatch.setattr(hub.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    assert list(checkpoint.glob("*.partial")) == []
    assert not read_checkpoint(checkpoint).has_code

    monkeypatch.undo()
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    assert read_checkpoint(checkpoint).has_code


def test_interrupted_copy_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "write_code", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_checkpoint(checkpoint, tmp_path / "copy", CardRequest(), with_code=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_copy_needs_space(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    assert_error(run_cli("export", checkpoint, "--out", tmp_path / "new/copy"), "18 MB", "1 MB")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_installed_package_takes_its_own_classes_and_saves_without_code(checkpoint, tmp_path):
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert type(model).__module__ == "llava_uhd_v2_hf.model.modeling_llava_uhd_v2"
    assert type(processor).__module__ == "llava_uhd_v2_hf.model.processing_llava_uhd_v2"
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    assert list(saved.glob("*.py")) == []
    for options in ({}, {"trust_remote_code": True}):
        assert type(AutoModelForImageTextToText.from_pretrained(saved, **options)) is type(model)
        assert type(AutoProcessor.from_pretrained(saved, **options)) is type(processor)
    # the config still says where the code was: a push without it would not load elsewhere
    assert_error(run_cli("push", saved, "org/name", *OWN_CARD, "--dry-run"), "modeling_llava_uhd_v2.py", "--with-code")
    assert run_cli("push", saved, "org/name", *OWN_CARD, "--with-code", "--dry-run").exit_code == 0


def test_plain_save_names_no_code(converted_checkpoint, tmp_path):
    AutoConfig.from_pretrained(converted_checkpoint).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


# Push, without a server


def test_dry_run_lists_what_would_be_sent(checkpoint):
    (checkpoint / "optimizer.pt").write_bytes(b"pickle")
    result = run_cli("push", checkpoint, "org/name", "--with-code", "--dry-run", "--max-shard-size", "8MB", *OWN_CARD)
    assert result.exit_code == 0, result.stderr
    listed = dict(reversed(line.split()) for line in result.stdout.splitlines() if re.match(r" +[\d,]+ ", line))
    assert {"README.md", "config.json", "tokenizer.json", "model.safetensors.index.json"} < set(listed)
    assert needed_modules() < set(listed)
    shards = [int(size.replace(",", "")) for name, size in listed.items() if name.endswith(".safetensors")]
    assert len(shards) == 3 and max(shards) < 8.3e6
    assert "Not published: optimizer.pt" in result.stdout
    assert result.stdout.endswith("Nothing was sent.\n")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ("license", "base_model", "datasets", "README.md")),
        ([*OWN_CARD, "--base-model", "my models/base"], ("my models/base",)),
        (["--card", "vicuna-70b"], ("vicuna-70b", "vicuna-7b")),
    ],
)
def test_wrong_cards_fail_before_anything_is_sent(checkpoint, monkeypatch, options, words):
    monkeypatch.setattr(hub, "HfApi", None)
    assert_error(run_cli("push", checkpoint, "org/name", *options), *words)


@pytest.mark.parametrize("repo_id", ["name", "org/na me", "org/name/more"])
def test_wrong_repository_names(checkpoint, repo_id):
    assert_error(run_cli("push", checkpoint, repo_id, *OWN_CARD, "--dry-run"), repo_id)


def test_offline_push_says_so(checkpoint):
    # the tests run with HF_HUB_OFFLINE=1
    assert_error(run_cli("push", checkpoint, "org/name", *OWN_CARD), "Creating org/name failed", "nothing", "again")


def test_reshard_keeps_every_tensor_and_is_repeatable(checkpoint, tmp_path):
    found = read_checkpoint(checkpoint)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        written = reshard(found, folder, "4MB")
    assert len(written) == 4
    for name in written:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    tensors = load_file(checkpoint / "model.safetensors")
    index = json.loads((folders[0] / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(folders[0] / file)[name], tensors[name])
    assert list(reshard(found, tmp_path / "b", "1GB")) == ["model.safetensors"]


# Push to a server, and load from it


def compute(source, name, output, python=sys.executable, isolated=False, **options):
    """What a checkpoint computes through the five Auto classes, in a process of its own."""
    command = [python, *(["-I"] if isolated else []), ROOT / "tests/support/auto_classes.py", source, name, output]
    done = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stderr
    return load_file(output)


def assert_same(results, expected, atol=0.0):
    """Equal; where the same weights come out of other files, to rounding (they lie elsewhere in memory)."""
    assert results.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(results[name], expected[name], rtol=0, atol=atol)


@pytest.mark.slow
def test_push_that_is_killed_continues_and_loads(server, large_checkpoint, tmp_path):
    # two shards of 16 MB (an embedding each), in parts of 4 MB, and one of 3 MB: the second hangs, and the client dies
    server.ask("/_test/faults", [{"method": "PUT", "path": "/lfs/", "skip": 5, "times": 1, "status": "slow"}])
    folder = tmp_path / "with-code"
    export_checkpoint(large_checkpoint, folder, CardRequest(), with_code=True)
    arguments = [folder, "org/tiny", "--max-shard-size", "8MB"]
    command = [*CLI, "push", *map(str, arguments), *OWN_CARD]
    with subprocess.Popen(command, env=server.environment(), stdout=subprocess.DEVNULL) as client:
        while len(server.requests("PUT", "/lfs/")) < 6:
            assert client.poll() is None
            time.sleep(0.1)
        client.kill()
    complete = {entry["path"] for entry in server.requests("POST", "/complete")}
    assert len(complete) == 1
    assert server.files("org/tiny") == set()  # nothing to see yet

    result = server.push(*arguments)
    assert result.returncode == 0, result.stderr
    sent = [entry["path"] for entry in server.requests("POST", "/complete")]
    assert len(sent) == len(set(sent)) == 2, "a shard was sent twice"
    assert complete < set(sent)
    files = server.files("org/tiny")
    assert {"README.md", "config.json", "model.safetensors.index.json"} | needed_modules() < files
    assert not any(name.endswith((".bin", ".pt")) for name in files)

    env = server.environment(token="", home="loader")
    results = compute("package", "org/tiny", tmp_path / "results.safetensors", env=env)
    assert_same(results, compute("package", large_checkpoint, tmp_path / "expected.safetensors"), atol=1e-5)
    python = make_environment(tmp_path / "venv")
    with_code = compute("code", "org/tiny", tmp_path / "with_code.safetensors", python, isolated=True, env=env)
    assert_same(with_code, results)

    # pushed once more: nothing to do; in one file: the shards go
    before = server.ask("/api/models/org/tiny")["sha"]
    assert server.push(*arguments).returncode == 0
    assert server.ask("/api/models/org/tiny")["sha"] == before
    assert server.push(folder, "org/tiny").returncode == 0
    assert {name for name in server.files("org/tiny") if name.startswith("model")} == {
        "model.safetensors",
        "modeling_llava_uhd_v2.py",
    }


@pytest.mark.slow
@pytest.mark.parametrize("fault", [401, 403, "drop"])
def test_push_that_fails_says_what_was_sent_and_continues(server, large_checkpoint, fault):
    # the second shard's second part; cut connections are tried again for half a minute
    faults = [{"method": "PUT", "path": "/lfs/", "skip": 5, "times": 100, "status": fault, "after_bytes": 100_000}]
    server.ask("/_test/faults", faults)
    arguments = [large_checkpoint, "org/tiny", "--max-shard-size", "8MB"]
    result = server.push(*arguments)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("Error: Uploading model-00002-of-0000")
    assert "Uploaded so far: model-00001-of-0000" in message and "(1 of " in message
    assert "Run the same command again" in message
    assert {401: "hf auth login", 403: "may not write to org/tiny"}.get(fault, "failed: ") in message
    assert server.files("org/tiny") == set()

    server.ask("/_test/faults", [])
    assert server.push(*arguments).returncode == 0
    sent = [entry["path"] for entry in server.requests("POST", "/complete")]
    assert len(sent) == len(set(sent))
    assert "config.json" in server.files("org/tiny")


@pytest.mark.slow
def test_a_cut_connection_is_tried_again(server, large_checkpoint):
    faults = [{"method": "PUT", "path": "/lfs/", "skip": 1, "times": 1, "status": "drop", "after_bytes": 1_000_000}]
    server.ask("/_test/faults", [*faults, {"method": "PUT", "path": "/lfs/", "skip": 3, "times": 1, "status": 500}])
    assert server.push(large_checkpoint, "org/tiny").returncode == 0
    statuses = [entry["status"] for entry in server.requests("PUT", "/lfs/")]
    assert statuses.count("drop") == statuses.count(500) == 1


@pytest.mark.slow
def test_tokens_and_visibility(server, checkpoint):
    for token, words in {"": "there is no token", "old": "the token is not valid", "reader": "403"}.items():
        result = server.push(checkpoint, "org/tiny", token=token)
        assert (result.returncode, result.stdout.count("Pushed")) == (1, 0)
        message = result.stderr.splitlines()[-1]
        assert message.startswith("Error: Creating org/tiny failed: ") and words in message
        assert "Uploaded so far: nothing" in message

    result = server.push(checkpoint, "org/secret", "--private")
    assert result.returncode == 0, result.stderr
    assert server.ask("/api/models/org/secret")["private"]
    assert server.push(checkpoint, "org/open").returncode == 0
    result = server.push(checkpoint, "org/open", "--private")
    assert result.returncode == 1 and "org/open exists and is public" in result.stderr


PUSH_METHODS = """
import llava_uhd_v2_hf
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("model")
model.push_to_hub("org/methods", max_shard_size="5MB")
AutoProcessor.from_pretrained("model").push_to_hub("org/methods")
"""

PUSH_TRAINER = """
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

import llava_uhd_v2_hf

processor = AutoProcessor.from_pretrained("model")
model = AutoModelForImageTextToText.from_pretrained("model", dtype=torch.float32)
samples = [processor.tokenizer("A text of one sample.").input_ids] * 2


def collate(rows):
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


arguments = TrainingArguments(
    "trained",
    max_steps=1,
    per_device_train_batch_size=2,
    push_to_hub=True,
    hub_model_id="org/trained",
    remove_unused_columns=False,
    report_to=[],
    use_cpu=True,
)
trainer = Trainer(model, arguments, train_dataset=samples, data_collator=collate, processing_class=processor)
trainer.train()
trainer.push_to_hub()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "repo_id"), [(PUSH_METHODS, "org/methods"), (PUSH_TRAINER, "org/trained")])
def test_transformers_own_ways_to_push(server, checkpoint, tmp_path, script, repo_id):
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=server.environment(), cwd=checkpoint.parent, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    files = server.files(repo_id)
    assert {"README.md", "config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json"} < files
    assert any(name.startswith("model") and name.endswith(".safetensors") for name in files)
    results = compute("package", repo_id, tmp_path / "results.safetensors", env=server.environment(home="loader"))
    if repo_id == "org/methods":
        assert "model.safetensors.index.json" in files
        expected = compute("package", checkpoint, tmp_path / "expected.safetensors")
        assert_same(results, expected, atol=1e-5)


# Without the package


def make_environment(folder: Path, transformers: str | None = None) -> Path:
    """The Python of a new virtual environment that sees the packages of this one, but none installed editably.

    With `transformers`, that version of it and what it needs is installed there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / f"lib/{version}/site-packages/others.pth").write_text("\n".join(sorted(places)) + "\n")
    if transformers:
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--retries", "2"]
        subprocess.run([*pip, f"transformers=={transformers}"], check=True)
    return python


@pytest.fixture(scope="session")
def oldest_environment():
    """The Python of an environment with the oldest transformers that is supported; kept in .cache."""
    folder = ROOT / f".cache/transformers-{OLDEST_TRANSFORMERS}"
    finished = folder / "finished"  # by which Python and for which packages
    mark = f"{sys.executable} {sys.version}"
    if not finished.is_file() or finished.read_text() != mark:
        shutil.rmtree(folder, ignore_errors=True)
        make_environment(folder, OLDEST_TRANSFORMERS)
        finished.write_text(mark)
    return folder / "bin/python"


@pytest.fixture(params=["newest", pytest.param("oldest", id=OLDEST_TRANSFORMERS)])
def clean_python(request, tmp_path):
    """A Python with transformers, of the installed or the oldest version, and without our package."""
    if request.param == "oldest":
        python = request.getfixturevalue("oldest_environment")
        command = [python, "-I", "-c", "import transformers; print(transformers.__version__)"]
        assert subprocess.check_output(command, text=True).strip() == OLDEST_TRANSFORMERS
        return python
    return make_environment(tmp_path / "venv")


@pytest.mark.slow
def test_code_loads_and_answers_without_the_package(clean_python, checkpoint, tmp_path):
    expected_command = {"env": os.environ | {"PYTHONPATH": str(PACKAGE.parent)}}
    expected = compute("package", checkpoint, tmp_path / "expected.safetensors", clean_python, **expected_command)
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    home = {"env": os.environ | {"HF_HOME": str(tmp_path / "home")}}
    results = compute("code", checkpoint, tmp_path / "results.safetensors", clean_python, isolated=True, **home)
    assert_same(results, expected)


@pytest.mark.slow
def test_snippet_of_the_card_runs_as_printed(clean_python, checkpoint, tmp_path):
    export_checkpoint(checkpoint, None, CardRequest("vicuna-7b"), with_code=True)
    [snippet] = re.findall(r"```python\n(.*?)```", (checkpoint / "README.md").read_text(), re.DOTALL)
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(tmp_path / "photo.jpg")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [clean_python, "-I", "-c", snippet]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")


# Documentation


@pytest.mark.slow
def test_commands_of_the_documentation_run(server, checkpoint, tmp_path):
    text = (ROOT / "docs/hub.md").read_text()
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.startswith("llava-uhd-v2 ")]
    assert len(commands) >= 5
    for name in ("llava-uhd-v2-vicuna-7b", "my-checkpoint"):
        shutil.copytree(checkpoint, tmp_path / name)
    for _, *arguments in commands:
        done = subprocess.run(
            [*CLI, *arguments], cwd=tmp_path, env=server.environment(), text=True, capture_output=True
        )
        assert done.returncode == 0, (arguments, done.stderr)
    for repo_id in re.findall(r"push \S+ (\S+)", blocks):
        assert "config.json" in server.files(repo_id)


def test_dry_run_needs_no_network(checkpoint, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", None)
    assert push_checkpoint(checkpoint, "org/name", CardRequest("vicuna-7b"), dry_run=True, report=str) is None
