# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Cuts this folder's fixtures out of a full set of recordings with the same layout.

    python tests/golden/make_subset.py FULL_FOLDER

Every file keeps its name and its form, so a test reads the subset and the full set with the same code. Where parts of
an image are left out the rest is numbered anew, in the tensor names and in the JSON file alike.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


HERE = Path(__file__).parent

SLICING_STEP = 7  # coprime to the 300 image sizes of each setting, so that the settings keep different sizes
WINDOWS_STEP = 9
WINDOWS_WITH_BOXES = 4
ROI_MAPS = ("5x9", "17x33", "48x48")
PIXEL_IMAGES = ("gray", "rgba", "palette")
NORMALISED = ("palette_overview",)
JBU_CASES = (("2x", "guidance_u8_17x33"), ("8x", "guidance_u8_17x33"))
HIWIN_PARTS = ((0, 5), (1, 0))  # (image, part): a slice of 17x15 patches and an overview of 20x28
HIWIN_QUERIES = (65, 143)
VIT_IMAGES = (0, 3)  # of set 0: 23x25 and 5x40 patches
KEYS = ("keys_vicuna7b.json", "keys_qwen2_7b.json", "keys_vicuna13b.json")
VDIM_LEFT_OUT = "downsampler_square"
BASELINES = ("v1", "mlp_v2", "mlp144", "perceiver")
BASELINE_SIZE = "13x20"
E2E_MODEL = "c_llama"
E2E_CASES = ("no_slices", "batch")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def write_json(values: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n")


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def copy(source: Path, name: str) -> None:
    target = HERE / name
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if (source / name).is_dir() else shutil.copyfile)(source / name, target)


def cut_geometry(source: Path) -> None:
    lines = (source / "slicing.jsonl").read_text().splitlines(keepends=True)
    (HERE / "slicing.jsonl").write_text("".join(lines[::SLICING_STEP]))
    lines = (source / "windows.jsonl").read_text().splitlines(keepends=True)
    with_boxes = [line for line in lines if '"boxes"' in line]
    without_boxes = [line for line in lines if '"boxes"' not in line]
    (HERE / "windows.jsonl").write_text("".join(with_boxes[:WINDOWS_WITH_BOXES] + without_boxes[::WINDOWS_STEP]))
    pooled = load_file(source / "roi.safetensors")
    write_tensors(
        {name: pooled[name] for size in ROI_MAPS for name in (f"input_{size}", f"output_{size}")},
        HERE / "roi.safetensors",
    )


def cut_pixels(source: Path) -> None:
    manifest = read_json(source / "pixels/manifest.json")
    manifest["images"] = [image for image in manifest["images"] if image["name"] in PIXEL_IMAGES]
    for image in manifest["images"]:
        image["normalised"] = [name for name in image["normalised"] if name in NORMALISED]
        for name in [image["file"], image["overview"], *image["slices"]]:
            copy(source, f"pixels/{name}")
    write_json(manifest, HERE / "pixels/manifest.json")
    normalised = load_file(source / "pixels/normalised.safetensors")
    write_tensors({name: normalised[name] for name in NORMALISED}, HERE / "pixels/normalised.safetensors")


def cut_upsampler(source: Path) -> None:
    facts, tensors = read_json(source / "jbu.json"), load_file(source / "jbu.safetensors")
    facts["cases"] = [case for case in facts["cases"] if (case["stack"], case["guidance"]) in JBU_CASES]
    prefixes = [gradient["prefix"] + "." for gradient in facts["gradients"]]
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(prefixes))}
    guidances = {name for name in facts["image_files"] if name.startswith(tuple(prefixes))}
    for case in facts["cases"]:
        size = case["guidance"].removeprefix("guidance_u8_")
        kept |= {name: tensors[name] for name in tensors if name.startswith(f"{case['stack']}.weights.")}
        kept |= {
            f"{case['stack']}.{name}_{size}": tensors[f"{case['stack']}.{name}_{size}"] for name in case["outputs"]
        }
        kept[f"{case['stack']}.source_{size}"] = tensors[f"{case['stack']}.source_{size}"]
        guidances.add(case["guidance"])
    facts["image_files"] = {name: files for name, files in facts["image_files"].items() if name in guidances}
    for files in facts["image_files"].values():
        for file in files:
            copy(source, file)
    write_json(facts, HERE / "jbu.json")
    write_tensors(kept, HERE / "jbu.safetensors")


