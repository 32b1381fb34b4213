# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The model as users of transformers meet it: composition, saving, inputs and their errors, generation, training."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BertConfig,
    FalconH1Config,
)

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from llava_uhd_v2_hf.model.modeling_llava_uhd_v2 import CACHE_NAME
from llava_uhd_v2_hf.model.window_attention_llava_uhd_v2 import pool_windows, sincos_position_table


TEXT_MODELS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "phi3": {},
    "gemma2": {"head_dim": 32, "final_logit_softcapping": 0.5},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},  # a head with bias
    "gpt2": {"n_inner": 64},
}
TEXT_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture
def inputs(tiny_config):
    """A batch of two: one image that is not sliced; one image of two slices, with padding in its row."""
    torch.manual_seed(0)
    image_sizes = torch.tensor([[0, 0, 0, 0, 42, 56], [1, 2, 56, 28, 28, 56]])
    input_ids = torch.randint(50, 250, (2, 45))
    input_ids[0, 3:12] = tiny_config.image_token_id
    input_ids[1, 2 : 2 + 3 * 7 + 1 + 9] = tiny_config.image_token_id
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(2, 26, 588),
        "image_sizes": image_sizes,
    }


@torch.no_grad()
@pytest.mark.parametrize("model_type", TEXT_MODELS)
def test_text_only_logits_equal_the_causal_model_and_weights_load_both_ways(tiny_config, model_type):
    torch.manual_seed(0)
    text_config = AutoConfig.for_model(model_type, **TEXT_SIZES, **TEXT_MODELS[model_type])
    causal = AutoModelForCausalLM.from_config(text_config).eval()
    values = {**tiny_config.to_dict(), "text_config": text_config}
    values.pop("tie_word_embeddings")
    model = LlavaUhdV2ForConditionalGeneration(LlavaUhdV2Config(**values)).eval()
    model.model.language_model.load_state_dict(causal.base_model.state_dict())
    model.lm_head.load_state_dict(causal.get_output_embeddings().state_dict())
    input_ids = torch.randint(3, 300, (2, 9))  # no image token
    expected = causal(input_ids=input_ids).logits
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(model(input_ids=input_ids).logits, expected, rtol=0, atol=1e-6)

    causal.base_model.load_state_dict(model.model.language_model.state_dict())
    causal.get_output_embeddings().load_state_dict(model.lm_head.state_dict())


@pytest.mark.parametrize(
    ("text_config", "reason"),
    [
        (BertConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=1), "bert.*logits"),
        (FalconH1Config(hidden_size=64, num_hidden_layers=1, vocab_size=32001), "falcon_h1.*logits"),
    ],
)
def test_text_models_with_other_logits_are_refused_by_name(tiny_config, text_config, reason):
    config = copy.deepcopy(tiny_config)
    config.text_config = text_config
    with pytest.raises(ValueError, match=reason):
        LlavaUhdV2ForConditionalGeneration(config)


@torch.no_grad()
def test_saving_whole_and_in_shards_gives_the_same_model_back(tiny_model, inputs, tmp_path):
    expected = tiny_model(**inputs).logits
    for folder, options in (("whole", {}), ("shards", {"max_shard_size": "100KB"})):
        tiny_model.save_pretrained(tmp_path / folder, **options)
        reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path / folder)
        assert isinstance(reloaded, LlavaUhdV2ForConditionalGeneration)
        assert torch.equal(reloaded(**inputs).logits, expected)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert AutoConfig.from_pretrained(tmp_path / "whole").to_json_string() == tiny_model.config.to_json_string()
    base = AutoModel.from_pretrained(tmp_path / "whole")
    assert isinstance(base, LlavaUhdV2Model)
    hidden_states = base(**inputs).last_hidden_state
    assert torch.equal(hidden_states, tiny_model.model(**inputs).last_hidden_state)


def test_unread_layers_stay_frozen_after_loading(tiny_model, tmp_path):
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert any(".encoder.layers.2." in name for name in frozen)
    tiny_model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert {name for name, parameter in reloaded.named_parameters() if not parameter.requires_grad} == frozen


