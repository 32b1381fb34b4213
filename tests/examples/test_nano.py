# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The documents of examples/nano: exact answers, splits that share nothing, and a training of two steps."""

import collections
import json
import random
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.support.paths import ROOT


NANO = ROOT / "examples/nano"


@pytest.fixture(scope="module")
def drawn_pages():
    from test_set import make_pages

    return make_pages(count=40)


def test_an_answer_stands_where_the_sheet_says(drawn_pages):
    for sheet, _ in drawn_pages:
        written = {(text, tuple(box)) for text, box in sheet.texts}
        for fact in sheet.facts:
            assert (fact.value, tuple(fact.box)) in written
            assert 0 <= fact.box[0] <= fact.box[2] <= sheet.width
            assert 0 <= fact.box[1] <= fact.box[3] <= sheet.height


def test_a_question_has_one_answer(drawn_pages):
    for sheet, _ in drawn_pages:
        answers = collections.defaultdict(set)
        for fact in sheet.facts:
            answers[fact.question].add(fact.value)
        assert all(len(values) == 1 for values in answers.values()), answers


def test_ink_is_where_a_text_is(drawn_pages):
    for sheet, _ in drawn_pages:
        for text, (left, top, right, bottom) in sheet.texts:
            box = [round(edge * sheet.scale) for edge in (left, top, right, bottom + (bottom - top) / 4)]
            low, high = sheet.image.crop(box).convert("L").getextrema()
            assert high - low > 60, text


def test_splits_share_no_fonts():
    from fonts import FAMILIES

    families = [set(split) for split in FAMILIES.values()]
    assert sum(map(len, families)) == len(set.union(*families))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_written_is_of_the_sheets_split(split):
    from documents import KINDS
    from pages import draw_page
    from values import SYLLABLES

    def split_of(value):
        return {8: "validation", 9: "test"}.get(zlib.crc32(value.encode()) % 10, "train")

    source, syllable = random.Random(0), f"(?:{'|'.join(SYLLABLES)})"
    shared = re.compile(r"\d\d?|\d\d:\d\d")  # numbers under 100 and times
    written = []
    for _ in range(60):
        sheet = draw_page(list(KINDS), 260, 260, split, source)
        facts = [fact for fact in sheet.facts if fact.kind != "chart" and fact.name != "Total"]
        written += [fact.value for fact in facts if not shared.fullmatch(fact.value)]
        reading = draw_page(["lines"], 260, 260, split, source)
        parts = " ".join(text for text, _ in reading.texts).split()
        word_or_price = re.compile(rf"{syllable}{{2,3}}|\d{{1,3}}\.\d\d", re.IGNORECASE)
        written += [part for part in parts if word_or_price.fullmatch(part)]
    assert len(written) > 500
    assert {split_of(value) for value in written} == {split}


def test_the_test_set_is_always_the_same(drawn_pages):
    from test_set import make_pages

    again = make_pages(count=5)
    assert [questions for _, questions in again] == [questions for _, questions in drawn_pages[:5]]
    assert all(one.image.tobytes() == other.image.tobytes() for (one, _), (other, _) in zip(again, drawn_pages))


@pytest.mark.parametrize("split", ["view", "read", "ask", "validation", "ablation-1"])
def test_records_are_conversations_in_runs_of_one_shape(split):
    from pages import ALIKE, records

    from llava_uhd_v2_hf.data.mixtures import MixtureSource
    from llava_uhd_v2_hf.data.samples import locate_sample, open_sample

    stream, sizes = records(split, 3), []
    for number in range(2 * ALIKE):
        sample = open_sample(locate_sample(str(number), next(stream), MixtureSource("pages.py")), None, (0,))
        assert sample["messages"][-1]["role"] == "assistant"
        sizes.append(sample["images"][0].size)
    ratios = [[round(width / height, 1) for width, height in run] for run in (sizes[:ALIKE], sizes[ALIKE:])]
    assert all(len(set(run)) == 1 for run in ratios)


def test_a_numbered_split_has_other_pages_of_the_same_kind():
    from pages import records

    first, other = next(records("ablation", 0)), next(records("ablation-1", 0))
    assert first["image"] != other["image"]
    assert next(records("ablation-1", 0)) == other


def test_the_character_map_says_what_stands_in_a_cell():
    from sheet import Sheet
    from tower import CLASSES, COLUMNS, PATCH, ROWS, VIEW, character_map

    sheet = Sheet(VIEW, VIEW, "train", random.Random(0))
    left, top, right, bottom = sheet.write("W", 42, 42, 28)
    cells = character_map(sheet)
    column = int((left + right) / 2 / (PATCH / COLUMNS))
    row = int((top + 0.65 * (bottom - top)) / (PATCH / ROWS))
    assert cells[row, column] == CLASSES.index("W")
    assert cells[0].max() == 0
    assert set(cells[cells > 0].tolist()) == {CLASSES.index("W")}


def test_an_edge_between_slices_cuts_what_lies_on_it():
    from pages import VIEW
    from sheet import Fact, Sheet
    from test_set import is_cut

    def cut(box, scale):
        sheet = Sheet(VIEW, 2 * VIEW, "test", random.Random(0), scale=scale)
        return is_cut(sheet, Fact("field", "Total", "What is the Total?", "12", box, 12))

    # one row of two slices; the picture of twice the size has more: two rows of three
    assert cut((VIEW - 9, 9, VIEW + 9, 21), 1) and not cut((9, VIEW / 2 - 6, 30, VIEW / 2 + 6), 1)
    assert cut((9, VIEW / 2 - 6, 30, VIEW / 2 + 6), 2) and not cut((VIEW - 9, 9, VIEW + 9, 21), 2)


