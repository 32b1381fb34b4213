# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf import (
    LlavaUhdV2Config,
    LlavaUhdV2ForConditionalGeneration,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2Model,
)
from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.inference.chat import Chat
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.pictures import attention as answer_attention
from llava_uhd_v2_hf.pictures.attention import AnswerAttention, attend, place_weights, split_answer
from llava_uhd_v2_hf.pictures.attention_picture import draw_attention, draw_heat, join_maps


ROWS, COLUMNS = 3, 2  # of the tokens of a view
SIZES = pytest.mark.parametrize("size", [(100, 100), (800, 1200), (1500, 400), (300, 1700)], ids=str)
LAYOUTS = pytest.mark.parametrize("layout", ["spatial", "sequential"])
QUESTIONS = ["What is this?", "And beside it?"]
SIZES_OF_TEXT = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
YELLOW = (192, 199, 26)  # the whole heat over black


def inspect(size, layout):
    config = LlavaUhdV2Config(token_layout=layout, projector_config={"query_grid": [ROWS, COLUMNS]})
    return inspect_image(Image.new("RGB", size[::-1]), LlavaUhdV2ImageProcessor(), config)


def place_of(index, inspection):
    """Part ("slices", "overview" or None for a separator) and (row, column) of a token, by definition."""
    (grid_rows, grid_columns), count = inspection.plan.grid, len(inspection.order)
    per_view = ROWS * COLUMNS
    if index >= count - per_view:
        return "overview", divmod(index - (count - per_view), COLUMNS)
    if inspection.layout == "spatial":
        row, column = divmod(index, grid_columns * COLUMNS + 1)
        is_token = row < grid_rows * ROWS and column < grid_columns * COLUMNS
        return "slices" if is_token else None, (row, column)
    view, token = divmod(index, per_view + 1)
    row, column = divmod(view, grid_columns)
    return "slices" if token < per_view else None, (row * ROWS + token // COLUMNS, column * COLUMNS + token % COLUMNS)


def one_hot(index, count):
    weights = torch.zeros(count)
    weights[index] = 1
    return weights


@LAYOUTS
@SIZES
def test_a_weight_goes_to_the_window_of_its_token(size, layout):
    inspection = inspect(size, layout)
    count = len(inspection.order)
    for index in range(count):
        maps = place_weights(one_hot(index, count), inspection)
        part, place = place_of(index, inspection)
        assert maps.slices.sum() + maps.overview.sum() == (part is not None)
        if part == "overview":
            assert maps.overview[place] == 1
        elif part == "slices":
            assert join_maps(maps.slices, inspection.plan)[place] == 1


def test_weights_of_another_image_are_refused():
    with pytest.raises(ValueError, match="weights for 5 tokens, but the image has 6"):
        place_weights(torch.zeros(5), inspect((100, 100), "spatial"))


def test_heat_covers_the_window_and_nothing_else():
    photo = Image.effect_mandelbrot((90, 40), (-2, -1.2, 1, 1.2), 100).convert("RGB")
    heat = np.zeros((4, 3))
    cold = np.asarray(draw_heat(photo, heat, 1.0, (80, 180)))
    heat[1, 2] = 1
    warm = np.asarray(draw_heat(photo, heat, 1.0, (80, 180)))
    changed = np.argwhere((cold != warm).any(axis=-1))
    assert changed.min(axis=0).tolist() == [20, 120] and changed.max(axis=0).tolist() == [39, 179]
    assert len(changed) == 20 * 60


@LAYOUTS
@SIZES
def test_the_picture_lights_one_window_of_one_panel(size, layout):
    inspection = inspect(size, layout)
    count = len(inspection.order)
    shape = {"overview": np.array([ROWS, COLUMNS])}
    shape["slices"] = shape["overview"] * inspection.plan.grid
    for index in sorted({0, count // 3, count // 2, count - ROWS * COLUMNS, count - 2}):
        part, place = place_of(index, inspection)
        attention = AnswerAttention(["red"], one_hot(index, count)[None])
        pixels = np.asarray(draw_attention(inspection, attention, [0], "Which colour?"))
        panels = find_panels(pixels)
        lit = np.argwhere((pixels == YELLOW).all(axis=-1))
        if part is None:
            assert not len(lit)
            continue
        top, left, height, width = panels[-1 if part == "overview" else 0]
        step = np.array([height, width]) / shape[part]
        expected = (top, left) + step * place
        assert np.abs(lit.min(axis=0) - expected).max() < 2  # lines between slices cover a pixel
        assert np.abs(lit.max(axis=0) + 1 - expected - step).max() < 2


def find_panels(pixels):
    """(top, left, height, width) of the panels of a black image: where rows and columns are not of the background."""
    dark = (pixels == 0).all(axis=-1) | (pixels == YELLOW).all(axis=-1)
    rows = _runs(dark.sum(axis=1) > 60)
    panels = []
    for top, bottom in rows:
        for left, right in _runs(dark[top:bottom].sum(axis=0) > 0.4 * (bottom - top)):
            panels.append((top, left, bottom - top, right - left))
    return panels


def _runs(flags):
    """Ranges of true ones; a gap of up to two, a line, doesn't end a range."""
    places, runs = np.flatnonzero(flags), []
    for place in places:
        if runs and place - runs[-1][1] <= 2:
            runs[-1][1] = place + 1
        else:
            runs.append([place, place + 1])
    return runs


# The model's attention


@pytest.fixture(scope="module", params=["tiny_checkpoint", "converted_checkpoint"])
def model_and_processor(request):
    """Of the spatial and of the sequential layout."""
    folder = request.getfixturevalue(request.param)
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32), AutoProcessor.from_pretrained(
        folder
    )


IMAGES = {
    "unsliced": Image.linear_gradient("L").resize((40, 40)).convert("RGB"),
    "tall": Image.effect_mandelbrot((60, 300), (-2, -1.2, 1, 1.2), 100).convert("RGB"),
    "wide": Image.effect_mandelbrot((640, 220), (-2, -1.2, 1, 1.2), 100).convert("RGB"),
}


def eager_weights(chat, image):
    """By one forward over prompt and answer with eager attention: (steps, image tokens)."""
    model = copy.deepcopy(chat.model)
    model.set_attn_implementation("eager")
    pixels = chat.processor.image_processor([image], return_tensors="pt")
    with torch.no_grad():
        outputs = model(input_ids=chat.sequence[None], **pixels, output_attentions=True, use_cache=False)
    mean = sum(layer.mean(dim=1)[0] for layer in outputs.attentions) / len(outputs.attentions)
    steps = mean[chat.prompt_length - 1 : -1]
    return steps[:, chat.sequence == model.config.image_token_id]


@pytest.mark.parametrize("name", IMAGES)
def test_weights_are_those_of_a_whole_forward(model_and_processor, name, monkeypatch):
    monkeypatch.setattr(answer_attention, "STEPS_AT_A_TIME", 3)
    chat = Chat(*model_and_processor, [IMAGES[name]])
    for question in QUESTIONS:
        chat.ask(question, max_new_tokens=5)
        attention = attend(chat)
        expected = eager_weights(chat, IMAGES[name])[: len(attention.pieces)]
        torch.testing.assert_close(attention.weights, expected, atol=1e-6, rtol=0)
        assert attention.weights.std() > 0


def test_a_chat_goes_on_as_before(model_and_processor, monkeypatch):
    numbers, encode = [], LlavaUhdV2Model.get_image_features

    def record(self, pixel_values, image_sizes, **kwargs):
        numbers.append(len(image_sizes))
        return encode(self, pixel_values, image_sizes, **kwargs)

    monkeypatch.setattr(LlavaUhdV2Model, "get_image_features", record)
    before = model_and_processor[0].model.language_model.config._attn_implementation
    plain, watched = (Chat(*model_and_processor, [IMAGES["wide"]]) for _ in range(2))
    for question in QUESTIONS:
        expected = plain.ask(question, max_new_tokens=5)
        assert watched.ask(question, max_new_tokens=5) == expected
        attend(watched)
        assert watched.cache.get_seq_length() == len(watched.cached_ids)
    assert numbers == [1, 1]  # one a chat
    assert before == model_and_processor[0].model.language_model.config._attn_implementation == "sdpa"


def test_pieces_are_the_answer(model_and_processor):
    chat = Chat(*model_and_processor, [])
    tokenizer = chat.processor.tokenizer
    text = "The sign says 漢字, naïve."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    chat.sequence, chat.prompt_length = torch.tensor([5, 6, *ids, tokenizer.eos_token_id]), 2
    pieces = split_answer(chat)
    assert len(pieces) == len(ids) and "".join(pieces) == tokenizer.decode(ids)
    assert any("漢" in piece for piece in pieces) and "" in pieces  # its bytes are tokens of their own


@pytest.mark.parametrize(
    ("wanted", "tokens"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("2", [1]),
        ("red", [1, 2]),
        ("RED and", [1, 2, 3]),
        ("e", [1]),
        ("24", [4]),
        ("5", [4]),
    ],
)
def test_tokens_are_found_by_number_and_by_text(wanted, tokens):
    attention = AnswerAttention(["A", " re", "d", " and", " 245"], torch.zeros(5, 1))
    assert attention.find_tokens(wanted) == tokens


@pytest.mark.parametrize("wanted", ["blue", "0", "", "99"])
def test_what_is_not_in_the_answer_is_refused_with_its_tokens(wanted):
    with pytest.raises(ValueError, match="neither in the answer nor a number from 1 to 2; tokens: 1:'A' 2:'red'"):
        AnswerAttention(["A", " red"], torch.zeros(2, 1)).find_tokens(wanted)


def test_without_an_answer_there_is_no_attention(model_and_processor):
    with pytest.raises(ValueError, match="There is no answer"):
        attend(Chat(*model_and_processor, []))


@pytest.mark.parametrize(
    ("text_config", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 16}, "can't be cut back to the prompt"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "can't be cut back to the prompt"),
    ],
    ids=["sliding window", "convolutions"],
)
def test_models_whose_attention_is_not_kept_are_refused(tiny_checkpoint, text_config, message):
    config, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoConfig, AutoProcessor))
    config = config.to_dict()
    text = {name: config["text_config"][name] for name in SIZES_OF_TEXT}
    torch.manual_seed(0)
    model = LlavaUhdV2ForConditionalGeneration(
        LlavaUhdV2Config(**config | {"text_config": text | {"num_hidden_layers": 2} | text_config})
    ).eval()
    chat = Chat(model, processor, [IMAGES["wide"]])
    chat.ask("What is this?", max_new_tokens=3)
    with pytest.raises(ValueError, match=message):
        attend(chat)


