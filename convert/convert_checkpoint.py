# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Turns a released LLaVA-UHD v2 checkpoint into a complete folder that transformers loads.

    python convert/convert_checkpoint.py SOURCE OUTPUT [--vision-config FILE] [--dtype bfloat16] [--skip-tokenizer]

SOURCE holds config.json, safetensors or .bin shards and, unless skipped, the tokenizer. One output shard is in memory
at a time, so memory stays near `MAX_SHARD_SIZE` whatever the size of the model. OUTPUT appears when it is complete.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import (
    CONFIG_MAPPING,
    AddedToken,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME
from weight_map import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, WeightPlan, plan_weights

from llava_uhd_v2_hf import (
    LlavaUhdV2Config,
    LlavaUhdV2ForConditionalGeneration,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2Processor,
)
from llava_uhd_v2_hf.chat_templates_llava_uhd_v2 import QWEN_CHATML_TEMPLATE, VICUNA_V1_TEMPLATE
from llava_uhd_v2_hf.configuration_llava_uhd_v2 import DEFAULT_VISION_CONFIG


MAX_SHARD_SIZE = 2 * 10**9  # bytes
MAX_SLICES = 9  # with which the released models were evaluated
NUM_QUERY_SETS = 4
# The released code has these two ids for every text model.
ROW_SEPARATOR_ID = 13
SLICE_SEPARATOR_ID = 29892
IMAGE_TOKEN = "<image>"

TEXT_CONFIGS = {"llava_llama": LlamaConfig, "llava_qwen": Qwen2Config}
# What a text model's numbers depend on and its weights' shapes may not show.
REQUIRED_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
)
KNOWN_VISION_TOWER = "clip-vit-large-patch14-336"  # its shape is DEFAULT_VISION_CONFIG
# `mm_projector_type` in the two versions of the released code, and the order of image tokens in each.
TOKEN_LAYOUTS = {"adapt_spatial_resampler": "spatial", "adapt_spatial_resampler_v2": "sequential"}
# Keys of the released config.json that change the numbers; where they are present there is no other choice.
FIXED_VALUES = {
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "quantization_config": None,
}
FIXED_VALUES_OF_LAYOUT = {
    "spatial": {"feature_mode": "featup_muti_res", "model_mode": None},
    "sequential": {"feature_mode": None, "model_mode": "uhd_v2"},
}

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # names in safetensors files
CHAT_TEMPLATES = {"llama": VICUNA_V1_TEMPLATE, "qwen2": QWEN_CHATML_TEMPLATE}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
SAMPLING_KEYS = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def convert_checkpoint(
    source: Path,
    output: Path,
    *,
    vision_config: Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    skip_tokenizer: bool = False,
) -> None:
    """Converts the released checkpoint in `source` into the folder `output`.

    Args:
        source: folder with the released config.json, weights and, unless skipped, tokenizer.
        output: folder to write; it must not exist, or be empty.
        vision_config: config.json of the vision tower, for towers other than CLIP-ViT-L/14-336.
        dtype: of the converted weights; by default that of the released ones.
        skip_tokenizer: whether to write the image processor alone, without tokenizer and processor.

    Raises:
        ValueError: if `output` is in use, or anything in `source` is missing, unknown, not supported or not finite.
            Nothing is left in `output` then.
    """
    source, output = source.resolve(), output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; choose another name or remove it.")
    values = _read_json(source / "config.json")
    text_config = build_text_config(values)
    released_rows = text_config.vocab_size
    tokenizer = None if skip_tokenizer else _load_tokenizer(source, text_config)
    image_token_id = released_rows if tokenizer is None else tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text_config.vocab_size = max(released_rows, image_token_id + 1)
    config = build_config(values, text_config, build_vision_config(values, vision_config), image_token_id)

    weights = ReleasedWeights(source)
    shapes = model_shapes(config)
    if config.tie_word_embeddings:
        _refuse_untied_head(weights)
    plan = plan_weights(weights.shapes, _without_new_rows(shapes, released_rows), config.projector_config)
    config.dtype = getattr(torch, dtype) if dtype else _find_dtype(weights, plan)
    generation_config = _build_generation_config(source, config, tokenizer, released_rows)
    _report(values, config, plan)

    with _staged(output) as folder:
        write_weights(weights, plan, shapes, config.dtype, folder)
        config.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        _build_processor(config, tokenizer).save_pretrained(folder)
    print(f"Saved in {output}.")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its name at the end, and vanishes after an error."""
    folder = output.with_name(f"{output.name}.{os.getpid()}.partial")
    folder.mkdir(parents=True)
    try:
        yield folder
        if output.exists():
            output.rmdir()
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _report(values: dict[str, Any], config: LlavaUhdV2Config, plan: WeightPlan) -> None:
    print(f"Token layout: {config.token_layout} (`mm_projector_type`={values['mm_projector_type']!r}).")
    print(f"Pyramid levels: {config.projector_config.levels} (`feature_scale_mask`={values['feature_scale_mask']}).")
    for reason, count in sorted(Counter(plan.unused.values()).items()):
        print(f"{count} tensor(s) left out: {reason}.")
    print(f"Saving as {str(config.dtype).removeprefix('torch.')}.")


# Configuration


def build_text_config(values: dict[str, Any]) -> PreTrainedConfig:
    """The text model's own configuration, out of the released one that has everything in one table.

    Raises:
        ValueError: if the text model is not supported or a needed key is missing.
    """
    model_type = _require(values, "model_type")
    if model_type not in TEXT_CONFIGS:
        raise ValueError(f"`model_type`={model_type!r} is not supported; it must be one of {', '.join(TEXT_CONFIGS)}.")
    config_class = TEXT_CONFIGS[model_type]
    # Llama's files may leave the base of the positions out, where it is the default; Qwen2's is another one
    for key in REQUIRED_TEXT_KEYS + (("rope_theta",) if config_class is Qwen2Config else ()):
        _require(values, key)
    keys = {*config_class.__annotations__, "rope_theta", "rope_scaling"}
    return config_class(**{key: value for key, value in values.items() if key in keys and value is not None})


def build_vision_config(values: dict[str, Any], path: Path | None) -> PreTrainedConfig:
    """The vision tower's configuration: from a file, or the one tower whose shape is known.

    Raises:
        ValueError: if the tower is not known and there is no file, or if it is not as wide as the released one.
    """
    tower = str(values.get("mm_vision_tower"))
    if path is not None:
        vision_values = _read_json(path)
        vision_values = vision_values.get("vision_config", vision_values)
    elif tower.rstrip("/").endswith(KNOWN_VISION_TOWER):
        vision_values = DEFAULT_VISION_CONFIG
    else:
        raise ValueError(
            f"The shape of `mm_vision_tower`={tower!r} is not known; give its config.json: --vision-config"
        )
    model_type = vision_values.get("model_type", DEFAULT_VISION_CONFIG["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"{path} is for a model of type {model_type!r}, which transformers does not know.")
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
    """Our configuration, out of the released one and its parts.

    Raises:
        ValueError: if a key is missing or has a value that our model does not compute.
    """
    projector_type = _require(values, "mm_projector_type")
    if projector_type not in TOKEN_LAYOUTS:
        raise ValueError(
            f"`mm_projector_type`={projector_type!r} is not supported; it must be one of {', '.join(TOKEN_LAYOUTS)}."
        )
    token_layout = TOKEN_LAYOUTS[projector_type]
    for key, value in (FIXED_VALUES | FIXED_VALUES_OF_LAYOUT[token_layout]).items():
        if values.get(key, value) != value:
            raise ValueError(f"`{key}`={values[key]!r} is not supported with `{projector_type}`, only {value!r} is.")
    mask = _require(values, "feature_scale_mask")
    if not isinstance(mask, int) or not 0 < mask < 16:
        raise ValueError(f"`feature_scale_mask`={mask!r} is not supported; it must be a sum of 1, 2, 4 and 8.")
    return LlavaUhdV2Config(
        vision_config=vision_config,
        text_config=text_config,
        projector_config={
            "levels": [level for level in range(4) if mask & 2**level],
            "num_query_sets": NUM_QUERY_SETS,
        },
        image_token_id=image_token_id,
        token_layout=token_layout,
        row_separator_id=ROW_SEPARATOR_ID,
        slice_separator_id=SLICE_SEPARATOR_ID,
        vision_feature_layer=_require(values, "mm_vision_select_layer"),
        tie_word_embeddings=text_config.tie_word_embeddings,
        architectures=[LlavaUhdV2ForConditionalGeneration.__name__],
    )


def _require(values: dict[str, Any], key: str) -> Any:
    if values.get(key) is None:
        raise ValueError(f"config.json has no `{key}`.")
    return values[key]


def _build_generation_config(
    source: Path, config: LlavaUhdV2Config, tokenizer: PreTrainedTokenizerBase | None, released_rows: int
) -> GenerationConfig:
    """The released one, which besides never generates the image token or an id that stands for no text."""
    values = {key: getattr(config.text_config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if (source / GENERATION_CONFIG_NAME).is_file():
        values |= _read_json(source / GENERATION_CONFIG_NAME)
    values = {key: value for key, value in values.items() if key not in ("_from_model_config", "transformers_version")}
    if not values.get("do_sample"):
        values = {key: value for key, value in values.items() if key not in SAMPLING_KEYS}
    rows = config.text_config.vocab_size
    suppressed = {config.image_token_id, *range(released_rows, rows), *(values.get("suppress_tokens") or ())}
    if tokenizer is not None:
        suppressed |= set(range(rows)) - set(tokenizer.get_vocab().values())
        if values.get("pad_token_id") is None:
            values["pad_token_id"] = tokenizer.pad_token_id
    return GenerationConfig(**values | {"suppress_tokens": sorted(suppressed)})


# Tokenizer and processor


def _load_tokenizer(source: Path, text_config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    if not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{source} has no tokenizer ({', '.join(TOKENIZER_FILES)}); add it or use --skip-tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source, config=text_config)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATES[text_config.model_type]
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _build_processor(
    config: LlavaUhdV2Config, tokenizer: PreTrainedTokenizerBase | None
) -> LlavaUhdV2Processor | LlavaUhdV2ImageProcessor:
    image_processor = LlavaUhdV2ImageProcessor(
        max_slices=MAX_SLICES,
        slice_resolution=config.vision_config.image_size,
        patch_size=config.vision_config.patch_size,
    )
    if tokenizer is None:
        return image_processor
    # Tokenizers that put a space mark before a text have one after the image too: the released code tokenises the
    # texts around an image one by one.
    first = tokenizer.tokenize("a")[0]
    return LlavaUhdV2Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        query_grid=config.projector_config.query_grid,
        token_layout=config.token_layout,
        image_token=IMAGE_TOKEN,
        image_suffix="" if first == "a" else " ",
        chat_template=tokenizer.chat_template,
    )


# Weights


class ReleasedWeights:
    """The tensors of a released checkpoint, in any number of safetensors or .bin files, read one at a time.

    Attributes:
        shapes: shape of every tensor, by name.
        dtypes: dtype of every tensor, by name; "BF16" and the like.

    Raises:
        ValueError: if the folder has no weights, a file of its index is not there, or a name is in two files.
    """

    def __init__(self, folder: Path):
        self.shapes: dict[str, list[int]] = {}
        self.dtypes: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            file, headers = _open_weights(path)
            for name, shape, dtype in headers:
                if name in self._files:
                    raise ValueError(f"`{name}` is in two files of {folder}; leave one set of weights there.")
                self._files[name], self.shapes[name], self.dtypes[name] = file, shape, dtype

    def read(self, name: str) -> Tensor:
        file = self._files[name]
        return file[name] if isinstance(file, dict) else file.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        for index in folder.glob(f"{pattern}.index.json"):
            files = [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
        absent = [path.name for path in files if not path.is_file()]
        if absent:
            raise ValueError(f"The index of the weights names files that {folder} does not have: {', '.join(absent)}.")
        if files:
            return files
    raise ValueError(f"{folder} has no weights: neither model*.safetensors nor pytorch_model*.bin.")


def _open_weights(path: Path) -> tuple[Any, list[tuple[str, list[int], str]]]:
    """An open file, or a dict of tensors on disk, and the name, shape and dtype of its tensors."""
    if path.suffix == ".safetensors":
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it cannot be iterated)
        return file, [(name, header.get_shape(), header.get_dtype()) for name, header in slices.items()]
    words = {dtype: word for word, dtype in DTYPES.items()}
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return tensors, [(name, list(x.shape), words.get(x.dtype, str(x.dtype))) for name, x in tensors.items()]


def model_shapes(config: LlavaUhdV2Config) -> dict[str, list[int]]:
    """Name and shape of every tensor that a checkpoint of this configuration holds."""
    with torch.device("meta"):
        model = LlavaUhdV2ForConditionalGeneration(config)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[OUTPUT_EMBEDDINGS]
    return shapes


def _refuse_untied_head(weights: ReleasedWeights) -> None:
    embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
    if {embeddings, head} <= weights.shapes.keys() and not torch.equal(weights.read(embeddings), weights.read(head)):
        raise ValueError(
            f"config.json ties the embeddings, but `{head}` differs from `{embeddings}`; set "
            "`tie_word_embeddings` to false."
        )


def _without_new_rows(shapes: dict[str, list[int]], released_rows: int) -> dict[str, list[int]]:
    tables = {name for name in (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS) if name in shapes}
    return shapes | {name: [released_rows, *shapes[name][1:]] for name in tables}


def _find_dtype(weights: ReleasedWeights, plan: WeightPlan) -> torch.dtype:
    names = sorted({name for rule in plan.rules.values() for name in rule.released})
    counts = Counter(weights.dtypes[name] for name in names)
    if len(counts) > 1 or not counts.keys() <= DTYPES.keys():
        found = ", ".join(
            f"{count} of {word} (such as `{next(name for name in names if weights.dtypes[name] == word)}`)"
            for word, count in counts.most_common()
        )
        raise ValueError(f"The weights have no common dtype that can be kept: {found}; choose one with --dtype")
    return DTYPES[counts.popitem()[0]]


def write_weights(
    weights: ReleasedWeights, plan: WeightPlan, shapes: dict[str, list[int]], dtype: torch.dtype, folder: Path
) -> None:
    """Writes safetensors shards, one after the other, and their index.

    New rows of the input embeddings are the mean of the others, so that no other row equals them; those of the output
    embeddings are zero.

    Raises:
        ValueError: if weights are NaN or infinite in this dtype; the message names all of them.
    """
    skeleton = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    split = split_torch_state_dict_into_shards(skeleton, max_shard_size=MAX_SHARD_SIZE)
    not_finite: dict[str, None] = {}
    for filename, names in tqdm(split.filename_to_tensors.items(), desc="Shards", disable=None):
        shard = {}
        for name in names:
            rule = plan.rules[name]
            released = [weights.read(released_name).to(dtype) for released_name in rule.released]
            for released_name, tensor in zip(rule.released, released, strict=True):
                if not tensor.isfinite().all():
                    not_finite[released_name] = None
            tensor = rule.to_ours(released)[name]
            if list(tensor.shape) != shapes[name]:
                row = tensor.float().mean(0).to(dtype) if name == INPUT_EMBEDDINGS else torch.zeros_like(tensor[0])
                tensor = torch.cat([tensor, row.expand(shapes[name][0] - len(tensor), -1)])
            shard[name] = tensor.clone(memory_format=torch.contiguous_format)
        save_file(shard, folder / filename, metadata={"format": "pt"})
    if not_finite:
        names = ", ".join(f"`{name}`" for name in not_finite)
        raise ValueError(f"Weights are NaN or infinite (as {str(dtype).removeprefix('torch.')}): {names}.")
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    source: Annotated[Path, typer.Argument(help="Folder of the released checkpoint.", exists=True, file_okay=False)],
    output: Annotated[Path, typer.Argument(help="Folder to write; new, or empty.")],
    vision_config: Annotated[
        Path | None, typer.Option(help="The vision tower's config.json, where it is not CLIP-ViT-L/14-336.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="By default that of the weights.")
    ] = None,
    skip_tokenizer: Annotated[
        bool, typer.Option("--skip-tokenizer", help="Write the image processor only, no tokenizer.")
    ] = False,
) -> None:
    """Turns a released LLaVA-UHD v2 checkpoint into a complete folder that transformers loads."""
    try:
        convert_checkpoint(source, output, vision_config=vision_config, dtype=dtype, skip_tokenizer=skip_tokenizer)
    except (OSError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
