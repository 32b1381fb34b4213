# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import functools
import json
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.configuration_utils import PreTrainedConfig
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from llava_uhd_v2_hf.cli.app import app
from tests.support.hub_process import CLI
from tests.support.models import set_fixed_weights


@pytest.fixture(scope="module")
def checkpoint(converted_checkpoint, tmp_path_factory):
    """The converted checkpoint, made to speak the words of its toy tokenizer (past the 256 bytes) and no others."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = AutoModelForImageTextToText.from_pretrained(converted_checkpoint, dtype=torch.float32)
    set_fixed_weights(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight[:260] = 0
        model.lm_head.weight[520:] = 0
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(converted_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(path)
    return path


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def assert_one_line(result, *words):
    """Exit code 1, one line on stderr (behind progress bars) that has the words, nothing on stdout."""
    assert (result.exit_code, result.stdout) == (1, "")
    message = result.stderr.rpartition("Error: ")[2]
    assert message.endswith("\n") and message.count("\n") == 1
    for word in words:
        assert str(word) in message


def test_help_lists_the_sub_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert "ask" in result.stdout and "inspect" in result.stdout


def test_ask_prints_the_answer_of_generate(checkpoint, photo):
    result = run("ask", "What is this?", "--model", checkpoint, "--image", photo, "--max-new-tokens", 5)

    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "image", "image": str(photo)}, {"type": "text", "text": "What is this?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(ids, skip_special_tokens=True)
    assert answer.strip()
    assert (result.exit_code, result.stdout.strip()) == (0, answer.strip())


@pytest.fixture
def encoded(monkeypatch):
    """The `image_sizes` of every call that encodes images."""
    calls = []
    encode = LlavaUhdV2Model.get_image_features

    def record(self, pixel_values, image_sizes, **kwargs):
        calls.append(image_sizes.tolist())
        return encode(self, pixel_values, image_sizes, **kwargs)

    monkeypatch.setattr(LlavaUhdV2Model, "get_image_features", record)
    return calls


@pytest.mark.parametrize(("options", "grid"), [((), [1, 2]), (("--max-slices", 1), [0, 0])])
def test_max_slices_and_several_images_reach_the_model(checkpoint, photo, encoded, options, grid):
    images = ("--image", photo, "--image", photo)
    result = run("ask", "What?", "--model", checkpoint, *images, *options, "--max-new-tokens", 1)
    assert result.exit_code == 0, result.stderr
    assert [row[:2] for row in encoded[0]] == [grid, grid]


@pytest.fixture
def images(photo, tmp_path):
    """Files of one picture in modes that PIL does not save as JPEG, and its URL."""
    grey = np.asarray(Image.open(photo).convert("L"))
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "floats.tiff")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}/grey.png"
    server.shutdown()


@pytest.fixture
def pixel_values(monkeypatch):
    """The pixels of every call that encodes images."""
    calls = []
    encode = LlavaUhdV2Model.get_image_features

    def record(self, pixel_values, image_sizes, **kwargs):
        calls.append(pixel_values)
        return encode(self, pixel_values, image_sizes, **kwargs)

    monkeypatch.setattr(LlavaUhdV2Model, "get_image_features", record)
    return calls


def test_ask_takes_files_of_every_mode_and_urls_after_one_option(checkpoint, images, pixel_values):
    folder, url = images
    files = [folder / name for name in ("floats.tiff", "grey.png", "wide.png")]  # as a shell sorts `*`
    upper = url.replace("http:", "HTTP:")
    for arguments in (["What?", "--image", *files, url], [f"--image={files[0]}", *files[1:], upper, "What?"]):
        result = run("ask", *arguments, "--model", checkpoint, "--max-slices", 1, "--max-new-tokens", 1)
        assert result.exit_code == 0, result.stderr
        [rows] = pixel_values
        assert len(rows) == 4 and all(torch.equal(row, rows[0]) for row in rows)
        pixel_values.clear()


def test_ask_blends_transparent_images_if_it_is_told_to(checkpoint, photo, pixel_values, tmp_path):
    ink = Image.new("RGBA", (60, 40))
    ink.putalpha(Image.linear_gradient("L").resize((60, 40)))
    white = Image.new("RGBA", (60, 40), "white")
    white.alpha_composite(ink)
    ink.save(tmp_path / "ink.png")
    white.convert("RGB").save(tmp_path / "white.png")
    for name, options in (("ink", ["--alpha", "white"]), ("white", []), ("ink", [])):
        image = tmp_path / f"{name}.png"
        result = run("ask", "What?", "--image", image, "--model", checkpoint, "--max-new-tokens", 1, *options)
        assert result.exit_code == 0, result.stderr
    blended, expected, dropped = pixel_values
    assert torch.equal(blended, expected) and not torch.equal(blended, dropped)


def test_a_pattern_that_matches_nothing_is_named(checkpoint):
    result = run("ask", "What?", "--image", "docs/*.png", "--model", checkpoint)
    assert_one_line(result, "There is no image file docs/*.png")


def test_a_file_after_another_option_is_not_an_image(checkpoint, photo):
    result = run("ask", "--image", photo, "--max-slices", 1, photo, "What?", "--model", checkpoint)
    assert result.exit_code == 2 and "What?" in result.stderr


def test_damaged_weights_and_configs_are_one_line(checkpoint, photo, tmp_path):
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    result = run("ask", "What?", "--model", damaged, "--image", photo)
    assert result.exit_code == 1
    assert result.stderr.rpartition("Error: ")[2].startswith("A file of weights is damaged or cut off")
    config = json.loads((damaged / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (damaged / "config.json").write_text(json.dumps(config))
    result = run("ask", "What?", "--model", damaged, "--image", photo)
    line = result.stderr.rpartition("Error: ")[2]
    assert result.exit_code == 1 and "hidden_size" in line and line.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "ask What? --model typo --image photo.png",
        "inspect --image photo.png --model typo",
        "visualize --image photo.png --model typo --out map.png",
        "demo --model typo",
        "serve --model typo",
        "merge typo output",
        "convert typo output",
        "convert-lora lora typo output",
        "assemble typo typo output",
        "train sft recipe.yaml model=typo data.source=samples.json",
        "data check typo",
    ],
    ids=lambda command: command.split(" -")[0],
)
def test_a_name_that_is_no_hub_id_is_told_at_once(photo, tmp_path, monkeypatch, command):
    def ask_the_hub(host, *rest, **options):
        raise AssertionError(f"{host} was looked up")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("training: {output_dir: output}\n")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text('{"peft_type": "LORA"}')
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", ask_the_hub)
    result = run(*command.split())
    assert result.exit_code == 1 and "There is no folder typo, and it is no Hub id like org/name" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_adapter_without_peft_says_so(tmp_path, photo, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    result = run("ask", "What?", "--model", tmp_path, "--image", photo)
    assert "The checkpoint of the adapter" in result.stderr and "There is no folder base" in result.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("ask", "What?", "--model", tmp_path, "--image", photo)
    assert "peft is not installed; this needs: pip install '.[train]'" in result.stderr


@pytest.mark.slow
def test_an_answer_comes_alone(checkpoint, photo, tmp_path):
    """Nothing but the answer is printed, also with an adapter, whose libraries have advice to developers."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    targets = r"model\.language_model.*q_proj"
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=targets)).save_pretrained(tmp_path / "lora")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "lora")
    for name in (checkpoint, tmp_path / "lora"):
        command = [*CLI, "ask", "What?", "--model", str(name), "--image", str(photo), "--max-new-tokens", "1"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_ask_without_a_question_is_a_chat(checkpoint, photo, encoded):
    arguments = ["ask", "--model", checkpoint, "--image", photo, "--max-new-tokens", 4]
    result = run(*arguments, stdin="What is this?\nAnd now?\n\nnot read\n")
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first and second and len(encoded) == 1
    assert run(*arguments, stdin="What is this?\n").stdout.splitlines() == [first]  # ends with its input


def test_out_of_memory(checkpoint, photo, monkeypatch):
    def fail(self, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB.")

    monkeypatch.setattr(LlavaUhdV2ForConditionalGeneration, "generate", fail)
    assert_one_line(run("ask", "What?", "--model", checkpoint, "--image", photo), "max_slices")


def test_missing_image(checkpoint):
    result = run("ask", "What?", "--model", checkpoint, "--image", "no/such/photo.png")
    assert_one_line(result, "no/such/photo.png")


def test_file_that_is_no_image(checkpoint, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no pixels here")
    assert_one_line(run("ask", "What?", "--model", checkpoint, "--image", text), text)


@pytest.mark.parametrize("model", ["none", "./none", "/no/such/folder", "src/none", "a/b/c", "~/none", "org/na me"])
def test_folder_that_is_not_there(photo, model, monkeypatch):
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", None)  # the Hub is not asked
    assert_one_line(run("ask", "What?", "--model", model, "--image", photo), f"no folder {model},")


def test_hub_id(photo, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    arguments = ["ask", "What?", "--model", "some-org/Some.Model-7b", "--image", photo, "--max-new-tokens", 1]
    assert_one_line(run(*arguments), "some-org/Some.Model-7b")

    repository = tmp_path / "models--some-org--Some.Model-7b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(checkpoint)
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr


def test_folder_without_a_checkpoint(photo, tmp_path):
    assert_one_line(run("ask", "What?", "--model", tmp_path, "--image", photo), tmp_path)


def test_checkpoint_that_is_not_converted(authors_checkpoint, photo):
    result = run("ask", "What?", "--model", authors_checkpoint, "--image", photo)
    assert_one_line(result, authors_checkpoint, "llava_llama", "`llava-uhd-v2 convert`")


def test_inspect_prints_the_facts_and_draws(photo, tmp_path):
    result = run("inspect", "--image", photo, "--out", tmp_path / "slices.png")
    assert result.exit_code == 0, result.stderr
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(facts) == ["image", "slices", "slice", "overview", "patches", "tokens", "memory"]
    assert facts["image"] == "420 x 640 pixels (height x width)"
    assert facts["tokens"].startswith("445 = 288 slice tokens + 12 row separators + 1 slice separator + 144 ")
    assert facts["memory"].endswith("(bfloat16)")
    with Image.open(tmp_path / "slices.png") as picture:
        assert picture.format == "PNG" and picture.width == 960


def test_inspect_takes_the_processor_and_the_config_of_a_checkpoint(photo, checkpoint):
    result = run("inspect", "--image", photo, "--model", checkpoint)
    assert result.exit_code == 0, result.stderr
    config = AutoConfig.from_pretrained(checkpoint)
    assert f"({config.token_layout} layout)" in result.stdout
    assert result.stdout.rstrip().endswith("(float32)")

    processor = AutoProcessor.from_pretrained(checkpoint)
    tokens = processor._get_num_multimodal_tokens(image_sizes=[(420, 640)]).num_image_tokens
    assert f"tokens    {tokens[0]:,} = " in result.stdout

    not_sliced = run("inspect", "--image", photo, "--model", checkpoint, "--max-slices", 1)
    assert "slices    none" in not_sliced.stdout and "tokens    144 = " in not_sliced.stdout


def test_inspect_refuses_a_suffix(photo, tmp_path):
    assert_one_line(run("inspect", "--image", photo, "--out", tmp_path / "slices.xyz"), "slices.xyz", ".png", ".webp")


def test_inspect_names_a_folder_that_is_not_there(photo, tmp_path):
    assert_one_line(run("inspect", "--image", photo, "--out", tmp_path / "none/slices.png"), tmp_path / "none")


def test_inspect_names_a_broken_image(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    assert_one_line(run("inspect", "--image", tmp_path / "photo.png"), tmp_path / "photo.png")
