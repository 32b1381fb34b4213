# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""`serve --engine vllm`: what is handed to vLLM, and what is refused; tests/ecosystem/test_vllm.py runs it."""

import importlib.util
import os

import pytest

from tests.support.commands import assert_error, run_cli


@pytest.fixture
def vllm(monkeypatch):
    """Pretends that vLLM is installed; the list of the processes started in its name: (arguments, environment)."""
    started = []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "vllm" or find_spec(name))
    monkeypatch.setattr(os, "execve", lambda path, command, variables: started.append((command, variables)))
    return started


def test_vllm_gets_what_the_command_was_given(vllm, tiny_checkpoint):
    options = ["--name", "ours", "--port", 8123, "--api-key", "secret", "--max-images", 3]
    run_cli("serve", "--engine", "vllm", "--model", tiny_checkpoint, *options, "--", "--max-num-seqs", 4)
    [(command, variables)] = vllm
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given["--model"] == str(tiny_checkpoint) and given["--served-model-name"] == "ours"
    assert given["--port"] == "8123" and given["--limit-mm-per-prompt"] == '{"image": 3}'
    assert command[-2:] == ["--max-num-seqs", "4"]
    assert variables["VLLM_API_KEY"] == "secret" and "secret" not in command


def test_options_of_the_embedded_server_are_refused(vllm, tiny_checkpoint):
    result = run_cli("serve", "--engine", "vllm", "--model", tiny_checkpoint, "--max-batch", 4)
    assert_error(result, "--max-batch", "behind `--`")
    assert not vllm


def test_options_of_vllm_need_its_engine(tiny_checkpoint):
    result = run_cli("serve", "--model", tiny_checkpoint, "--", "--max-num-seqs", 4)
    assert_error(result, "--max-num-seqs 4", "--engine vllm")


def test_an_adapter_is_to_be_merged(vllm, tiny_checkpoint, tmp_path):
    (tmp_path / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tiny_checkpoint}"}}')
    assert_error(run_cli("serve", "--engine", "vllm", "--model", tmp_path), "llava-uhd-v2 merge", "--lora-modules")
    assert not vllm


def test_without_vllm(tiny_checkpoint):
    result = run_cli("serve", "--engine", "vllm", "--model", tiny_checkpoint)
    assert_error(result, "vllm is not installed", "pip install '.[vllm]'")
