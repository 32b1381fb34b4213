# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Push: without a server, and to a small Hub on loopback, see hub_server.py."""

import re
import subprocess
import sys
import time

import pytest

from llava_uhd_v2_hf.hub import push
from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.code import model_files
from llava_uhd_v2_hf.hub.export import export_checkpoint
from llava_uhd_v2_hf.hub.push import push_checkpoint
from tests.support.auto_class_results import assert_same, compute
from tests.support.commands import assert_error, run_cli
from tests.support.environments import make_environment
from tests.support.hub_process import CLI, OWN_CARD


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


def test_dry_run_lists_what_would_be_sent(checkpoint):
    (checkpoint / "optimizer.pt").write_bytes(b"pickle")
    result = run_cli("push", checkpoint, "org/name", "--with-code", "--dry-run", "--max-shard-size", "8MB", *OWN_CARD)
    assert result.exit_code == 0, result.stderr
    listed = dict(reversed(line.split()) for line in result.stdout.splitlines() if re.match(r" +[\d,]+ ", line))
    assert {"README.md", "config.json", "tokenizer.json", "model.safetensors.index.json"} < set(listed)
    assert set(model_files()) < set(listed)
    shards = [int(size.replace(",", "")) for name, size in listed.items() if name.endswith(".safetensors")]
    assert len(shards) == 3 and max(shards) < 8.3e6
    assert "Not published: optimizer.pt" in result.stdout
    assert result.stdout.endswith("Nothing was sent.\n")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["model"]


def listed(lines):
    """The names in the list of what is sent."""
    return {line.split(maxsplit=1)[1] for line in lines if re.match(r" +[\d,]+ ", line)}


@pytest.fixture
def linking(checkpoint):
    """A checkpoint whose card links to a picture and to two other files."""
    for name in ("losses.png", "credentials.json", "results/table.csv", "LICENSE.env", "notes.md"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("content")
    (checkpoint / "README.md").write_text("![](losses.png) [](credentials.json) [](results/table.csv)")
    return checkpoint


CARD = [*OWN_CARD, "--card", "template"]


def test_without_a_terminal_linked_files_must_be_named(linking, tmp_path):
    result = run_cli("push", linking, "org/name", "--dry-run", *CARD)
    sent = listed(result.stdout.splitlines())
    assert "losses.png" in sent and not sent & {"credentials.json", "results/table.csv", "LICENSE.env", "notes.md"}
    assert "Not published: LICENSE.env, credentials.json, notes.md, results" in result.stdout
    assert "add --include credentials.json --include results/table.csv" in result.stdout

    named = ["--include", "results/table.csv", "--include", "notes.md"]
    result = run_cli("push", linking, "org/name", "--dry-run", *CARD, *named)
    assert listed(result.stdout.splitlines()) == sent | {"results/table.csv", "notes.md"}
    assert "links to credentials.json, which a push leaves out" in result.stdout

    result = run_cli("export", linking, "--out", tmp_path / "copy", *CARD, "--include", "results/table.csv")
    assert "links to credentials.json, which a push leaves out" in result.stderr
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == sent | {"results", "results/table.csv"}


@pytest.mark.parametrize("name", ["none.json", "../secret", "/etc/passwd", "", ".", "results"])
def test_named_files_must_be_in_the_folder(linking, tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    for command in (["push", linking, "org/name", "--dry-run"], ["export", linking, "--out", tmp_path / "copy"]):
        assert_error(run_cli(*command, *CARD, "--include", name), "Expected names of files in", linking)
    assert not (tmp_path / "copy").exists()


def test_linked_files_are_asked_for(linking, monkeypatch):
    monkeypatch.setattr(push, "_upload", lambda *_: "url")
    asked, lines = [], []

    def ask(name):
        asked.append(name)
        return name == "results/table.csv"

    request = CardRequest("vicuna-7b")
    push_checkpoint(linking, "org/name", request, ask=ask, report=lines.append)
    assert asked == ["credentials.json", "results/table.csv"]
    assert "results/table.csv" in listed(lines) and "credentials.json" not in listed(lines)
    push_checkpoint(linking, "org/name", request, ask=ask, include=asked[:2], report=lines.append)
    push_checkpoint(linking, "org/name", request, ask=ask, dry_run=True, report=lines.append)
    assert len(asked) == 2, "asked for what was named, or in a dry run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ("license", "base_model", "datasets", "README.md")),
        ([*OWN_CARD, "--base-model", "my models/base"], ("my models/base",)),
        (["--card", "vicuna-70b"], ("vicuna-70b", "vicuna-7b")),
    ],
)
def test_wrong_cards_fail_before_anything_is_sent(checkpoint, monkeypatch, options, words):
    monkeypatch.setattr(push, "HfApi", None)
    assert_error(run_cli("push", checkpoint, "org/name", *options), *words)


@pytest.mark.parametrize("repo_id", ["name", "org/na me", "org/name/more"])
def test_wrong_repository_names(checkpoint, repo_id):
    assert_error(run_cli("push", checkpoint, repo_id, *OWN_CARD, "--dry-run"), repo_id)


def test_offline_push_says_so(checkpoint):
    # the tests run with HF_HUB_OFFLINE=1
    assert_error(run_cli("push", checkpoint, "org/name", *OWN_CARD), "Creating org/name failed", "nothing", "again")


def test_dry_run_needs_no_network(checkpoint, monkeypatch):
    monkeypatch.setattr(push, "HfApi", None)
    assert push_checkpoint(checkpoint, "org/name", CardRequest("vicuna-7b"), dry_run=True, report=str) is None


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
    assert {"README.md", "config.json", "model.safetensors.index.json"} | set(model_files()) < files
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
