# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fifty clients at a time, a third of them broken or hostile; and the comparison of batches with one by one runs."""

import json

import pytest
import serve  # noqa: E402
import typer
from typer.testing import CliRunner


SECONDS = 40


@pytest.mark.slow
def test_stress(tiny_checkpoint):
    figures = serve.stress(tiny_checkpoint, 50, SECONDS)
    assert figures["problems"] == []
    counts = figures["counts"]
    assert counts["good answers"] >= 100 and counts["told to come later"] > 0
    assert counts["refused"] >= 300
    assert min(counts["left in a stream"], counts["left in a body"], counts["noise"]) >= 20


@pytest.mark.slow
def test_comparison(tiny_checkpoint, tmp_path):
    app = typer.Typer()
    app.command()(serve.main)
    small = ["--clients", "4", "--requests", "8", "--new-tokens", "32", "--repeats", "1"]
    arguments = ["--model", str(tiny_checkpoint), *small, "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "in batches over one by one" in result.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["same_answers"] == 8
    batches, single = figures["rows"]
    assert batches["mean batch"] > 1 and single["mean batch"] == 1
    assert batches["latency, s: median"] <= batches["95 %"] <= batches["99 %"]
