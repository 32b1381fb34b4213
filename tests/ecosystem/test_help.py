# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What `help()` and `inspect` say of every public class and function: docstring, shapes, units, errors, sources."""

import ast
import builtins
import importlib.util
import inspect
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import llava_uhd_v2_hf
from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ImageProcessor
from tests.ecosystem.public_names import Public, modules, public
from tests.support.paths import ROOT


MODULES, PUBLIC = list(modules()), list(public())
SHAPE = re.compile(r"\((?!paper|released)[^()]*\b\w[^()]*,[^()]*\)")  # (b, n), (n,), (v, 3, patch * h, patch * w)
SCALARS = re.compile(r"zero|a number, 0 for all")  # tensors that need no shape
REFERENCE = re.compile(r"\[`~?([\w.]+)`\]")
UNITS = {
    r"height|width": "pixels|patches|same unit",
    r".*_resolution|max_image_pixels|crop_size": "pixels",
    r"patch_size": "pixels|patch",
    r"max_length|max_new_tokens|lengths": "tokens",
    r"needed|num_bytes": "bytes",
    r"batch_size|step_size": "samples|questions",
}
# What the paper or the released code defines, and where.
FROM_THE_PAPER = {
    "model.configuration_llava_uhd_v2.LlavaUhdV2Config": "paper 3.4",
    "model.configuration_llava_uhd_v2.LlavaUhdV2ProjectorConfig": "paper 3.2, A.2",
    "model.geometry_llava_uhd_v2.choose_pooling_grid": "paper eq. 3",
    "model.geometry_llava_uhd_v2.plan_slices": "paper 3.4",
    "model.geometry_llava_uhd_v2.token_layout": "paper 3.4",
    "model.window_attention_llava_uhd_v2.LlavaUhdV2WindowAttention": "paper eq. 4, 5",
    "model.window_attention_llava_uhd_v2.roi_align_weights": "released code",
    "model.window_attention_llava_uhd_v2.sincos_position_table": "released code",
    "model.image_processing_llava_uhd_v2.LlavaUhdV2ImageProcessor": "paper 3.4",
    "model.modeling_llava_uhd_v2.LlavaUhdV2Model.get_image_features": "paper 3.2 to 3.4",
    "model.projectors_hiwin_llava_uhd_v2.LlavaUhdV2Projector": "paper 3.2 and 3.3",
    "training.stages.finetune.run.finetune": "paper 4.1",
    "data.labels.released_chatml_labels": "released",
    "data.labels.template_labels": "released",
    "data.lengths.ModalityLengthSampler": "released",
    "training.parameter_groups.plan_parts": "paper 4.1",
    "data.pre_resize.pre_resized": "released",
    "model.upsamplers_bilinear_llava_uhd_v2.LlavaUhdV2BilinearUpsampler": "paper's table 3",
    "model.upsamplers_vdim_llava_uhd_v2.LlavaUhdV2Upsampler": "paper 3.2",
    "model.upsamplers_vdim_llava_uhd_v2.LlavaUhdV2UpsamplerStage": "paper A.2, eq. 6 to 8",
    "model.upsamplers_vdim_llava_uhd_v2.LlavaUhdV2UpsamplerStage.range_weights": "eq. 8",
    "model.upsamplers_vdim_llava_uhd_v2.LlavaUhdV2UpsamplerStage.spatial_weights": "eq. 7",
}


def is_tensor(annotation) -> bool:
    """Whether a value is a tensor or array, or a list of some; not an image in any form, nor a model's weights."""
    text = str(annotation)
    return bool(re.search(r"Tensor\b|ndarray", text)) and "PIL.Image" not in text and "Mapping" not in text


def no_docstring(item: Public) -> Iterator[str]:
    if not item.doc:
        yield "has none"


def wrong_arguments(item: Public) -> Iterator[str]:
    """A section of arguments names none that there is not; an entry that would add nothing is left out."""
    yield from sorted(set(item.entries("Args")) - set(item.parameters) - item.keywords)


def hidden_arguments(item: Public) -> Iterator[str]:
    """`**kwargs` are typed key by key, handed on as the docstring says, or taken and not used."""
    for name, value in item.parameters.items():
        is_open = value.kind in (value.VAR_POSITIONAL, value.VAR_KEYWORD)
        if is_open and not (item.keywords or name in item.documented or value.annotation is object):
            yield name


def no_shapes(item: Public) -> Iterator[str]:
    if inspect.isclass(item.value) and "_fields" not in vars(item.value):
        return
    repeats = item.doc.startswith("As [`")
    for name, value in item.parameters.items():
        text = item.documented.get(name, "") if "Args" in item.sections else item.doc
        if is_tensor(value.annotation) and not (SHAPE.search(text) or SCALARS.search(text) or repeats):
            yield name
    is_method = not inspect.isclass(item.value)
    result = item.sections.get("Returns", item.sections["summary"])
    if is_method and is_tensor(inspect.signature(item.value).return_annotation) and not SHAPE.search(result):
        yield from () if repeats else ["its result"]


