# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A trained language model, SmolLM2-135M-Instruct from GGUF, inside a composed model: it answers as it does alone."""

import json
import re

import pytest
import torch
from peft import PeftModel
from quantized_language_model import measure
from serve_clients import ServerProcess
from transformers import AttentionInterface, AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.inference.chat import Chat
from llava_uhd_v2_hf.training.adapters import merge_adapter
from tests.ecosystem.test_vllm_contract import attend
from tests.support.finetune_runs import load, logged, train
from tests.support.paths import ROOT
from tests.support.quantized_models import BY_BITSANDBYTES
from tests.support.smollm2 import TEXT, gguf_folder, write_composed


pytestmark = pytest.mark.slow
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "You answer in one word."}, {"role": "user", "content": "Name a colour."}],
    [
        {"role": "user", "content": "Give me a word that rhymes with cat."},
        {"role": "assistant", "content": "Hat."},
        {"role": "user", "content": "List three more, and say which is an animal."},
    ],
]
NEW_TOKENS = 32


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    return write_composed(tmp_path_factory.mktemp("composed"))


@pytest.fixture(scope="module")
def model(composed):
    return load(composed).eval()


@pytest.fixture(scope="module")
def alone():
    """The language model and its tokenizer, as transformers loads them."""
    [file] = gguf_folder().glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(gguf_folder(), gguf_file=file.name)
    return model.eval(), AutoTokenizer.from_pretrained(gguf_folder(), gguf_file=file.name)


@pytest.fixture(scope="module")
def answers(alone):
    """Greedy answers of the language model alone."""
    model, tokenizer = alone
    texts = []
    for chat in CHATS:
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def test_logits_are_the_language_models_own(model, alone):
    own, tokenizer = alone
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected, found = own(ids).logits, model(input_ids=ids).logits
    assert torch.equal(found[..., : expected.shape[-1]], expected)


def test_template_separators_and_ends_are_the_language_models_own(composed, alone):
    processor, tokenizer = AutoProcessor.from_pretrained(composed), alone[1]
    for chat in CHATS:
        for prompting in (False, True):
            options = {"add_generation_prompt": prompting, "tokenize": True, "return_dict": True}
            expected = tokenizer.apply_chat_template(chat, **options)["input_ids"]
            assert processor.apply_chat_template(chat, return_tensors=None, **options)["input_ids"] == [expected]
    config = json.loads((composed / "config.json").read_text())
    separators = [config["row_separator_id"], config["slice_separator_id"]]
    assert tokenizer.convert_ids_to_tokens(separators) == ["Ċ", ","]
    ends = json.loads((composed / "generation_config.json").read_text())["eos_token_id"]
    assert ends == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert json.loads((composed / "conversion.json").read_text())["options"]["chat_template"] == "own"


def test_answers_without_images_are_the_language_models_own(model, composed, answers):
    processor = AutoProcessor.from_pretrained(composed)
    inputs = processor.apply_chat_template(
        CHATS,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(ids, skip_special_tokens=True) == answers
    assert "Paris" in answers[0]
    chat = Chat(model, processor, [])
    assert chat.ask(CHATS[0][0]["content"], max_new_tokens=NEW_TOKENS) == answers[0].strip()


def test_streams_of_the_server_are_the_language_models_own(composed, answers):
    with ServerProcess(composed) as server:
        create = server.client().chat.completions.create
        for chat, answer in zip(CHATS, answers, strict=True):
            options = {"model": server.model, "messages": chat, "max_tokens": NEW_TOKENS, "temperature": 0}
            chunks = list(create(**options, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
            word = re.findall(r"\S+", answer)[-1]
            stopped = create(**options, stop=[word]).choices[0]
            assert stopped.message.content == answer[: answer.index(word)]
            assert stopped.finish_reason == "stop"
        ended = create(model=server.model, messages=CHATS[0], max_tokens=200, temperature=0).choices[0]
        assert ended.finish_reason == "stop" and "<|im" not in ended.message.content


def test_quantised_it_loses_what_the_documentation_says(composed):
    text = (ROOT / "docs/quantization.md").read_text().split("quantized_language_model.py")[1]
    for name, figures in measure(composed, BY_BITSANDBYTES).items():
        documented = re.search(rf"^\| {re.escape(name)} \| [\d.]+ \| ([\d.]+) \|", text, flags=re.MULTILINE)
        assert figures["perplexity"] == pytest.approx(float(documented[1]), rel=0.02), name


def test_lora_learns_a_task_and_merging_keeps_the_answers(composed, tmp_path):
    colours = ("red", "green", "blue", "white", "black", "pink")
    records = [
        {
            "conversations": [
                {"from": "human", "value": f"Which code has {colour}?"},
                {"from": "gpt", "value": f"K{number}{number}-{colour}"},
            ]
        }
        for number, colour in enumerate(colours, start=3)
    ]
    (tmp_path / "samples.json").write_text(json.dumps(records))
    more = ["batch_size=6", "training.max_steps=14", "training.save_steps=14", "training.lr_scheduler_type=constant"]
    more += ["lora.r=8", "lora.alpha=16", "training.warmup_steps=0", "parts.vision_tower.train=false"]
    more += ["parts.window_attention.train=false", "parts.positions.train=false", "parts.fixups.train=false"]
    more += ["parts.language_model.learning_rate=3e-3", "training.gradient_checkpointing=false"]
    adapter = train("sft", composed, tmp_path / "samples.json", tmp_path / "adapter", *more)
    losses = logged(adapter, 14)
    assert losses[1] > 2 and losses[14] < 0.2
    merge_adapter(str(adapter), tmp_path / "merged")
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    adapted = PeftModel.from_pretrained(load(composed), adapter).eval()
    merged = load(tmp_path / "merged").eval()
    for record in records:
        question, answer = (turn["value"] for turn in record["conversations"])
        assert Chat(merged, processor, []).ask(question, max_new_tokens=16) == answer
        assert Chat(adapted, processor, []).ask(question, max_new_tokens=16) == answer


def test_attention_from_outside(composed, model):
    AttentionInterface.register("as_in_vllm", attend)
    foreign, ids = load(composed).eval(), torch.arange(40, 140)[None]
    foreign.config.text_config._attn_implementation = "as_in_vllm"
    instances = {index: [] for index in range(foreign.config.text_config.num_hidden_layers)}
    with torch.no_grad():
        found = foreign(input_ids=ids, use_cache=False, attention_instances=instances).logits
        torch.testing.assert_close(found, model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)
    assert all(len(calls) == 1 for calls in instances.values())


def test_a_gguf_file_by_name(composed, tmp_path):
    [file] = gguf_folder().glob("*.gguf")
    tower = composed.parent / "tower"
    command = ["assemble", str(tower), str(file), str(tmp_path / "model"), "--dtype", "bfloat16", "--levels", "0,1"]
    result = CliRunner().invoke(app, [*command, "--chat-template", "qwen2"])
    assert result.exit_code == 0, result.output
    assert (
        "Chat template: qwen2." in result.output and "Rows end with '\\n' (198), slices with ',' (28)" in result.output
    )
    assert f"text_model/{file.name}" in json.loads((tmp_path / "model/conversion.json").read_text())["sources"]
