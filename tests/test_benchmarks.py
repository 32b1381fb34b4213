# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks run, in their smallest form, and what they share computes what it says."""

import importlib
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import side_by_side  # noqa: E402
import torch
import typer
from typer.testing import CliRunner

from tests.support.paths import ROOT


def run(script, *arguments):
    """Runs a benchmark with the arguments of its command line."""
    app = typer.Typer()
    app.command()(importlib.import_module(script).main)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def assert_spread(figures):
    assert 0 < figures["minimum"] <= figures["median"] <= figures["maximum"]


def test_image_processing(tmp_path):
    output = run("image_processing", "--smallest", "--repeats", 1, "--images", 1, "--json", tmp_path / "out.json")
    [image] = json.loads((tmp_path / "out.json").read_text())["images"]
    assert (image["height"], image["width"]) == (336, 336)
    # one view of 24x24; LLaVA-NeXT's overview and two crops; MiniCPM-V's one view of 32x32
    assert image["llava_uhd_v2"]["patches"] == 576
    assert image["llava_next"]["patches"] == 3 * 576
    assert image["minicpmv4_6"]["patches"] == 1024
    for name in ("llava_next", "minicpmv4_6"):
        assert_spread(image[name]["ours_over_it"])
        assert name in output


def test_flops(tmp_path):
    output = run("flops", "--height", 336, "--width", 336, "--llm", "vicuna-7b", "--json", tmp_path / "out.json")
    parts = json.loads((tmp_path / "out.json").read_text())["flops"]["vicuna-7b"]
    view = json.loads((tmp_path / "out.json").read_text())["flops_a_view"]["vicuna-7b"]
    assert parts["plain"] == pytest.approx(view["plain"]) and parts["projector"] == pytest.approx(view["cold"])
    assert view["plain"] == pytest.approx(1230e9, rel=0.05) and view["warm"] < 100e9
    assert 0.36e12 < parts["tower"] < 0.38e12  # ViT-L on 577 tokens, without its last layer
    assert parts["plain"] > 5 * parts["projector"]
    assert "projector as it runs" in output
    assert "paper" not in output


def test_generation(tmp_path):
    arguments = ("--tiny", "--repeats", 1, "--new-tokens", 3, "--json", tmp_path / "out.json")
    run("generate", *arguments)
    figures = json.loads((tmp_path / "out.json").read_text())
    for name in ("batch", "one by one", "batch over one by one"):
        assert_spread(figures[name]["first token, s"])
        assert_spread(figures[name]["tokens/s"])

    run("generate", *arguments, "--profile")
    figures = json.loads((tmp_path / "out.json").read_text())
    for name in ("one image", "eight images"):
        seconds = {part: spread["median"] for part, spread in figures[name].items()}
        whole = seconds.pop("whole")
        assert set(seconds) == {"tower", "projector", "text model", "rest"}
        assert sum(seconds.values()) == pytest.approx(whole) and min(seconds.values()) > 0


@pytest.mark.slow
def test_projector(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks/projector.py",
        "--tiny",
        "--views",
        "2",
        "--threads",
        "1",
        "--repeats",
        "1",
    ]
    subprocess.run([*command, "--json", tmp_path / "out.json"], check=True, capture_output=True)
    figures = json.loads((tmp_path / "out.json").read_text())
    for name in ("plain_share", "vit_share_warm", "vit_share_cold", "forward_ratio_warm", "forward_ratio_cold"):
        assert_spread(figures[name])
    for name in ("train_ratio", "memory_ratio", "activation_ratio"):
        assert_spread(figures[name])
    for side in ("plain", "cold", "warm"):
        assert {"up-sampling", "attention", "output"} < set(figures["part_seconds"][side])
    assert all(part["minimum"] > 0 for part in figures["part_seconds"]["plain"].values())


@pytest.mark.parametrize("options", [(), ("--train",)])
def test_projector_forms(tmp_path, options):
    arguments = ("--views", 1, "--largest", 128, "--repeats", 1, "--threads", 1, *options)
    run("projector_forms", *arguments, "--json", tmp_path / "out.json")
    [call] = json.loads((tmp_path / "out.json").read_text())["calls"]
    assert call["chosen"] == "plain"
    for form in ("plain", "unfolded", "folded"):
        assert_spread(call[form])


