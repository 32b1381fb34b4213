# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Converts a tiny checkpoint with random weights and asks it about a photograph. `make demo` runs it.

    python examples/demo.py

It shows the two commands you would use with a released checkpoint, on one of 2 MB that comes with the tests. The
folder build/demo is removed first and holds everything afterwards.
"""

import gzip
import shlex
import shutil
import subprocess
from pathlib import Path

from PIL import Image
from safetensors.torch import load, save_file
from skimage import data


ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
RECORDED = GOLDEN / "e2e/c_llama/checkpoint"
WORDS = slice(260, 520)  # the toy tokenizer's word pieces; before them come special tokens and single bytes


def write_source(folder: Path) -> None:
    """A checkpoint folder as the authors' code saves it, with a toy tokenizer."""
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", folder)
    for name in ("config.json", "generation_config.json"):
        shutil.copyfile(RECORDED / name, folder / name)
    weights = load(gzip.decompress((RECORDED / "model.safetensors.gz").read_bytes()))
    # The recorded model knows a few hundred scattered ids: their rows become the words of the toy tokenizer.
    count = WORDS.stop - WORDS.start
    for name, rows in (("model.embed_tokens.weight", slice(count)), ("lm_head.weight", slice(-count, None))):
        known = weights[name][weights[name].any(dim=1)][rows]
        weights[name].zero_()
        weights[name][WORDS] = known
    save_file(weights, folder / "model.safetensors")


def show_and_run(command: str) -> None:
    print(f"\n$ {command}", flush=True)
    subprocess.run(shlex.split(command), cwd=ROOT, check=True)


def main() -> None:
    folder = Path("build/demo")
    shutil.rmtree(ROOT / folder, ignore_errors=True)
    write_source(ROOT / folder / "source")
    Image.fromarray(data.astronaut()).save(ROOT / folder / "astronaut.png")

    vision_config = (RECORDED / "vision_tower_config.json").relative_to(ROOT)
    show_and_run(
        f"python convert/convert_checkpoint.py {folder}/source {folder}/model --vision-config {vision_config}"
    )
    show_and_run(
        f"llava-uhd-v2 ask 'Who is this?' --model {folder}/model --image {folder}/astronaut.png --max-new-tokens 24"
    )
    print("\nThe weights are random, so the words are noise. With a converted release they are an answer.")


if __name__ == "__main__":
    main()
