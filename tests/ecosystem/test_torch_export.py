# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""torch.export and torch.compile: programs of the model's parts, read from files, give the numbers of the model."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, CompileConfig, StaticCache

from llava_uhd_v2_hf.model.modeling_llava_uhd_v2 import CACHE_NAME
from tests.ecosystem.exported_parts import Model, export_parts, random_views, reorder_always  # noqa: F401


QUESTION = "Where is red?"
SIZES = [(150, 100), (60, 150), (50, 40), (300, 40)]  # of images, width and height


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return AutoModelForImageTextToText.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint)


def picture(size):
    """A picture with a different colour everywhere."""
    return Image.linear_gradient("L").resize(size).convert("RGB").rotate(30)


def ask(processor, *images):
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, images=list(images), return_tensors="pt")


def through_a_file(program, folder):
    torch.export.save(program, folder / "program.pt2")
    return torch.export.load(folder / "program.pt2")


def builds_maps(program, pixels, width):
    """Whether the program makes text features of every pixel, as the plain order does and the fast one doesn't."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    return any(isinstance(value, torch.Tensor) and value.shape[-2:] == (pixels, width) for value in values)


@pytest.mark.client("torch", "export, save and load of the vision tower, for any number of views of one size")
@pytest.mark.parametrize("size", [(56, 56), (42, 70)])
def test_tower(tiny_checkpoint, tmp_path, size):
    tiny = Model(tiny_checkpoint)
    program = through_a_file(export_parts.export_tower(tiny.model, size), tmp_path)
    assert not any("projector" in name for name in program.state_dict)
    for count in (1, 2, 7):
        views = random_views(count, size)
        torch.testing.assert_close(program.module()(views), tiny.features(views), rtol=0, atol=1e-6)


@pytest.mark.client("torch", "export, save and load of the projector, for one, several or any number of views")
@pytest.mark.parametrize("upsampler", ["vdim", "bilinear"])
@pytest.mark.parametrize("exported, counts", [(1, [1]), (3, [3]), (None, [1, 2, 7])])
def test_projector(tiny_checkpoint, tmp_path, reorder_always, upsampler, exported, counts):  # noqa: F811
    tiny, size = Model(tiny_checkpoint, upsampler), (56, 70)
    program = through_a_file(export_parts.export_projector(tiny.model, size, exported), tmp_path)
    assert builds_maps(program, pixels=8 * 10, width=32) is (exported is None)
    for count in counts:
        views = random_views(count, size)
        tokens = program.module()(tiny.features(views), views)
        torch.testing.assert_close(tokens, tiny.tokens(views), rtol=0, atol=5e-6)


@pytest.mark.client("torch", "strict export of the projector: the fast order, for a fixed number of views")
def test_projector_strictly(tiny_checkpoint, reorder_always):  # noqa: F811
    tiny, size, views = Model(tiny_checkpoint), (56, 70), random_views(2, (56, 70))
    module = export_parts.Projector(tiny.model)
    with torch.no_grad():
        program = torch.export.export(module, (tiny.features(views), views), strict=True)
    assert not builds_maps(program, pixels=8 * 10, width=32)
    views = random_views(2, size) + 1
    tokens = program.module()(tiny.features(views), views)
    torch.testing.assert_close(tokens, tiny.tokens(views), rtol=0, atol=5e-6)


@pytest.mark.client(
    "transformers", "TorchExportableModuleForDecoderOnlyLM: prompts and single steps of several prompts, one program"
)
@torch.no_grad()
def test_text_step(tiny_checkpoint, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint).eval()
    program = through_a_file(export_parts.export_text_step(model, 32), tmp_path)
    assert not any("visual" in name for name in program.state_dict)
    step = program.module()
    for length in (20, 1, 9):  # the longest first: what it leaves in the cache must not be read
        ids = torch.randint(5, 500, (1, length + 4), generator=torch.Generator().manual_seed(length))
        embeds = model.get_input_embeddings()(ids)
        logits = [step(inputs_embeds=embeds[:, :length], cache_position=torch.arange(length))]
        for position in range(length, length + 4):
            place = torch.tensor([position])
            logits.append(step(inputs_embeds=embeds[:, place], cache_position=place))
        torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, rtol=1e-5, atol=1e-4)


@pytest.mark.client("torch", "an answer from the loaded programs alone, about views of two sizes: that of generate")
@torch.no_grad()
def test_parts_together_answer_like_the_model(model, processor, tmp_path):
    inputs = ask(processor, picture(SIZES[0]))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    length = inputs["input_ids"].shape[1] + 8
    export_parts.save_parts(model, inputs, tmp_path, cache_length=length)
    said = export_parts.answer(export_parts.load_parts(tmp_path), model.config, inputs, count=8, last=None)
    assert said.tolist() == expected.tolist()


@pytest.mark.client("torch", "examples/export_parts.py: says what generate says")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_example(tiny_checkpoint, processor, samples, tmp_path, capsys, dtype):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, dtype=dtype).eval()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    image = samples.parent / "000.png"
    export_parts.main(tmp_path / "model", image, QUESTION, tmp_path / "parts")
    inputs = ask(processor, Image.open(image))
    expected = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    said, length = capsys.readouterr().out, None if dtype == torch.float32 else 10  # then rounding takes over
    assert said[:length] == f"{processor.decode(expected, skip_special_tokens=True)}\n"[:length]


@pytest.mark.client("torch", "compile (inductor, one graph) of the text step: one static cache, images of four shapes")
def test_steps_compile_once(tiny_checkpoint, processor):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint).eval()
    prompts = [ask(processor, picture(size)) for size in SIZES]
    assert len({prompt["input_ids"].shape for prompt in prompts}) == len(SIZES)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = [model.generate(**prompt, **options) for prompt in prompts]

    torch.compiler.reset()
    config = CompileConfig(fullgraph=True, mode=None)
    config._compile_all_devices = True
    cache = StaticCache(config=model.config.text_config, max_cache_len=256)
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for prompt, ids in zip(prompts, expected, strict=True):
            cache.reset()
            assert torch.equal(model.generate(**prompt, **options, compile_config=config, **{CACHE_NAME: cache}), ids)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
