# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import re

import pytest
from huggingface_hub import ModelCard, ModelCardData

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.hub.card import CardRequest, build_card, card_names, check_card, missing_metadata
from tests.support.paths import ROOT


RELEASED = ("qwen2-7b", "vicuna-13b", "vicuna-7b")
OWN = CardRequest(license="apache-2.0", base_model=["org/base"], datasets=["org/data", "org/more"])


def test_there_is_a_card_for_each_released_checkpoint():
    assert tuple(card_names()) == RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_cards_of_released_checkpoints_are_valid(name):
    card = ModelCard.load(ROOT / f"model_cards/{name}.md")
    check_card(card)
    assert isinstance(card.data, ModelCardData)
    assert card.data.license == {"qwen2-7b": "apache-2.0"}.get(name, "llama2")
    assert len(card.data.base_model) == 2 and "openai/clip-vit-large-patch14-336" in card.data.base_model
    # the paper's numbers are text, not results of these files
    assert card.data.eval_results is None
    assert "model-index" not in card.data.to_dict()


@pytest.mark.parametrize("name", RELEASED)
def test_numbers_of_the_cards_are_marked_as_the_paper_s(name):
    text = ModelCard.load(ROOT / f"model_cards/{name}.md").text
    for section in ("## Training", "## Results", "## Limits"):
        assert section in text
    results = text.split("## Results")[1].split("## Limits")[0]
    assert results.count("reported in the paper") + results.count("Reported in the paper") == 2
    rows = re.findall(r"^\| ([\w -]+(?: \(\w+\))?) \| ([\d.]+) \|$", results, re.MULTILINE)
    assert len(rows) == 15
    assert all(0 < float(value) < 100 for _, value in rows)
    assert "at most 9 slices" in text and "29892" in text and "token_layout" in text


@pytest.mark.parametrize("with_code", [True, False])
@pytest.mark.parametrize("name", [*RELEASED, None])
def test_rendered_cards_are_valid_and_name_the_repository(tmp_path, name, with_code):
    request = CardRequest(name) if name else OWN
    card = build_card(tmp_path, request, repo_id="org/name", with_code=with_code)
    card.save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    check_card(card)
    assert card.data.tags == ["llava-uhd-v2", "vision-language", "high-resolution"]
    assert card.text.count('name = "org/name"') == 1
    assert ("trust_remote_code=True" in card.text) == with_code
    assert "import llava_uhd_v2_hf" in card.text
    assert card.text.strip().startswith(f"# {card.data.get('model_name') or 'name'}\n")
    assert "@article{zhang2024llavauhdv2" in card.text
    assert re.search(r"\{[{%]|\n\n\n", card.text) is None


def test_own_checkpoints_claim_nothing(tmp_path):
    card = build_card(tmp_path, OWN, repo_id="org/name", with_code=False)
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        ["org/base"],
        ["org/data", "org/more"],
    )
    assert "No results are reported" in card.text and "[org/base]" in card.text


def test_an_exported_card_is_of_the_repository_when_it_is_pushed(tmp_path):
    card = build_card(tmp_path, CardRequest(), repo_id="folder", with_code=False)
    card.text = card.text.replace("Not described here.", "Mine.")
    card.save(tmp_path / "README.md")
    pushed = build_card(tmp_path, CardRequest(), repo_id="org/name", with_code=True)
    assert pushed.text.count('name = "org/name"') == 1 and "--model org/name" in pushed.text
    assert "folder" not in pushed.text.split("## Use")[1] and "There is no code" not in pushed.text
    assert "trust_remote_code=True" in pushed.text and "Mine." in pushed.text
    pushed.save(tmp_path / "README.md")
    assert build_card(tmp_path, CardRequest(), repo_id="org/name", with_code=True).text == pushed.text


def test_the_folder_s_own_card_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\nextra: 1\n---\n# Mine\n")
    card = build_card(tmp_path, CardRequest(datasets=["org/data"]), repo_id="org/name", with_code=True)
    assert (card.data.license, card.data.get("extra"), card.data.datasets) == ("mit", 1, ["org/data"])
    assert card.text.strip() == "# Mine"


def test_missing_metadata_is_named(tmp_path):
    card = build_card(tmp_path, CardRequest(), repo_id="org/name", with_code=False)
    assert missing_metadata(card) == ["license", "base_model", "datasets"]
    with pytest.raises(ValueError, match="`license`, `base_model`, `datasets`.*--license, --base-model, --dataset"):
        check_card(card)


def test_a_model_from_scratch_is_made_from_no_other(tmp_path):
    card = build_card(tmp_path, CardRequest(license="mit"), repo_id="org/name", with_code=False)
    assert missing_metadata(card) == ["base_model", "datasets"]
    card.data.tags.append("from-scratch")
    check_card(card)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"license": "other"}, "license_name"),
        ({"pipeline_tag": "text-generation"}, "pipeline_tag: text-generation"),
        ({"library_name": "diffusers"}, "library_name: diffusers"),
        ({"base_model": ["./my/local/folder"]}, "./my/local/folder"),
        ({"tags": None}, "tags"),
    ],
)
def test_wrong_metadata_is_named(tmp_path, changes, words):
    card = build_card(tmp_path, OWN, repo_id="org/name", with_code=False)
    card.data.__dict__.update(changes)
    with pytest.raises(ValueError, match=words):
        check_card(card)


def test_unknown_card():
    with pytest.raises(ValueError, match="'vicuna-70b'.*qwen2-7b, vicuna-13b, vicuna-7b, template"):
        build_card(ROOT, CardRequest("vicuna-70b"), repo_id="org/name", with_code=False)


def test_card_that_is_no_yaml(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")
    with pytest.raises(ValueError, match="README.md can't be read"):
        build_card(tmp_path, CardRequest(), repo_id="org/name", with_code=False)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "projector `hiwin` (12x12 tokens a slice); levels 0, 1, 2; up-sampler `vdim`; pooling grids `selective`"),
        ({"projector_type": "mlp"}, "projector `mlp` (one token a patch); levels 0"),
        (
            {"projector_type": "mlp_pyramid", "levels": [0, 2], "upsampler": "deconvolution", "query_grid": [8, 8]},
            "projector `mlp_pyramid` (8x8 tokens a slice); levels 0, 2; up-sampler `deconvolution`",
        ),
    ],
)
def test_a_card_says_which_system_a_checkpoint_is(tmp_path, values, said):
    LlavaUhdV2Config(projector_config=values, token_layout="sequential").save_pretrained(tmp_path)
    card = build_card(tmp_path, CardRequest(), repo_id="org/name", with_code=False)
    assert f"\nSystem: {said}; order of tokens `sequential`.\n" in card.text