def cut_window_attention(source: Path) -> None:
    facts, tensors = read_json(source / "hiwin.json"), load_file(source / "hiwin.safetensors")
    flat = [(image, part) for image, parts in enumerate(facts["layout"]) for part in range(len(parts))]
    images = sorted({image for image, _ in HIWIN_PARTS})
    renamed = {}  # (image, part) of the full set -> (image, part) here
    for new_image, image in enumerate(images):
        parts = [part for other, part in HIWIN_PARTS if other == image]
        renamed |= {(image, part): (new_image, new_part) for new_part, part in enumerate(parts)}

    image_files, kept = {}, {}
    for index, key in enumerate(HIWIN_PARTS):
        old_index = flat.index(key)
        image_files[f"image_u8_{index}"] = facts["image_files"][f"image_u8_{old_index}"]
        copy(source, image_files[f"image_u8_{index}"][0])
    queries = [facts["keys_values_query_indices"].index(query) for query in HIWIN_QUERIES]
    longest = max(h * w for h, w in (facts["layout"][image][part] for image, part in HIWIN_PARTS))
    kept["features_padded"] = tensors["features_padded"][[flat.index(key) for key in HIWIN_PARTS], :longest]
    for case in facts["cases"]:
        mask = case["mask"]
        case["outputs"] = [[] for _ in images]
        for (image, part), (new_image, new_part) in renamed.items():
            name = f"mask{mask}.out_{new_image}_{new_part}"
            case["outputs"][new_image].append(name)
            kept[name] = tensors[f"mask{mask}.out_{image}_{part}"]
        for kind in ("keys_last", "values_last"):
            kept[f"mask{mask}.{kind}"] = tensors[f"mask{mask}.{kind}"][queries]
    facts["layout"] = [
        [facts["layout"][image][part] for other, part in HIWIN_PARTS if other == image] for image in images
    ]
    facts["num_images"] = [len(parts) for parts in facts["layout"]]
    facts["keys_values_query_indices"] = list(HIWIN_QUERIES)
    facts["image_files"] = image_files
    write_json(facts, HERE / "hiwin.json")
    write_tensors(kept, HERE / "hiwin.safetensors")
    copy(source, "hiwin_weights.safetensors")


def cut_tower(source: Path) -> None:
    facts, tensors = read_json(source / "vit.json"), load_file(source / "vit.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    image_files = {}
    for new, old in enumerate(VIT_IMAGES):
        image_files[f"set0.image_u8_{new}"] = facts["image_files"][f"set0.image_u8_{old}"]
        copy(source, image_files[f"set0.image_u8_{new}"][0])
        for kind in ("features", "embeddings"):
            if f"set0.{kind}_{old}" in tensors:
                kept[f"set0.{kind}_{new}"] = tensors[f"set0.{kind}_{old}"]
    recorded = facts["sets"][0]
    facts["sets"] = [
        {
            "patch_grids_hw": [recorded["patch_grids_hw"][old] for old in VIT_IMAGES],
            "images": list(image_files),
            "features": [f"set0.features_{new}" for new in range(len(VIT_IMAGES))],
        }
    ]
    facts["image_files"] = image_files
    write_json(facts, HERE / "vit.json")
    write_tensors(kept, HERE / "vit.safetensors")


def cut_upsampler_training(source: Path) -> None:
    facts, tensors = read_json(source / "vdim.json"), load_file(source / "vdim.safetensors")
    del facts[VDIM_LEFT_OUT]
    for files in facts["image_files"].values():
        for file in files:
            copy(source, file)
    write_json(facts, HERE / "vdim.json")
    write_tensors(
        {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{VDIM_LEFT_OUT}.")},
        HERE / "vdim.safetensors",
    )


def cut_baselines(source: Path) -> None:
    facts, tensors = read_json(source / "baselines.json"), load_file(source / "baselines.safetensors")
    facts["cases"] = [
        case for case in facts["cases"] if case["module"] in BASELINES and case["output"].endswith(BASELINE_SIZE)
    ]
    outputs = {case["output"] for case in facts["cases"]}
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if (name.startswith("features_") and name.endswith(BASELINE_SIZE))
        or name in outputs
        or (name.partition(".")[0] in BASELINES and ".output_" not in name)
    }
    write_json(facts, HERE / "baselines.json")
    write_tensors(kept, HERE / "baselines.safetensors")


def cut_whole_model(source: Path) -> None:
    folder = f"e2e/{E2E_MODEL}"
    facts, tensors = read_json(source / folder / "outputs.json"), load_file(source / folder / "outputs.safetensors")
    facts["cases"] = [case for case in facts["cases"] if case["name"] in E2E_CASES]
    shown = {sample["image"] for case in facts["cases"] for sample in case["samples"]}
    facts["images"] = {name: image for name, image in facts["images"].items() if name in shown}
    for image in facts["images"].values():
        copy(source, f"{folder}/{image['file']}")
    copy(source, f"{folder}/checkpoint")
    write_json(facts, HERE / folder / "outputs.json")
    write_tensors(
        {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in E2E_CASES},
        HERE / folder / "outputs.safetensors",
    )


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    source = Path(sys.argv[1])
    for path in HERE.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("make_subset.py", "README.md"):
            path.unlink()
    cut_geometry(source)
    cut_pixels(source)
    cut_upsampler(source)
    cut_window_attention(source)
    cut_tower(source)
    cut_upsampler_training(source)
    cut_baselines(source)
    cut_whole_model(source)
    for name in KEYS:
        (HERE / name).write_text(json.dumps(read_json(source / name), separators=(",", ":")) + "\n")
    copy(source, "pre_resize.jsonl")
    copy(source, "prompts.json")
    copy(source, "tokenizers")
    for path in HERE.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main()