def test_a_model_that_returns_no_weights_is_refused(model_and_processor):
    chat = Chat(*model_and_processor, [IMAGES["unsliced"]])
    chat.ask("What is this?", max_new_tokens=3)

    def drop(module, arguments, outputs):
        outputs.attentions = None

    hook = chat.model.model.language_model.register_forward_hook(drop)
    try:
        with pytest.raises(ValueError, match="`llama` returns no attention weights"):
            attend(chat)
    finally:
        hook.remove()
    assert chat.cache is None


# The command


@pytest.fixture
def photo(tmp_path):
    IMAGES["wide"].save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def visualize(*arguments):
    return CliRunner().invoke(app, ["visualize", *map(str, arguments)])


def test_the_command_draws_the_attention_and_prints_the_answer(tiny_checkpoint, photo, tmp_path):
    model, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForImageTextToText, AutoProcessor))
    chat = Chat(model, processor, [IMAGES["wide"]], 2)
    answer = chat.ask("What is this?", max_new_tokens=6)
    attention = attend(chat)
    inspection = inspect_image(IMAGES["wide"], processor.image_processor, model.config, 2)
    expected = draw_attention(inspection, attention, [1], "What is this?")

    options = ["--model", tiny_checkpoint, "--image", photo, "--max-slices", 2, "--max-new-tokens", 6]
    question = ["--what", "attention", "--question", "What is this?", "--token", 2]
    result = visualize(*options, *question, "--out", tmp_path / "attention.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{answer}\n"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "attention.png")), np.asarray(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "attention"], "needs --model and --question"),
        (["--what", "attention", "--model", "MODEL"], "needs --model and --question"),
        (["--what", "attention", "--model", "MODEL", "--question", "What?", "--token", "zebra"], "'zebra' is neither"),
        (
            ["--what", "attention", "--model", "MODEL", "--question", "What?", "--image", "no.png"],
            "no image file no.png",
        ),
        (["--what", "attention", "--model", "nowhere/at/all", "--question", "What?"], "There is no folder nowhere/at"),
    ],
)
def test_wrong_options_are_errors_in_one_line(arguments, message, tiny_checkpoint, photo, tmp_path):
    arguments = [str(tiny_checkpoint) if argument == "MODEL" else argument for argument in arguments]
    result = visualize("--image", photo, "--out", tmp_path / "a.png", "--max-new-tokens", 3, *arguments)
    assert result.exit_code == 1 and result.stdout == ""
    assert message in result.stderr.rpartition("Error: ")[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]