def no_units(item: Public) -> Iterator[str]:
    for name, text in item.documented.items():
        units = [unit for pattern, unit in UNITS.items() if re.fullmatch(pattern, name)]
        if not REFERENCE.search(text) and not all(re.search(unit, text) for unit in units):
            yield f"{name}{text}"


def undocumented_errors(item: Public) -> Iterator[str]:
    kinds = [getattr(builtins, name, None) for name in item.entries("Raises")]
    for error in item.raised:
        known = any(kind is not None and issubclass(error, kind) for kind in kinds)
        if not known and error.__name__ not in item.entries("Raises"):
            yield error.__name__


def no_source(item: Public) -> Iterator[str]:
    if FROM_THE_PAPER.get(item.name, "") not in " ".join(item.doc.split()):
        yield FROM_THE_PAPER[item.name]


def dead_references(item: Public) -> Iterator[str]:
    names = {name: value for module in MODULES for name, value in vars(module).items()}
    for reference in REFERENCE.findall(item.doc):
        first, *rest = reference.split(".")
        value = names.get(first)
        if value is None or any(not hasattr(value, name) for name in rest):
            yield reference


RULES = [
    no_docstring,
    wrong_arguments,
    hidden_arguments,
    no_shapes,
    no_units,
    undocumented_errors,
    no_source,
    dead_references,
]


def test_there_are_public_names_of_every_kind():
    names = {item.name for item in PUBLIC}
    assert {
        "model.geometry_llava_uhd_v2.plan_slices",
        "model.modeling_llava_uhd_v2.LlavaUhdV2Model.forward",
        "data.collation.ConversationCollator.__call__",
        "data.lengths.measure_lengths",
    } <= names
    assert set(FROM_THE_PAPER) <= names


@pytest.mark.parametrize("rule", RULES)
def test_everything_public_is_documented(rule):
    assert [f"{item.name}: {problem}" for item in PUBLIC for problem in rule(item)] == []


def bare(pixels):
    pass


def mistaken(height: int, maps: torch.Tensor, **kwargs) -> torch.Tensor:
    """Makes maps finer, see [`LlavaUhdV2Upsamplr`].

    Args:
        height: of the maps.
        width: of the maps, in pixels.
    """
    raise ValueError(height)


@pytest.mark.parametrize(
    ("rule", "function", "problems"),
    [
        (no_docstring, bare, ["has none"]),
        (wrong_arguments, mistaken, ["width"]),
        (hidden_arguments, mistaken, ["kwargs"]),
        (no_shapes, mistaken, ["maps", "its result"]),
        (no_units, mistaken, ["height: of the maps.\n"]),
        (undocumented_errors, mistaken, ["ValueError"]),
        (no_source, mistaken, ["paper 3.4"]),
        (dead_references, mistaken, ["LlavaUhdV2Upsamplr"]),
    ],
)
def test_mistakes_are_seen(rule, function, problems):
    assert list(rule(Public("model.geometry_llava_uhd_v2.plan_slices", function))) == problems


def exported(module: str) -> list[str]:
    """Its `__all__`, read and not imported: some modules need a program that is installed apart."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "__all__")


def test_what_the_documents_import_is_public():
    pattern = re.compile(r"^\s*from (llava_uhd_v2_hf[\w.]*) import ([\w, ]+)$", re.MULTILINE)
    documents = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py"), *ROOT.glob("model_cards/*")]
    imports = [found for path in documents for found in pattern.findall(path.read_text())]
    assert len(imports) >= 3
    for module, names in imports:
        assert set(names.split(", ")) <= set(exported(module))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (LlavaUhdV2Config, ["projector_config", "token_layout", "vision_feature_layer", "Raises:"]),
        (llava_uhd_v2_hf.LlavaUhdV2ProjectorConfig, ["levels", "query_grid", "pooling_grids", "upsampler"]),
        (LlavaUhdV2ImageProcessor, ["max_slices", "slice_resolution", "image_mean", "LlavaUhdV2ImageProcessorKwargs"]),
        (LlavaUhdV2ImageProcessor.__call__, ["images", "LlavaUhdV2ImageProcessorKwargs", "BatchFeature"]),
        (llava_uhd_v2_hf.LlavaUhdV2Processor, ["image_suffix", "query_grid"]),
        (llava_uhd_v2_hf.LlavaUhdV2Processor.__call__, ["images", "text", "padding", "max_slices", "pixel_values"]),
        (LlavaUhdV2ForConditionalGeneration, ["config: llava_uhd_v2_hf", "fold_projector", "Raises:"]),
        (LlavaUhdV2ForConditionalGeneration.forward, ["labels", "logits_to_keep", "mm_encoder_outputs", "(b, n)"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_help_shows_what_can_be_set(value, names):
    shown = pydoc.plain(pydoc.render_doc(value))
    assert not [name for name in names if name not in shown]
    assert "videos" not in shown.partition("Methods inherited")[0] or value is llava_uhd_v2_hf.LlavaUhdV2Processor
