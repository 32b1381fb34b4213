# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Compares a conversion with its source, tensor by tensor, and prints a table.

One of the two is a released checkpoint, the other ours; which one was made from the other does not matter. Ours is
loaded through the Auto classes, as a user loads it, and what they loaded is compared with the released one.

A file of logits is a safetensors file with what another run answered: `input_ids` (b, n), and where they apply
`attention_mask` (b, n), `pixel_values` and `image_sizes`, as our processor returns them; `logits` (b, p, k), at the
positions in `positions` (p) and of the ids in `ids` (k), by default at all positions and of the first k ids.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import PROCESSOR_NAME

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..utils.errors import file_errors
from ..utils.json_files import read_json
from .config_checks import check_config_sizes
from .convert import converted_tensor
from .export import read_config
from .projector_map import PROJECTOR, UPSAMPLER
from .released_config import TEXT_CONFIGS, build_config, build_text_config
from .sources import Source, open_source
from .weight_files import LazyTensor, WeightFiles, dtype_name, split_into_pieces
from .weight_map import INPUT_EMBEDDINGS, model_shapes, plan_weights, with_rows


PARTS = (
    ("vision tower", "model.visual.vision_tower."),
    ("up-sampler", UPSAMPLER),
    ("projector", PROJECTOR),
    ("language model", "model.language_model."),
    ("language model's head", "lm_head."),
)
CONFIG_KEYS_OF_FILES = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")


def verify_checkpoint(
    source: str | Path, output: Path, *, logits: Path | None = None, tolerance: float = 1e-4
) -> bool:
    """Compares two checkpoints and prints a table.

    Args:
        source: folder or Hub id that `output` was made from.
        output: folder to check.
        logits: file with inputs and the logits of another run.
        tolerance: largest difference of a logit; they are computed in float32.

    Returns:
        Whether there is no difference.

    Raises:
        OSError: if a Hub id can't be downloaded.
        ValueError: if the two are not one released checkpoint and one of ours, or cannot be read.
    """
    released, converted = _sort_out(open_source(source), open_source(output))
    config = read_config(converted)
    problems = config_differences(read_json(released.folder / "config.json"), config)
    released.fetch_weights()
    converted.fetch_weights()

    ours = converted.folder
    found = WeightFiles.from_folder(ours)  # names a file that cannot be read
    check_config_sizes(config.to_dict(), found.shapes, str(ours / "config.json"))
    shapes = model_shapes(config)
    with file_errors(ours, "can't be loaded"):
        model, report = AutoModelForImageTextToText.from_pretrained(ours, dtype="auto", output_loading_info=True)
        processor_class = AutoProcessor if (ours / PROCESSOR_NAME).is_file() else AutoImageProcessor
        processor_class.from_pretrained(ours)
    problems += [f"loading: {key}: {value}" for key, value in report.items() if value]

    weights = WeightFiles.from_folder(released.folder)
    rows = weights.shapes.get("model.embed_tokens.weight", shapes[INPUT_EMBEDDINGS])[0]
    plan = plan_weights(weights.shapes, with_rows(shapes, rows), config.projector_config)
    loaded = model.state_dict()
    print(f"{'':24}{'tensors':>10}{'numbers':>16}{'different':>12}")
    counted: set[str] = set()
    for title, prefix in PARTS:
        names = [name for name in shapes if name.startswith(prefix) and name not in counted]
        counted.update(names)
        different = {}
        for name in names:
            expected = converted_tensor(weights, plan.rules[name], name, shapes[name], loaded[name].dtype)
            if error := largest_difference(expected, loaded[name]):
                different[name] = error
        numbers = sum(loaded[name].numel() for name in names)
        print(f"{title:24}{len(names):10}{numbers:16,}{len(different):12}")
        problems += [f"tensor: `{name}`, by up to {error:.3g}" for name, error in different.items()]
    print(f"{'released, but not used':24}{len(plan.unused):10}")
    if added := len(loaded[INPUT_EMBEDDINGS]) - rows:
        print(f"{'rows added':24}{added:10}")

    if logits is not None:
        error = logits_difference(model.float().eval(), logits)
        print(f"{'logits':24}{'':26}{error:12.2g}")
        if not error <= tolerance:
            problems.append(f"logits: by up to {error:.3g}, more than {tolerance:.3g}")
    for problem in problems:
        print(f"Different: {problem}")
    print(f"{len(problems)} difference(s)." if problems else f"No difference ({dtype_name(config.dtype)}).")
    return not problems


def _sort_out(source: Source, output: Source) -> tuple[Source, Source]:
    """Returns the released checkpoint and ours, in this order."""
    kinds = [str(read_json(checkpoint.folder / "config.json").get("model_type")) for checkpoint in (source, output)]
    if kinds[0] in TEXT_CONFIGS and kinds[1] == LlavaUhdV2Config.model_type:
        return source, output
    if kinds[1] in TEXT_CONFIGS and kinds[0] == LlavaUhdV2Config.model_type:
        return output, source
    raise ValueError(
        f"One folder must be a released checkpoint ({', '.join(TEXT_CONFIGS)}) and the other ours "
        f"({LlavaUhdV2Config.model_type}), but they are {kinds[0]!r} and {kinds[1]!r}."
    )


def config_differences(released: dict[str, Any], config: LlavaUhdV2Config) -> list[str]:
    """Lists where our configuration is not what the released config.json says."""
    text_config = build_text_config(released)
    text_config.vocab_size = config.text_config.vocab_size
    expected = build_config(released, text_config, config.vision_config, config.image_token_id)
    ours, theirs = _flatten(config.to_dict()), _flatten(expected.to_dict())
    return [
        f"config: `{key}` is {ours.get(key)!r}, must be {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and key.rpartition(".")[2] not in CONFIG_KEYS_OF_FILES
    ]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def largest_difference(expected: LazyTensor, tensor: Tensor) -> float:
    """Returns the largest absolute difference: 0 where all bits are equal, infinity where the shapes differ."""
    if list(expected.shape) != list(tensor.shape):
        return float("inf")
    largest, start = 0.0, 0
    rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
    for piece in split_into_pieces(expected.read(), tensor.dtype):
        other = rows[start : start + len(piece)]
        start += len(piece)
        if not torch.equal(piece, other):
            largest = max(largest, float((piece.double() - other.double()).abs().nan_to_num(float("inf")).max()))
    return largest


@torch.no_grad()
def logits_difference(model: torch.nn.Module, path: Path) -> float:
    """Returns the largest absolute difference of the model's logits from those in a file, padding left out."""
    recorded = load_file(path)
    expected = recorded.pop("logits").float()
    mask = recorded.get("attention_mask", torch.ones_like(recorded["input_ids"])).bool()
    positions = recorded.pop("positions", torch.arange(expected.shape[1]))
    ids = recorded.pop("ids", torch.arange(expected.shape[2]))
    logits = model(**recorded).logits[:, positions.long()][..., ids.long()]
    return float((logits - expected)[mask[:, positions.long()]].abs().max())


__all__ = ["verify_checkpoint"]
