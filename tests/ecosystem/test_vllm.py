# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""vLLM on a CPU, in its own environment: its prompts and greedy answers are ours, token by token."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from test_set import make_pages
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from tests.support.checkpoints import convert, write_released
from tests.support.environments import beside_the_environment
from tests.support.hub_process import CLI
from tests.support.paths import ROOT
from tests.support.smollm2 import write_composed


pytestmark = pytest.mark.slow

NANO = ROOT / "examples/nano/checkpoint"
ANSWERS = Path(__file__).with_name("vllm_answers.py")
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
MAX_TOKENS = 12


def environment(**settings):
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    return inherited | SETTINGS | settings


def vllm_python():
    return f"{beside_the_environment('vllm')}/bin/python"


def ask_vllm(model, groups, folder, *, options=None, settings=None):
    """Starts vLLM, and returns what it says of the model, and the token ids of each prompt and answer, by group."""
    values = {"model": str(model), "options": options or {}, "max_tokens": MAX_TOKENS, "groups": groups}
    requests, answers = folder / "requests.json", folder / "answers.json"
    requests.write_text(json.dumps(values))
    command = [vllm_python(), ANSWERS, requests, answers]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**settings or {}))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    values = json.loads(answers.read_text())
    return values["about"], values["ids"]


def ask_us(model, processor, conversations, **settings):
    """Token ids of each prompt and greedy answer of ours, one by one."""
    answers = []
    for conversation in conversations:
        messages = [
            {
                "role": message["role"],
                "content": [
                    {"type": "image", "image": Image.open(entry["image"])} if entry["type"] == "image" else entry
                    for entry in message["content"]
                ],
            }
            for message in conversation
        ]
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=settings,
        )
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0].tolist()
        length = inputs["input_ids"].shape[1]
        answers.append([ids[:length], ids[length:]])
    return answers


