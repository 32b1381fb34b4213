# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The released config.json, one table for everything, and our configuration: from one to the other and back."""

from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedConfig, Qwen2Config

from ..model.configuration_llava_uhd_v2 import (
    DEFAULT_VISION_CONFIG,
    PROJECTOR_OPTIONS,
    LlavaUhdV2Config,
    LlavaUhdV2ProjectorConfig,
)
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from ..utils.json_files import read_json
from .config_checks import check_config_values, config_errors
from .released_defaults import KNOWN_VISION_TOWER, ROW_SEPARATOR_ID, SLICE_SEPARATOR_ID
from .released_kinds import DEFAULT_SCALE_MASK, ReleasedKind, find_kind, released_kind


TEXT_CONFIGS = {"llava_llama": LlamaConfig, "llava_qwen": Qwen2Config}
ARCHITECTURES = {"llava_llama": "LlavaLlamaForCausalLM", "llava_qwen": "LlavaQwenForCausalLM"}
# What a text model's numbers depend on and its weights' shapes may not show.
REQUIRED_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
)
# Keys of the released config.json that change the numbers; where they are present there is no other choice.
FIXED_VALUES = {
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "quantization_config": None,
}
# What a released config.json says besides: how it was trained, and options that have no effect on this model.
USUAL_VALUES = {
    "mm_projector_lr": None,
    "mm_use_im_patch_token": False,
    "mm_vision_tower_lr": None,
    "tokenizer_model_max_length": 4096,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
}
USUAL_VALUES_OF_LAYOUT = {
    "spatial": {
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": "pad",
        "tune_mm_mlp_adapter": False,
        "vdim_ckpt": "clip-large-vdim.ckpt",
    },
    "sequential": {
        "add_faster_video": False,
        "add_time_instruction": False,
        "faster_token_stride": 10,
        "force_sample": False,
        "image_aspect_ratio": "square",
        "image_crop_resolution": None,
        "image_grid_pinpoints": None,
        "image_split_resolution": None,
        "jbu_vdim": "clip-large-vdim.ckpt",
        "mm_newline_position": "grid",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": None,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "pos_skipping_range": 4096,
        "use_pos_skipping": False,
        "vision_tower_pretrained": None,
    },
}


def build_text_config(values: dict[str, Any], place: str = "config.json") -> PreTrainedConfig:
    """Builds the text model's own configuration from the released one that has everything in one table.

    Args:
        values: the released config.json.
        place: the file, for messages.

    Raises:
        ValueError: if the text model is not supported, or a key is missing or has a value that can't be used.
    """
    model_type = _require(values, "model_type")
    check_config_values(values, place)
    if model_type not in TEXT_CONFIGS:
        raise ValueError(
            f"Expected a released LLaVA-UHD v2 checkpoint (`model_type` {' or '.join(TEXT_CONFIGS)}), but config.json "
            f"says `model_type`={model_type!r}; give the folder or Hub id of a released one."
        )
    config_class = TEXT_CONFIGS[model_type]
    # Llama's files may leave the base of the positions out, where it is the default; Qwen2's is another one
    for key in REQUIRED_TEXT_KEYS + (("rope_theta",) if config_class is Qwen2Config else ()):
        _require(values, key)
    keys = {*config_class.__annotations__, "rope_theta", "rope_scaling"}
    with config_errors(place):
        return config_class(**{key: value for key, value in values.items() if key in keys and value is not None})


