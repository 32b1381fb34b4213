# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""ONNX: tower and projector in onnxruntime give the numbers of the model, to 1e-5."""

import onnx
import onnxruntime
import pytest
import torch

from tests.ecosystem.exported_parts import Model, export_parts, random_views, reorder_always  # noqa: F401


TOLERANCE = {"rtol": 0, "atol": 1e-5}  # measured: 4e-6 where features are 0.9 on average, 2e-7 where tokens are 0.09


def to_session(program, path):
    """An exported program, by way of a file, in onnxruntime."""
    # onnxruntime optimises; the translation of attention takes four dimensions at most, that of its parts any number
    torch.onnx.export(program.run_decompositions(), dynamo=True, verbose=False, optimize=False).save(path)
    onnx.checker.check_model(path, full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, *inputs):
    names = [entry.name for entry in session.get_inputs()]
    [output] = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return torch.from_numpy(output)


@pytest.mark.client("onnxruntime", "the vision tower as ONNX, for any number of views of one size")
def test_tower(tiny_checkpoint, tmp_path):
    tiny, size = Model(tiny_checkpoint), (42, 70)
    session = to_session(export_parts.export_tower(tiny.model, size), tmp_path / "tower.onnx")
    for count in (1, 2, 7):
        views = random_views(count, size)
        torch.testing.assert_close(run(session, views), tiny.features(views), **TOLERANCE)


@pytest.mark.client("onnxruntime", "the projector as ONNX, for one view (fast order) or any number of them")
@pytest.mark.parametrize(
    "upsampler, exported, counts", [("vdim", None, [1, 2, 7]), ("bilinear", None, [1, 2, 7]), ("vdim", 1, [1])]
)
def test_projector(tiny_checkpoint, tmp_path, reorder_always, upsampler, exported, counts):  # noqa: F811
    tiny, size = Model(tiny_checkpoint, upsampler), (56, 42)
    session = to_session(export_parts.export_projector(tiny.model, size, exported), tmp_path / "projector.onnx")
    for count in counts:
        views = random_views(count, size)
        torch.testing.assert_close(run(session, tiny.features(views), views), tiny.tokens(views), **TOLERANCE)