def load(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def asks(text, *images):
    return {"role": "user", "content": [*({"type": "image", "image": str(image)} for image in images), words(text)]}


def words(text):
    return {"type": "text", "text": text}


def says(text):
    return {"role": "assistant", "content": [words(text)]}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """40 pages of nano's test set, of many shapes, and a question about each."""
    folder = tmp_path_factory.mktemp("pages")
    pages = []
    for number, (sheet, questions) in enumerate(make_pages(count=40)):
        sheet.image.save(folder / f"{number}.png")
        pages.append((folder / f"{number}.png", questions[0]["question"]))
    return pages


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of three shapes."""
    folder = tmp_path_factory.mktemp("photos")
    for name, size in {"wide": (150, 60), "small": (50, 40), "tall": (60, 130)}.items():
        Image.effect_mandelbrot(size, (-2, -1.2, 1, 1.2), 100).convert("RGB").save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in ("wide", "small", "tall")]


def conversations_of(photos):
    """Of one image, two, three in two turns, and none."""
    wide, small, tall = photos
    return [
        [asks("What is this?", wide)],
        [asks("What are these?", small, tall)],
        [asks("What is this?", tall), says("A picture."), asks("And these?", small, wide)],
        [asks("Hello!")],
    ]


def test_nano_answers_as_with_us(pages, tmp_path):
    (page, question), (other, another), *_ = pages
    conversations = [[asks(question, page)] for page, question in pages]
    conversations += [
        [asks(question, page, other)],
        [asks(question, page), says("12.50"), asks(another)],
        [asks("Hello!")],
    ]
    fewer = {"conversations": conversations[:4], "mm_processor_kwargs": {"max_slices": 2}}
    about, [answers, answers_of_fewer] = ask_vllm(NANO, [{"conversations": conversations}, fewer], tmp_path)
    model, processor = load(NANO)
    projector = model.model.visual.projector
    one_copy = sum(tensor.nbytes for tensor in (*projector.parameters(), *projector.buffers()))
    assert about == {"module": "llava_uhd_v2_hf.vllm_plugin.model", "fast_order": True, "bytes": one_copy}
    assert answers == ask_us(model, processor, conversations)
    assert answers_of_fewer == ask_us(model, processor, conversations[:4], max_slices=2)
    assert len(answers_of_fewer[0][0]) < len(answers[0][0])


@pytest.mark.parametrize("kind", ["uhd_v1", "mlp_pyramid", "perceiver", "mlp"])
def test_every_projector_answers_as_with_us(kind, photos, tmp_path):
    """Nano with another projector, which is random."""
    trained, processor = load(NANO)
    size = {"query_grid": [8, 8], "num_attention_heads": 1} if kind != "mlp" else {}
    config = LlavaUhdV2Config(**trained.config.to_dict() | {"projector_config": {"projector_type": kind, **size}})
    torch.manual_seed(0)
    model = LlavaUhdV2ForConditionalGeneration(config).eval()
    model.load_state_dict(
        {name: tensor for name, tensor in trained.state_dict().items() if ".projector." not in name}, strict=False
    )
    model.generation_config = trained.generation_config
    model.save_pretrained(tmp_path / "model")
    processor.query_grid = config.projector_config.query_grid
    processor.projector_config = {"projector_type": kind}
    processor.save_pretrained(tmp_path / "model")
    model, processor = load(tmp_path / "model")
    conversations = conversations_of(photos)
    about, [answers] = ask_vllm(tmp_path / "model", [{"conversations": conversations}], tmp_path)
    assert about["module"] == "llava_uhd_v2_hf.vllm_plugin.model"
    assert answers == ask_us(model, processor, conversations)


@pytest.mark.parametrize("name", ["a_llama_permute", "b_qwen2", "c_llama"])
def test_converted_checkpoints_answer_as_with_us(reference, photos, tmp_path, name):
    """Random weights: image tokens would be said if nothing suppressed them; Vicuna has a token behind images."""
    folder = convert(write_released(reference, name, tmp_path / "released"), tmp_path / "model")
    model, processor = load(folder)
    conversations = conversations_of(photos)
    options = {"max_model_len": min(2048, model.config.text_config.max_position_embeddings)}
    _, [answers] = ask_vllm(folder, [{"conversations": conversations}], tmp_path, options=options)
    assert answers == ask_us(model, processor, conversations)


def test_a_trained_language_model_answers_as_with_us(photos, tmp_path):
    folder = write_composed(tmp_path)
    questions = ["What is the capital of France?", "Name three colours.", "Why is the sky blue?"]
    conversations = [[asks(question)] for question in questions]
    conversations += [[asks(questions[0]), says("Paris."), asks("And of Italy?")], *conversations_of(photos)]
    _, [answers] = ask_vllm(folder, [{"conversations": conversations}], tmp_path)
    model, processor = load(folder)
    assert answers == ask_us(model, processor, conversations)
    assert "Paris" in processor.decode(answers[0][1])


def test_without_the_plugin(photos, tmp_path):
    """A folder with code; vLLM's layers everywhere, which read no strides."""
    exported = tmp_path / "exported"
    subprocess.run([*CLI, "export", NANO, "--with-code", "--out", exported], check=True)
    options = {"trust_remote_code": True, "model_impl": "transformers"}
    conversations = conversations_of(photos)
    groups = [{"conversations": conversations}]
    about, [answers] = ask_vllm(exported, groups, tmp_path, options=options, settings={"VLLM_PLUGINS": ""})
    assert about["fast_order"] is False
    assert answers == ask_us(*load(NANO), conversations)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """LoRA of the language model alone, far from zero."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    model = AutoModelForImageTextToText.from_pretrained(NANO)
    targets = r"model\.language_model\..*\.(q_proj|v_proj|down_proj)"
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(adapter, tmp_path_factory):
    """`llava-uhd-v2 serve --engine vllm` with an adapter beside the model, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [vllm_python(), *CLI[1:], "serve", "--engine", "vllm", "--model", NANO, "--name", "nano"]
    more = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "4"]
    more += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"lora={adapter}"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--", *more], stdout=output, stderr=output, env=environment()
        )
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                break
        time.sleep(0.5)
    assert process.poll() is None, log.read_text()[-3000:]
    yield f"{url}/v1"
    process.terminate()
    process.wait()


def parts_of(conversation):
    """The same conversation as OpenAI's client sends it."""
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(entry["image"])}}
                if entry["type"] == "image"
                else entry
                for entry in message["content"]
            ],
        }
        for message in conversation
    ]


def data_url(path):
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def test_streams_of_its_server(server, photos, adapter):
    model, processor = load(NANO)
    client = OpenAI(base_url=server, api_key="none")
    adapted = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(NANO), adapter).eval()
    for name, ours in (("nano", model), ("lora", adapted)):
        expected = [
            processor.decode(ids, skip_special_tokens=True)
            for _, ids in ask_us(ours, processor, conversations_of(photos))
        ]
        for conversation, answer in zip(conversations_of(photos), expected, strict=True):
            chunks = client.chat.completions.create(
                model=name, messages=parts_of(conversation), max_tokens=MAX_TOKENS, temperature=0, stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer


def test_marks_in_texts_are_refused(server, photos):
    messages = parts_of([asks("What is <image>?", photos[0])])
    with pytest.raises(BadRequestError, match="Expected an `<image>` for each image, got 2 of them and 1 images"):
        OpenAI(base_url=server, api_key="none").chat.completions.create(model="nano", messages=messages, max_tokens=1)