def build_vision_config(values: dict[str, Any], path: Path | None) -> PreTrainedConfig:
    """Builds the vision tower's configuration: from a file, from the folder that `mm_vision_tower` names, or that of
    the one tower whose shape is known.

    Raises:
        ValueError: if the tower is not known and there is no file, or if it is not as wide as the released one.
    """
    tower = str(values.get("mm_vision_tower"))
    if path is None and (Path(tower) / "config.json").is_file():
        path = Path(tower) / "config.json"
    if path is not None:
        vision_values = read_json(path)
        vision_values = vision_values.get("vision_config", vision_values)
    elif tower.rstrip("/").endswith(KNOWN_VISION_TOWER):
        vision_values = DEFAULT_VISION_CONFIG
    else:
        raise ValueError(
            f"The shape of `mm_vision_tower`={tower!r} is not known; give its config.json: --vision-config"
        )
    if not isinstance(vision_values, dict):
        raise ValueError(f"Expected `vision_config` in {path} to be an object, got {vision_values!r}.")
    check_config_values(vision_values, str(path))
    model_type = vision_values.get("model_type", DEFAULT_VISION_CONFIG["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{path} is for a model of type {model_type!r}, which transformers does not know.")
    with config_errors(str(path)):
        config = CONFIG_MAPPING[model_type].from_dict(vision_values)
    config.dtype = None
    if values.get("mm_hidden_size", config.hidden_size) != config.hidden_size:
        raise ValueError(
            f"`mm_hidden_size`={values['mm_hidden_size']} in config.json, but the tower is {config.hidden_size} wide; "
            "give the right one's --vision-config."
        )
    return config


def build_config(
    values: dict[str, Any], text_config: PreTrainedConfig, vision_config: PreTrainedConfig, image_token_id: int
) -> LlavaUhdV2Config:
    """Builds our configuration from the released one and its parts.

    Raises:
        ValueError: if a key is missing or has a value that our model does not compute.
    """
    kind = find_kind(values)
    modes = {**kind.modes, **{key: (value,) for key, value in FIXED_VALUES.items()}}
    for key, allowed in modes.items():
        if values.get(key, allowed[0]) not in allowed:
            raise ValueError(
                f"`{key}`={values[key]!r} is not supported with `{values['mm_projector_type']}`, only "
                f"{' or '.join(map(repr, allowed))} is."
            )
    with config_errors("config.json"):
        return LlavaUhdV2Config(
            vision_config=vision_config,
            text_config=text_config,
            projector_config={**kind.projector, "levels": _read_levels(values, kind)},
            image_token_id=image_token_id,
            token_layout=kind.token_layout,
            row_separator_id=ROW_SEPARATOR_ID,
            slice_separator_id=SLICE_SEPARATOR_ID,
            vision_feature_layer=_require(values, "mm_vision_select_layer"),
            tie_word_embeddings=text_config.tie_word_embeddings,
            architectures=[LlavaUhdV2ForConditionalGeneration.__name__],
        )


def _read_levels(values: dict[str, Any], kind: ReleasedKind) -> list[int]:
    if kind.levels == ([0],):
        return [0]
    mask = values.get("feature_scale_mask")
    mask = DEFAULT_SCALE_MASK if mask is None else mask
    if not isinstance(mask, int) or not 0 < mask < 16:
        raise ValueError(f"`feature_scale_mask`={mask!r} is not supported; it must be a sum of 1, 2, 4 and 8.")
    levels = [level for level in range(4) if mask & 2**level]
    counts = {len(choice) for choice in kind.levels}
    if kind.projector["projector_type"] == "mlp_pyramid" and len(levels) not in counts:
        raise ValueError(
            f"`feature_scale_mask`={mask} has the levels {levels}, but `{values['mm_projector_type']}` is "
            f"{kind.title}: its weights fit {' or '.join(str(sum(2**level for level in one)) for one in kind.levels)}."
        )
    return levels


def _require(values: dict[str, Any], key: str) -> Any:
    if values.get(key) is None:
        raise ValueError(f"config.json has no `{key}`.")
    return values[key]


def released_values(config: LlavaUhdV2Config, rows: int, vision_tower: str) -> dict[str, Any]:
    """Builds the released config.json from our configuration.

    Args:
        config: ours.
        rows: rows of the embeddings that are written.
        vision_tower: name or path from which the released code is to read the tower's shape.

    Raises:
        ValueError: if the released code cannot compute such a model; the message says everything that is different.
    """
    _refuse_what_was_not_released(config)
    text_config = config.text_config
    model_type = next(name for name, kind in TEXT_CONFIGS.items() if kind is type(text_config))
    projector_type, kind = released_kind(config)
    # what transformers 4 reads: positions in two keys, `torch_dtype`
    positions = dict(text_config.rope_parameters or {})
    theta = positions.pop("rope_theta", None)
    scaling = positions if positions.get("rope_type", "default") != "default" else None
    keys = {*type(text_config).__annotations__, "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"}
    keys -= {"layer_types", "rope_parameters"}
    values = {key: getattr(text_config, key) for key in sorted(keys) if getattr(text_config, key, None) is not None}
    fixed = FIXED_VALUES | {key: allowed[0] for key, allowed in kind.modes.items()}
    return (
        values
        | {key: value for key, value in fixed.items() if value is not None}
        | USUAL_VALUES
        | USUAL_VALUES_OF_LAYOUT[config.token_layout]
        | {
            "architectures": [ARCHITECTURES[model_type]],
            "model_type": model_type,
            "vocab_size": rows,
            "rope_theta": theta,
            "rope_scaling": scaling,
            "torch_dtype": str(config.dtype).removeprefix("torch."),
            "feature_scale_mask": sum(2**level for level in config.projector_config.levels),
            "mm_hidden_size": config.vision_config.hidden_size,
            "mm_projector_type": projector_type,
            "mm_vision_select_layer": config.vision_feature_layer,
            "mm_vision_tower": vision_tower,
        }
    )


def _refuse_what_was_not_released(config: LlavaUhdV2Config) -> None:
    text_config, projector = config.text_config, config.projector_config
    _, kind = released_kind(config)
    released = LlavaUhdV2ProjectorConfig(**kind.projector, num_attention_heads=text_config.hidden_size // 128)
    problems = [
        f"`projector_config.{key}`={getattr(projector, key)}, must be {getattr(released, key)}"
        for key in (
            *PROJECTOR_OPTIONS,
            "upsampler",
            "num_attention_heads",
            "layer_norm_eps",
            "upsampler_kernel_size",
            "upsampler_guidance_size",
        )
        if getattr(projector, key) != getattr(released, key)
    ]
    if projector.levels not in kind.levels:
        choices = " or ".join(map(str, kind.levels))
        problems.append(f"`projector_config.levels`={projector.levels}, must be {choices}")
    if config.token_layout != kind.token_layout:
        problems.append(f"`token_layout`={config.token_layout}, must be {kind.token_layout}")
    if type(text_config) not in TEXT_CONFIGS.values():
        problems.append(f"a text model of type {text_config.model_type!r}, must be llama or qwen2")
    if config.vision_config.model_type != DEFAULT_VISION_CONFIG["model_type"]:
        problems.append(f"a vision tower of type {config.vision_config.model_type!r}, must be CLIP")
    for key, value in (("row_separator_id", ROW_SEPARATOR_ID), ("slice_separator_id", SLICE_SEPARATOR_ID)):
        if getattr(config, key) != value:
            problems.append(f"`{key}`={getattr(config, key)}, must be {value}")
    if problems:
        raise ValueError("The released code cannot compute this model: " + "; ".join(problems) + ".")