@torch.no_grad()
def test_tied_embeddings_are_one_tensor_after_loading(tiny_config, tmp_path):
    values = tiny_config.to_dict()
    values["text_config"]["tie_word_embeddings"] = True
    values.pop("tie_word_embeddings")
    model = LlavaUhdV2ForConditionalGeneration(LlavaUhdV2Config(**values))
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert reloaded.lm_head.weight is reloaded.get_input_embeddings().weight
    assert torch.equal(reloaded.lm_head.weight, model.get_input_embeddings().weight)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(tiny_model, inputs, tmp_path, dtype):
    tiny_model.to(dtype).save_pretrained(tmp_path)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    full = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    expected = full(**inputs).logits
    # measured: 1.4 (bfloat16) and 2.5 (float16) units of rounding of the largest logit
    assert (half(**inputs).logits.float() - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max()


@torch.no_grad()
def test_image_features_have_one_entry_an_image_and_stand_in_for_pixels(tiny_model, inputs):
    features = tiny_model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    assert [tuple(image.shape) for image in features.pooler_output] == [(9, 64), (31, 64)]
    assert features.last_hidden_state.shape == (2, 26, 32)
    expected = tiny_model(**inputs)
    assert torch.equal(torch.cat(expected.image_outputs.pooler_output), torch.cat(features.pooler_output))
    text = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    assert torch.equal(tiny_model(**text, mm_encoder_outputs={"image": features}).logits, expected.logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    answer = tiny_model.generate(**inputs, **options)
    assert torch.equal(tiny_model.generate(**text, mm_encoder_outputs={"image": features}, **options), answer)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["spatial", "sequential"])
def test_separators_are_the_text_models_own_embeddings(tiny_config, inputs, layout):
    tiny_config.token_layout = layout
    model = LlavaUhdV2ForConditionalGeneration(tiny_config).eval()
    embeddings = model.get_input_embeddings()
    row, slice_ = embeddings(torch.tensor([tiny_config.row_separator_id, tiny_config.slice_separator_id]))
    tokens = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[1]
    is_row = [index for index, token in enumerate(tokens) if torch.equal(token, row)]
    is_slice = [index for index, token in enumerate(tokens) if torch.equal(token, slice_)]
    if layout == "spatial":  # three lines of two slices side by side, then the end of the slices
        assert (is_row, is_slice) == ([6, 13, 20], [21])
    else:
        assert (is_row, is_slice) == ([19], [9])


@torch.no_grad()
def test_batched_answers_equal_single_ones(tiny_model, inputs):
    options = {"max_new_tokens": 6, "do_sample": False}
    together = tiny_model.generate(**inputs, **options)
    for index in range(2):
        alone = tiny_model.generate(**{name: value[index : index + 1] for name, value in inputs.items()}, **options)
        assert torch.equal(together[index : index + 1], alone)


@torch.no_grad()
def test_cache_and_logits_to_keep_change_no_number(tiny_model, inputs):
    whole = tiny_model(**inputs).logits
    last = tiny_model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(last, whole[:, -1:], rtol=0, atol=1e-5)
    first = {**inputs, "input_ids": inputs["input_ids"][:, :-3], "attention_mask": inputs["attention_mask"][:, :-3]}
    cache = tiny_model(**first, use_cache=True)[CACHE_NAME]
    rest = tiny_model(
        input_ids=inputs["input_ids"][:, -3:], attention_mask=inputs["attention_mask"], **{CACHE_NAME: cache}
    )
    torch.testing.assert_close(rest.logits, whole[:, -3:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_embeddings_in_place_of_ids_find_the_images_place(tiny_model, inputs):
    expected = tiny_model(**inputs).logits
    embeds = tiny_model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(tiny_model(inputs_embeds=embeds, **inputs).logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_off_loaded_weights_give_the_same_logits(tiny_model, inputs, tmp_path, where):
    expected = tiny_model(**inputs).logits
    if where == "cpu":
        cpu_offload(tiny_model, execution_device=torch.device("cpu"))
    else:
        disk_offload(tiny_model, tmp_path, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in tiny_model.parameters()} == {"meta"}
    torch.testing.assert_close(tiny_model(**inputs).logits, expected, rtol=0, atol=1e-5)


def test_training_reaches_every_trained_parameter_also_without_images(tiny_model, inputs):
    tiny_model.train()
    tiny_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    trained = {name: p for name, p in tiny_model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

    tiny_model.zero_grad()
    text = inputs["input_ids"][:, 40:]
    loss = tiny_model(input_ids=text, labels=text).loss
    loss.backward()
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
        if ".visual." in name:
            assert parameter.grad.abs().max() == 0, name
    torch.testing.assert_close(loss, tiny_model.eval()(input_ids=text, labels=text).loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("frozen", [["vision_tower"], ["vision_tower", "language_model"]])
def test_reentrant_checkpointing_trains_the_projector_of_a_frozen_tower(tiny_model, inputs, frozen):
    for name, parameter in tiny_model.named_parameters():
        parameter.requires_grad = not any(part in name for part in frozen)

    def gradients(model):
        torch.manual_seed(0)  # the up-sampler's dropout
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(copy.deepcopy(tiny_model).train())
    tiny_model.train().gradient_checkpointing_enable({"use_reentrant": True})
    checkpointed = gradients(tiny_model)
    assert any("projector" in name for name in plain) and checkpointed.keys() == plain.keys()
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_gradient_checkpointing_runs_every_part_twice_and_changes_no_gradient(tiny_model, inputs):
    def gradients_and_calls(model):
        calls = {}
        for name in ("visual.vision_tower.encoder.layers.0", "visual.projector", "language_model.layers.0"):
            part = model.model.get_submodule(name)
            norm = next(module for module in part.modules() if "Norm" in type(module).__name__)
            norm.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
        torch.manual_seed(0)  # the up-sampler's dropout
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, calls

    plain, once = gradients_and_calls(copy.deepcopy(tiny_model).train())
    tiny_model.train().gradient_checkpointing_enable()
    checkpointed, twice = gradients_and_calls(tiny_model)
    assert twice == {name: 2 * count for name, count in once.items()}
    assert checkpointed.keys() == plain.keys()
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)


def test_text_batches_run_the_vision_encoder_only_where_something_waits_for_it(tiny_model, inputs):
    calls = []
    tiny_model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    text = inputs["input_ids"][:, 40:]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = tiny_model.generate(input_ids=text, **options)
    assert not calls
    tiny_model.train()
    assert torch.equal(tiny_model.generate(input_ids=text, **options), expected)
    assert len(calls) == 1  # the prompt, none of the four steps
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert torch.equal(tiny_model.eval()(input_ids=text).logits.argmax(-1)[:, -1:], expected[:, 5:6])
    finally:
        torch.distributed.destroy_process_group()
    assert len(calls) == 2  # other ranks may have images: evaluation issues the same collectives


def test_an_infinite_weight_of_the_projector_leaves_text_batches_alone(tiny_model, inputs):
    text = inputs["input_ids"][:, 40:]
    tiny_model.model.visual.projector.window_attention.projection.weight.data[0, 0] = float("inf")
    assert tiny_model.train()(input_ids=text, labels=text).loss.isfinite()


def test_new_models_start_with_the_released_codes_initial_weights(tiny_config):
    torch.manual_seed(0)
    tiny_config.text_config.initializer_range = 0.3
    model = LlavaUhdV2ForConditionalGeneration(tiny_config)
    attention = model.model.visual.projector.window_attention
    assert torch.equal(attention.position_embeddings, sincos_position_table([3, 3], 64))
    assert attention.queries.std().item() == pytest.approx(0.02, rel=0.05)
    assert attention.key.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert not attention.level_embeddings.any() and not attention.key.bias.any()
    stage = model.model.visual.projector.upsampler.stages[0]
    assert (stage.range_temperature, stage.spatial_width) == (0, 1)
    assert 0.9 / 52**0.5 < stage.residual_in.weight.abs().max() <= 1 / 52**0.5
    assert model.lm_head.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert all(parameter.ndim for parameter in model.parameters()), "sharding refuses scalars"


def test_one_construction_gives_one_dtype_whatever_the_parts_were_saved_in(tiny_config):
    tiny_config.text_config.dtype = torch.bfloat16
    tiny_config.vision_config.dtype = torch.float16
    assert {p.dtype for p in LlavaUhdV2ForConditionalGeneration(tiny_config).parameters()} == {torch.float32}
    model = AutoModelForImageTextToText.from_config(tiny_config, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_a_projector_in_float32_reads_a_tower_in_half_precision(tiny_model, inputs):
    expected = tiny_model(**inputs).logits
    tiny_model.model.visual.vision_tower.bfloat16()
    torch.testing.assert_close(tiny_model(**inputs).logits, expected, rtol=0, atol=0.05)


@torch.no_grad()
def test_autocast_keeps_window_pooling_in_float32():
    maps = torch.randn(1, 17, 23, 8, generator=torch.Generator().manual_seed(0))
    expected = pool_windows(maps, [3, 3], (3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pool_windows(maps, [3, 3], (3, 3)), expected)


@torch.no_grad()
def test_a_config_that_training_scripts_have_touched_loads_again(tiny_model, tmp_path):
    tiny_model.config.pad_token_id = 0
    tiny_model.config.eos_token_id = 2
    tiny_model.config.use_cache = False
    tiny_model.save_pretrained(tmp_path)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).config.pad_token_id == 0


def change(inputs, **changes):
    return {name: value for name, value in {**inputs, **changes}.items() if value is not None}


def test_inputs_that_contradict_each_other_are_refused_with_their_numbers(tiny_model, inputs):
    ids, pixels, sizes = inputs["input_ids"], inputs["pixel_values"], inputs["image_sizes"]
    too_many, no_plan = ids.clone(), sizes.clone()
    too_many[0, 0] = tiny_model.config.image_token_id
    no_plan[1] = torch.tensor([1, 0, 56, 28, 28, 56])
    cases = [
        (change(inputs, input_ids=too_many), "41 image tokens.*40"),
        (change(inputs, pixel_values=None, image_sizes=None), "40 image tokens, but no image"),
        (change(inputs, image_sizes=None), "needs `image_sizes`"),
        (change(inputs, image_sizes=sizes[:1]), "2 images.*1 row"),
        (change(inputs, image_sizes=no_plan), r"\[1, 0, 56, 28, 28, 56\]"),
        (change(inputs, pixel_values=pixels[:, :20]), r"Image 1.*\(20, 588\).*24 patches"),
        (change(inputs, pixel_values=pixels[..., :300]), r"Image 0.*\(26, 300\).*588"),
        (change(inputs, input_ids=None), "exactly one"),
        (change(inputs, mm_encoder_outputs={"image": None}), "not both"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            tiny_model(**bad)
