# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LLaVA-UHD v2 configuration: a vision tower, a projector and any causal language model."""

import copy
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from huggingface_hub.dataclasses import type_validator
from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from .geometry_llava_uhd_v2 import SlicePlan, check_grid
from .registries_llava_uhd_v2 import POOLING_GRIDS, PROJECTORS, TOWERS, UPSAMPLERS, load_extensions


if TYPE_CHECKING:
    # the pipeline of a folder with code, in whose config.json it is named: transformers copies the files that relative
    # imports name
    from .pipeline_llava_uhd_v2 import LlavaUhdV2Pipeline  # noqa: F401


# of a projector that doesn't name those that it takes; the first one is the default
SUPPORTED_LEVELS = ((0, 1, 2), (0,), (0, 1), (0, 2), (0, 1, 2, 3))
# (rows, columns) of pooled cells in a window, in the released code's order of preference (paper eq. 3)
DEFAULT_POOLING_GRIDS = ((2, 4), (2, 3), (3, 4), (3, 3), (4, 2), (3, 2), (4, 3))

# Fields that some projectors read and others don't: with these, another value than the default is refused.
PROJECTOR_OPTIONS = (
    "num_query_sets",
    "query_grid",
    "pooling_grids",
    "pooling_grid_rule",
    "mlp_depth",
    "perceiver_grid",
    "perceiver_positions",
)

DEFAULT_VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
DEFAULT_TEXT_CONFIG = {
    "model_type": "llama",
    "vocab_size": 32001,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}

# What transformers itself passes to a config, or users of its trainers set on one, beside its fields.
_FRAMEWORK_KEYS = {
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "custom_pipelines",
    "decoder_start_token_id",
    "eos_token_id",
    "experts_implementation",
    "is_decoder",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "pad_token_id",
    "per_layer_config",
    "quantization_config",
    "sep_token_id",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "use_cache",
}


if TYPE_CHECKING:
    SubConfig = TypeVar("SubConfig", bound=PreTrainedConfig)

    class _SubConfigField(Generic[SubConfig]):
        """What a type checker is told: a sub-config is given as a dict, a config or None, and read as a config."""

        def __get__(self, owner: object, kind: Any = None) -> SubConfig: ...

        def __set__(self, owner: object, value: dict | SubConfig | None) -> None: ...


def _own_fields(config: PreTrainedConfig) -> list[Field]:
    inherited = {field.name for field in fields(PreTrainedConfig)}  # type: ignore[arg-type]
    return [field for field in fields(config) if field.name not in inherited]  # type: ignore[arg-type]


def _refuse_unknown_keys(config: PreTrainedConfig, keys: dict[str, Any]) -> None:
    unknown = sorted(set(keys) - _FRAMEWORK_KEYS - set(GenerationConfig._get_default_generation_params()))
    if unknown:
        raise ValueError(
            f"Unknown key(s) for {type(config).__name__}: "
            + ", ".join(f"`{name}`={keys[name]!r}" for name in unknown)
            + f". Correct or remove it; the keys are: {', '.join(field.name for field in _own_fields(config))}."
        )


def _refuse_wrong_types(config: PreTrainedConfig) -> None:
    for field in _own_fields(config):
        try:
            type_validator(field.name, getattr(config, field.name), field.type)
        except TypeError as error:
            raise ValueError(f"{type(config).__name__}: {error}") from error


def _resolve_sub_config(config: dict | PreTrainedConfig | None, default: dict[str, Any]) -> PreTrainedConfig:
    """A dict without `model_type` has the default's; None is the whole default."""
    if isinstance(config, PreTrainedConfig):
        return config
    values = {"model_type": default["model_type"], **config} if config is not None else dict(default)
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers knows no model of type `{model_type}`. Correct it, or import the module that registers it "
            "first (in commands, `llava-uhd-v2 --extension FILE`)."
        )
    return CONFIG_MAPPING[model_type](**values)


def _is_grid(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(side, int) and side >= 1 for side in value)