@pytest.mark.slow
def test_training(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/training.py", "--tiny", "--threads", "1", "--repeats", "1"]
    subprocess.run([*command, "--json", tmp_path / "out.json"], check=True, capture_output=True)
    trainings = json.loads((tmp_path / "out.json").read_text())["trainings"]
    assert [row.pop("training") for row in trainings] == ["full", "LoRA", "QLoRA"]
    for row in trainings:
        for figure in row.values():
            assert_spread(figure)


def test_every_other_step_of_a_training_is_in_the_plain_order():
    orders = []

    class Projector(torch.nn.Module):
        def forward(self, *tensors, plain=False):
            orders.append(plain)

    projector = Projector()
    visual, training = SimpleNamespace(projector=projector, embed_views=None), importlib.import_module("training")
    model = SimpleNamespace(model=SimpleNamespace(visual=visual))
    clock = training.Alternate(training.other_way(model, training.Against.plain))
    for step in range(4):
        clock.on_step_begin(None, SimpleNamespace(global_step=step), None)
        projector(None, plain=False)
        clock.on_step_end(None, None, None)
    assert orders == [False, True, False, True]
    assert len(clock.figures) == 4 and all(figures["seconds"] > 0 for figures in clock.figures)


def test_every_other_step_of_a_training_differentiates_the_tower(tiny_model):
    visual, training = tiny_model.model.visual.train(), importlib.import_module("training")
    visual.vision_tower.requires_grad_(False)
    tiny_model.enable_input_require_grads()
    switch, seen = training.other_way(tiny_model, training.Against.differentiated), []
    for differentiated in (False, True, False):
        switch(differentiated)
        seen.append(visual.encode_views(torch.zeros(1, 3, 28, 28))[-1].requires_grad)
    assert seen == [False, True, False]


def test_a_stopwatch_books_nested_functions_apart():
    class Work:
        def outer(self):
            time.sleep(0.02)
            self.inner()
            return "done"

        def inner(self):
            time.sleep(0.05)

    work, stopwatch = Work(), side_by_side.Stopwatch()
    with stopwatch.watch({"outer": [(work, "outer")], "inner": [(work, "inner")]}):
        assert work.outer() == "done"
    assert 0.02 <= stopwatch.seconds["outer"] < stopwatch.seconds["inner"]
    booked = stopwatch.seconds.total()
    work.outer()
    assert stopwatch.seconds.total() == booked


def test_sides_take_turns():
    runs = []
    sides = {name: lambda name=name: runs.append(name) for name in "ab"}
    seconds = side_by_side.alternate(sides, repeats=3)
    assert "".join(runs) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    with pytest.raises(ValueError, match="`repeats` must be at least 1, got 0"):
        side_by_side.alternate(sides, repeats=0)


def test_ratios_are_taken_repeat_by_repeat():
    ratios = side_by_side.ratios([1.0, 8.0, 6.0], [1.0, 2.0, 3.0])
    assert ratios == {"minimum": 1.0, "median": 2.0, "maximum": 4.0}
    with pytest.raises(ValueError, match="3 and 1 repeats"):
        side_by_side.ratios([1.0, 2.0, 3.0], [1.0])


def test_a_table_shows_every_column(capsys):
    side_by_side.print_table([{"part": "tower", "time": {"minimum": 1.0, "median": 2.5, "maximum": 12345.6}, "x": 7}])
    output = capsys.readouterr().out
    for cell in ("part", "tower", "2.5 (1 to 12346)", "7"):
        assert cell in output


def test_json_appears_whole(tmp_path):
    side_by_side.write_json(tmp_path / "new" / "figures.json", {"a": [1]})
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == {"a": [1]}
    with pytest.raises(TypeError):
        side_by_side.write_json(tmp_path / "new" / "figures.json", {"a": object()})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figures.json"]
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == {"a": [1]}