@pytest.mark.parametrize("variant", ["overview", "level-0", "bilinear", "vdim", "vdim-sequential"])
def test_models_of_the_ablation_differ_in_one_thing(variant, tmp_path):
    from ablation import make_variant
    from transformers import AutoModelForImageTextToText, AutoProcessor

    make_variant(variant, str(NANO / "checkpoint"), tmp_path)
    trained = AutoModelForImageTextToText.from_pretrained(NANO / "checkpoint", dtype="float32")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    before, after = trained.state_dict(), model.state_dict()
    changed = {name for name in after if name not in before or not after[name].equal(before[name])}
    assert changed and all("window_attention" in name for name in changed)
    projector = model.config.projector_config
    settings = projector.levels, projector.upsampler, processor.image_processor.max_slices, processor.token_layout
    assert (
        settings
        == {
            "overview": ([0, 1, 2], "vdim", 1, "spatial"),
            "level-0": ([0], "bilinear", 6, "spatial"),
            "bilinear": ([0, 1, 2], "bilinear", 6, "spatial"),
            "vdim": ([0, 1, 2], "vdim", 6, "spatial"),
            "vdim-sequential": ([0, 1, 2], "vdim", 6, "sequential"),
        }[variant]
    )
    assert model.config.token_layout == processor.token_layout
    make_variant("vdim", str(NANO / "checkpoint"), tmp_path / "vdim")
    alike = AutoModelForImageTextToText.from_pretrained(tmp_path / "vdim").state_dict()
    assert all(after[name].equal(alike[name]) for name in after if after[name].shape == alike[name].shape)


def test_the_ablations_table_has_means_over_seeds():
    from ablation import COLUMNS, table_rows

    def run(variant, loss, right):
        share = {"exact_match": right}
        written = {**share, "by_band": dict.fromkeys(("large", "medium", "small"), share)}
        kinds = dict.fromkeys(("field", "cell"), share)
        return {"variant": variant, "loss": loss, **share, "by_kind": kinds, "written": written}

    rows = table_rows([run("a", 0.5, 0.25), run("b", 1.0, 0.5), run("a", 0.75, 0.75)])
    assert rows == [["a", "0.625 ± 0.177", *["50.0 ± 35.4"] * 7], ["b", "1.000", *["50.0"] * 7]]
    assert {len(row) for row in rows} == {len(COLUMNS)}


@pytest.mark.slow
def test_the_ablation_trains_and_reports(tmp_path):
    settings = ["batch_size=4", "training.per_device_train_batch_size=4", "training.bf16=false"]
    settings += ["training.max_steps=2", "training.save_steps=2", "training.logging_steps=1"]
    command = [sys.executable, NANO / "ablation.py", NANO / "checkpoint", tmp_path, *settings]
    command += ["--launch", Path(sys.executable).with_name("llava-uhd-v2"), "--variant", "overview"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    [report] = json.loads((tmp_path / "ablation.json").read_text())["runs"]
    assert (report["variant"], report["seed"]) == ("overview", 0)
    assert report["questions"] == 500 and report["loss"] > 0
    assert f"| overview | {report['loss']:.3f} |" in result.stdout
    other = subprocess.run(
        [*map(str, command[:4]), "training.max_steps=3"], capture_output=True, text=True, check=False
    )
    assert "take another folder" in other.stderr


@pytest.mark.slow
def test_the_stages_run_one_after_the_other(tmp_path):
    """The stages that the README of the example tells to run, in small."""
    recipes = NANO / "recipes"
    few = [
        "batch_size=4",
        "training.per_device_train_batch_size=4",
        "training.bf16=false",
        "training.save_strategy=no",
    ]
    few += ["training.max_steps=2", "training.dataloader_num_workers=0", "training.logging_steps=1"]
    cli = [Path(sys.executable).with_name("llava-uhd-v2")]
    python = [sys.executable]
    for command in (
        [*python, NANO / "make_text_model.py", tmp_path / "text"],
        [*python, NANO / "tower.py", tmp_path / "tower", "--steps", "2", "--batch-size", "4", "--workers", "0"],
        [*python, NANO / "write_pages.py", tmp_path / "pages", "6"],
        [
            *[*cli, "train", "vdim", recipes / "vdim.yaml", f"tower={tmp_path / 'tower'}"],
            *[f"data.images={tmp_path / 'pages'}", f"training.output_dir={tmp_path / 'vdim'}", "training.max_steps=2"],
            *["batch_size=2", "training.per_device_train_batch_size=2"],
        ],
        [
            *[*python, ROOT / "convert/assemble.py", tmp_path / "tower", tmp_path / "text", tmp_path / "assembled"],
            *["--vdim", tmp_path / "vdim/vdim.safetensors", "--query-grid", "8", "8", "--num-query-sets", "1"],
            *["--max-slices", "6", "--row-separator-id", "5", "--slice-separator-id", "6"],
        ],
        *(
            [
                *[*cli, "train", "sft", recipes / f"{stage}.yaml", f"model={tmp_path / before}"],
                *[f"data.source={NANO / 'pages.py'}", f"training.output_dir={tmp_path / stage}", *few],
            ]
            for before, stage in (
                ("assembled", "view"),
                ("view", "view_whole"),
                ("view_whole", "read"),
                ("read", "ask"),
                ("ask", "more"),
            )
        ),
    ):
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, check=False)
        assert result.returncode == 0, result.stderr[-2000:]

    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tmp_path / "more")
    assert processor.image_processor.max_slices == 6
    assert processor.image_processor.slice_resolution == 112
    chat = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "12.50"}]
    assert processor.apply_chat_template(chat) == "<|user|><image>\nWhat?<|assistant|>12.50<|end|>"
    assert processor.tokenizer.tokenize("12.50") == ["1", "2", ".", "5", "0"]