def _as_lists(value: Any) -> Any:
    return [_as_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value


class LlavaUhdV2ProjectorConfig(PreTrainedConfig):
    r"""
    Configuration of the projector: the inverse semantic pyramid and what condenses it into tokens.

    Args:
        projector_type (`str`, *optional*, defaults to `"hiwin"`):
            What makes tokens of the pyramid, one of `PROJECTORS`: `"hiwin"`, hierarchical window attention (paper
            3.3); `"uhd_v1"`, window attention on one level (LLaVA-UHD v1); `"mlp_pyramid"` and `"perceiver"`, on all
            levels (paper figure 5a); or `"mlp"`, a token of each patch (LLaVA 1.5).
        upsampler (`str`, *optional*, defaults to `"vdim"`):
            How features are up-sampled, one of `UPSAMPLERS`: `"vdim"`, guided by the pixels (paper 3.2, A.2);
            `"bilinear"` or `"deconvolution"`, up to level 2 (paper table 3).
        levels (`list[int]`, *optional*):
            Levels of the pyramid that the projector reads; level l is 2^l times finer than the ViT's grid. One of [0],
            [0, 1], [0, 2], [0, 1, 2] and [0, 1, 2, 3], of `"uhd_v1"` one of [0] to [3], of `"mlp"` [0]. Defaults to
            [0, 1, 2], or to [0] where one level is read.
        num_query_sets (`int`, *optional*, defaults to 4):
            Sets of queries: 4 in the released checkpoints, 1 in the paper.
        query_grid (`list[int]`, *optional*, defaults to `[12, 12]`):
            (rows, columns) of queries in a view, and so of windows and of tokens; not of `"mlp"`, whose tokens lie in
            the grid of patches.
        pooling_grids (`list[list[int]]`, *optional*):
            Candidates for the (rows, columns) of cells to which RoI-align pools a window. Defaults to the seven of the
            released code.
        pooling_grid_rule (`str`, *optional*, defaults to `"selective"`):
            Which of them a level of a view takes, one of `POOLING_GRIDS`: `"selective"`, on all levels the one nearest
            to the view's aspect ratio (paper eq. 3); `"pyramid"`, the same one, 2^l times as fine on level l; or
            `"fixed"`, 3x3 whatever they are (paper table 6).
        mlp_depth (`int`, *optional*, defaults to 2):
            Linear layers of `"mlp_pyramid"`: 2 as `mlp-v2` of the released code, 1 as `mlp144`.
        perceiver_grid (`list[int]`, *optional*, defaults to `[24, 24]`):
            (rows, columns) to which `"perceiver"` resizes level 0 of every view; level l to 2^l times as many.
        perceiver_positions (`bool`, *optional*, defaults to `False`):
            Whether the keys of `"perceiver"` have positions, and a layer norm and a projection follow its attention.
        num_attention_heads (`int`, *optional*):
            Heads of the projector's attention. Defaults to one for every 128 channels of the text model (released
            code).
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the projector's layer norms.
        upsampler_kernel_size (`int`, *optional*, defaults to 7):
            Side of the neighbourhood, in pixels of the finer level, that an up-sampled feature is mixed from; odd.
        upsampler_guidance_size (`int`, *optional*, defaults to 32):
            Channels to which the guidance pixels are projected before they are compared.
        upsampler_dropout (`float`, *optional*, defaults to 0.1):
            Channel dropout in the up-sampler's two small networks, while it trains.
        fixup_dropout (`float`, *optional*, defaults to 0.2):
            Channel dropout before the up-sampler's 1x1 fix-up, while it trains.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of newly initialised queries and of the matrices for which the released code has one.

    Raises:
        ValueError: if a value is out of range or a key unknown.
    """

    model_type = "llava_uhd_v2_projector"
    base_config_key = "projector_config"

    projector_type: str = "hiwin"
    upsampler: str = "vdim"
    if TYPE_CHECKING:
        levels: list[int] | tuple[int, ...]  # None only until the projector's default is filled in
    else:
        levels: list[int] | tuple[int, ...] | None = None
    num_query_sets: int = 4
    query_grid: list[int] | tuple[int, ...] = (12, 12)
    pooling_grids: list[list[int]] | tuple[tuple[int, ...], ...] = DEFAULT_POOLING_GRIDS
    pooling_grid_rule: str = "selective"
    mlp_depth: int = 2
    perceiver_grid: list[int] | tuple[int, ...] = (24, 24)
    perceiver_positions: bool = False
    num_attention_heads: int | None = None
    layer_norm_eps: float = 1e-6
    upsampler_kernel_size: int = 7
    upsampler_guidance_size: int = 32
    upsampler_dropout: float | int = 0.1
    fixup_dropout: float | int = 0.2
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _refuse_unknown_keys(self, kwargs)
        _refuse_wrong_types(self)
        super().__post_init__(**kwargs)
        self.query_grid, self.perceiver_grid = list(self.query_grid), list(self.perceiver_grid)
        self.pooling_grids = [list(grid) for grid in self.pooling_grids]
        self._check_ranges()
        self._check_levels()
        self._refuse_unread_options()

    def token_grids(self, plan: SlicePlan, patch_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the (rows, columns) of tokens in a slice of an image and in its overview.

        Args:
            plan: how the image is cut; of an image that is not sliced, both are those of the overview.
            patch_size: side in pixels of a patch of the vision tower.
        """
        rule, source = (
            PROJECTORS[self.projector_type].token_grid,
            f"`token_grid` of the projector `{self.projector_type}`",
        )
        overview, grid = (
            check_grid(rule(self, height // patch_size, width // patch_size), source)
            for height, width in (plan.overview_size, plan.slice_size if plan.num_slices else plan.overview_size)
        )
        return grid, overview

    def token_regions(self, size: tuple[int, int], patch_size: int) -> list[tuple[float, float, float, float]] | None:
        """Returns the part of a view that each of its tokens sees, or None where every token sees all of it.

        Args:
            size: (height, width) of the view in pixels.
            patch_size: side in pixels of a patch of the vision tower.

        Returns:
            (top, left, bottom, right) a token, in [0, 1], in the order of the tokens.
        """
        return PROJECTORS[self.projector_type].regions(self, size[0] // patch_size, size[1] // patch_size)

    def _check_levels(self):
        """Fills in the projector's default, or refuses levels that it can't take."""
        supported = getattr(PROJECTORS[self.projector_type], "supported_levels", SUPPORTED_LEVELS)
        self.levels = list(supported[0] if self.levels is None else self.levels)
        if tuple(self.levels) not in supported:
            raise ValueError(
                f"`levels`={self.levels} is not supported by the projector `{self.projector_type}`; choose one of "
                f"{', '.join(str(list(levels)) for levels in supported)}."
            )
        highest = getattr(UPSAMPLERS[self.upsampler], "highest_level", max(self.levels))
        if max(self.levels) > highest:
            raise ValueError(
                f"`levels`={self.levels} is not supported by the up-sampler `{self.upsampler}`; its highest level is "
                f"{highest}."
            )

    def _refuse_unread_options(self):
        """Refuses options of other projectors; one from outside the package may read them all."""
        read = getattr(PROJECTORS[self.projector_type], "options", PROJECTOR_OPTIONS)
        defaults = {field.name: field.default for field in _own_fields(self)}
        for name in set(PROJECTOR_OPTIONS).difference(read):
            value = getattr(self, name)
            if value != _as_lists(defaults[name]):
                readers = [kind for kind in PROJECTORS if name in getattr(PROJECTORS[kind], "options", ())]
                raise ValueError(
                    f"`{name}`={value} has no effect with the projector `{self.projector_type}`; leave it out, or "
                    f"choose a projector that reads it: {', '.join(readers)}."
                )

    def _check_ranges(self):
        PROJECTORS.check(self.projector_type, "projector_type")
        UPSAMPLERS.check(self.upsampler, "upsampler")
        POOLING_GRIDS.check(self.pooling_grid_rule, "pooling_grid_rule")
        if self.num_query_sets < 1:
            raise ValueError(f"`num_query_sets` must be at least 1, got {self.num_query_sets}.")
        for name in ("query_grid", "perceiver_grid"):
            if not _is_grid(getattr(self, name)):
                raise ValueError(f"`{name}` must be (rows, columns) of at least 1, got {getattr(self, name)}.")
        if self.mlp_depth not in (1, 2):
            raise ValueError(f"`mlp_depth` must be 1 or 2, got {self.mlp_depth}.")
        if not self.pooling_grids or not all(_is_grid(grid) for grid in self.pooling_grids):
            raise ValueError(f"`pooling_grids` must list (rows, columns) of at least 1, got {self.pooling_grids}.")
        if self.num_attention_heads is not None and self.num_attention_heads < 1:
            raise ValueError(f"`num_attention_heads` must be at least 1, got {self.num_attention_heads}.")
        if self.upsampler_kernel_size < 1 or self.upsampler_kernel_size % 2 == 0:
            raise ValueError(f"`upsampler_kernel_size` must be odd and positive, got {self.upsampler_kernel_size}.")
        if self.upsampler_guidance_size < 1:
            raise ValueError(f"`upsampler_guidance_size` must be at least 1, got {self.upsampler_guidance_size}.")
        for name in ("upsampler_dropout", "fixup_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        for name in ("layer_norm_eps", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")


class LlavaUhdV2Config(PreTrainedConfig):
    r"""
    Configuration of a LLaVA-UHD v2 model. The defaults are the architecture of the released Vicuna-7B checkpoint.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            The vision tower, of one of the types in `TOWERS`: CLIP, SigLIP or DINOv2. Defaults to the shape of
            CLIP-ViT-L/14-336.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The language model, any architecture of `AutoModelForCausalLM`. Defaults to the shape of Vicuna-7B, with
            one embedding more for the image token.
        projector_config (`dict` or [`LlavaUhdV2ProjectorConfig`], *optional*):
            The up-sampler and the projector.
        image_token_id (`int`, *optional*, defaults to 32000):
            Id of the token that stands for one image token (or separator) in `input_ids`.
        token_layout (`str`, *optional*, defaults to `"spatial"`):
            Order of an image's tokens: `"spatial"` (paper 3.4; released Vicuna-7B) or `"sequential"` (released
            Qwen2-7B and Vicuna-13B).
        row_separator_id (`int`, *optional*, defaults to 13):
            The text model's token whose embedding ends a row (released code: 13 for every text model).
        slice_separator_id (`int`, *optional*, defaults to 29892):
            The text model's token whose embedding separates slices (released code: 29892 for every text model).
        vision_feature_layer (`int`, *optional*, defaults to -2):
            Index into the tower's hidden states of the one that is read; layers past it are kept but not run.
        tie_word_embeddings (`bool`, *optional*):
            Whether the text model's input and output embeddings are one tensor. Defaults to what `text_config` says.

    Raises:
        ValueError: if a value is out of range, a key unknown, or the parts do not fit together.
    """

    model_type = "llava_uhd_v2"
    sub_configs: ClassVar[dict[str, type]] = {
        "vision_config": AutoConfig,
        "text_config": AutoConfig,
        "projector_config": LlavaUhdV2ProjectorConfig,
    }
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_outputs"]

    if TYPE_CHECKING:
        vision_config: _SubConfigField[PreTrainedConfig] = _SubConfigField()
        text_config: _SubConfigField[PreTrainedConfig] = _SubConfigField()
        projector_config: _SubConfigField[LlavaUhdV2ProjectorConfig] = _SubConfigField()
    else:
        vision_config: dict | PreTrainedConfig | None = None
        text_config: dict | PreTrainedConfig | None = None
        projector_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 32000
    token_layout: Literal["spatial", "sequential"] = "spatial"
    row_separator_id: int = 13
    slice_separator_id: int = 29892
    vision_feature_layer: int = -2
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        _refuse_unknown_keys(self, kwargs)
        _refuse_wrong_types(self)
        load_extensions()  # they may register a tower's config with transformers
        kwargs.setdefault("auto_map", {})  # TRL reads it with the package installed, too
        if not __name__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            # of a folder with code, whose code this class is not: `pipeline` would ask for `trust_remote_code`
            kwargs.pop("custom_pipelines", None)
        self.vision_config = _resolve_sub_config(self.vision_config, DEFAULT_VISION_CONFIG)
        self.text_config = _resolve_sub_config(self.text_config, DEFAULT_TEXT_CONFIG)
        if isinstance(self.projector_config, LlavaUhdV2ProjectorConfig):
            # what is left open in it is filled in below, and may be different for its next owner
            self.projector_config = copy.deepcopy(self.projector_config)
        else:
            self.projector_config = LlavaUhdV2ProjectorConfig(**(self.projector_config or {}))
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        self._check_vision()
        self._check_text()

    def to_dict(self) -> dict[str, Any]:
        """Returns the values as transformers does, without an `auto_map` that is empty and without classes."""
        values = super().to_dict()
        if not self.auto_map:  # of a folder without code
            del values["auto_map"]
        for pipeline in values.get("custom_pipelines", {}).values():  # where `pipeline` replaces names by classes
            pipeline["pt"] = [getattr(auto_class, "__name__", auto_class) for auto_class in pipeline["pt"]]
        return values

    def _check_text(self):
        if not hasattr(self.text_config, "hidden_size"):
            raise ValueError(
                f"A text model of type `{self.text_config.model_type}` has no `hidden_size`; choose a language model."
            )
        if self.projector_config.num_attention_heads is None:
            self.projector_config.num_attention_heads = max(self.text_config.hidden_size // 128, 1)
        width, heads = self.text_config.hidden_size, self.projector_config.num_attention_heads
        if width % heads:
            raise ValueError(
                f"The text model's `hidden_size`={width} is not divisible by the projector's "
                f"`num_attention_heads`={heads}; choose a divisor."
            )
        if width % 4:
            raise ValueError(
                f"The text model's `hidden_size`={width} must be a multiple of 4 for the 2D sine-cosine positions."
            )
        for name in ("image_token_id", "row_separator_id", "slice_separator_id"):
            token_id = getattr(self, name)
            if not 0 <= token_id < self.text_config.vocab_size:
                raise ValueError(
                    f"`{name}`={token_id} is outside the text model's vocabulary of {self.text_config.vocab_size} ids."
                )

    def _check_vision(self):
        vision = self.vision_config
        TOWERS.check(vision.model_type, "vision_config.model_type")
        count, layer = vision.num_hidden_layers, self.vision_feature_layer
        if not -(count + 1) <= layer <= count:
            raise ValueError(
                f"`vision_feature_layer`={layer} is outside the tower's {count + 1} hidden states "
                f"({-(count + 1)} to {count})."
            )
        if vision.num_channels != 3:
            raise ValueError(f"The vision tower must read 3 channels, its `num_channels` is {vision.num_channels}.")


__all__ = ["PROJECTOR_OPTIONS", "LlavaUhdV2Config", "LlavaUhdV2ProjectorConfig"]
