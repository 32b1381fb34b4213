# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The objective of VDIM pre-training against the authors' code: every loss and gradient, from recorded draws."""

import pytest
import torch
import torch.nn.functional as F

from llava_uhd_v2_hf import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.data.normalisation import NORMALISATIONS
from llava_uhd_v2_hf.model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from llava_uhd_v2_hf.training.stages.vdim.draws import Jitter, JitterDraws
from llava_uhd_v2_hf.training.stages.vdim.losses import (
    AttentionDownsampler,
    VdimObjective,
    crf_loss,
    sample,
)
from llava_uhd_v2_hf.training.stages.vdim.recipe import VdimLoss
from tests.support.recordings import read_pixels, read_recording, upsampler_tensors


LEVELS = {1: "2x", 2: "4x"}
PARTS = {1: ("downsampler_2x", "scale_net_2x"), 2: ("downsampler", "scale_net")}
DOWNSAMPLER_NAMES = {
    "attention_net.1.weight": "saliency.weight",
    "attention_net.1.bias": "saliency.bias",
    "w": "scales",
    "b": "offsets",
}


@pytest.fixture(scope="module")
def recording(reference):
    return read_recording(reference, "vdim")


def downsampler_tensors(tensors, prefix):
    return {ours: tensors[prefix + theirs] for theirs, ours in DOWNSAMPLER_NAMES.items() if prefix + theirs in tensors}


def objective_tensors(tensors, prefix):
    """Weights or gradients of a recorded step, under our names."""
    config = LlavaUhdV2ProjectorConfig(levels=[0, 1, 2])
    ours = {f"upsampler.{name}": t for name, t in upsampler_tensors(tensors, f"{prefix}upsampler.", config).items()}
    for level, (downsampler, scale_net) in PARTS.items():
        for name, tensor in downsampler_tensors(tensors, f"{prefix}{downsampler}.").items():
            ours[f"downsamplers.{level}.{name}"] = tensor
        ours[f"uncertainties.{level}.log_scale.weight"] = tensors[f"{prefix}{scale_net}.net.weight"][:, :, 0, 0]
        ours[f"uncertainties.{level}.log_scale.bias"] = tensors[f"{prefix}{scale_net}.net.bias"]
    return ours


def recorded_draws(facts, tensors, step, index):
    loss = VdimLoss()
    transform = facts["transforms"][index]
    projections = tensors.get(f"{step}.projection_raw_{index}")
    keep = {level: tensors[f"{step}.keep_uniform_{name}_{index}"][..., 0] for level, name in LEVELS.items()}
    points = {
        level: tuple(tensors[f"{step}.crf_{a}_{name}"] for a in ("rows", "cols")) for level, name in LEVELS.items()
    }
    return JitterDraws(
        jitters=[Jitter(transform["zoom"], transform["x"], transform["y"], transform["flip"])],
        projections=None if projections is None else F.normalize(projections, dim=1),
        masks={level: (uniform > loss.mask_rate).float() for level, uniform in keep.items()},
        points=points if index == 0 else {},
    )


@pytest.mark.parametrize("step", ["step_plain", "step_jitter"])
def test_a_step_equals_the_released_training(recording, reference, step):
    description, tensors = recording
    facts = description[step]
    loss = VdimLoss(
        jitters=facts["n_jitters"],
        max_pad=facts["max_pad"],
        max_zoom=facts["max_zoom"],
        projection_size=facts["random_projection"],
        crf_weight=facts["crf_weight"],
    )
    upsampler = LlavaUhdV2Upsampler(LlavaUhdV2ProjectorConfig(levels=[0, 1, 2]), facts["dim"])
    objective = VdimObjective(upsampler, loss, facts["dim"], facts["kernel_size"]).eval()
    objective.load_state_dict(objective_tensors(tensors, f"{step}.weights."))
    pixels = read_pixels(reference, description["image_files"][f"{step}.image_u8"][0])[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS["imagenet"])
    pixels = (pixels - mean) / std

    for index in range(facts["n_jitters"]):
        jittered = tensors[f"{step}.lr_feats_jittered_{index}"]
        draws = recorded_draws(facts, tensors, step, index)
        total, parts = objective(pixels, tensors[f"{step}.lr_feats"], jittered, draws)
        assert float(total.detach()) == pytest.approx(facts["loss_per_jitter"][index], abs=1e-4)
        total.backward()
        if index == 0:
            crf = float(parts["crf_2x"] + parts["crf_4x"])
            assert crf == pytest.approx(facts["terms"]["loss/crf_4x"], rel=1e-4)
    for name in ("rec_2x", "rec_4x"):
        assert float(parts[name]) == pytest.approx(facts["terms"][f"loss/{name}"], abs=1e-4)

    expected = objective_tensors(tensors, f"{step}.grad.")
    gradients = {name: parameter.grad for name, parameter in objective.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() <= 1e-3 * expected[name].abs().max(), name


def test_the_downsampler_equals_the_released_one(recording):
    description, tensors = recording
    names = [name for name in description if name.startswith("downsampler_")]
    assert names
    for name in names:
        compare_downsampler(description, tensors, name)


def compare_downsampler(description, tensors, name):
    downsampler = AttentionDownsampler(description[name]["dim"], description[name]["kernel_size"]).eval()
    downsampler.load_state_dict(downsampler_tensors(tensors, f"{name}.weights."))
    kept = (tensors[f"{name}.mask_uniform"][..., 0] > 0.2).float()
    with torch.no_grad():
        torch.testing.assert_close(
            downsampler(tensors[f"{name}.hr_feats"]), tensors[f"{name}.out_all_kept"], rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            downsampler(tensors[f"{name}.hr_feats"], kept), tensors[f"{name}.out_masked"], rtol=0, atol=1e-4
        )


def test_the_crf_term_equals_the_released_one(recording):
    _, tensors = recording
    features, pixels = tensors["crf.features"], tensors["crf.guidance"]
    rows, columns = (tensors[f"crf.{axis}"].expand(len(features), -1) for axis in ("rows", "cols"))
    loss = crf_loss(pixels, sample(features, rows, columns), rows, columns)
    torch.testing.assert_close(loss, tensors["crf.loss"].view(()), rtol=1e-4, atol=0)
