# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Loads a checkpoint through all five Auto classes, in a process of its own, and saves what they compute.

    python tests/support/auto_classes.py (package | code) MODEL OUTPUT.safetensors [EXTENSION ...]

`package` registers our classes, and imports modules with extensions; `code` refuses to find them and takes the
checkpoint's own code. MODEL is a folder or a Hub id. The weights are read as float32.
"""

import importlib
import importlib.util
import sys

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor


torch.set_num_threads(1)
source, name, output, *extensions = sys.argv[1:]
if source == "package":
    import llava_uhd_v2_hf  # noqa: F401

    for extension in extensions:
        importlib.import_module(extension)
    options = {}
elif importlib.util.find_spec("llava_uhd_v2_hf"):
    sys.exit("llava_uhd_v2_hf can be imported; install it in the editable way for this test.")
else:
    options = {"trust_remote_code": True}

config = AutoConfig.from_pretrained(name, **options)
base = AutoModel.from_pretrained(name, dtype=torch.float32, **options)
model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32, **options)
image_processor = AutoImageProcessor.from_pretrained(name, **options)
processor = AutoProcessor.from_pretrained(name, **options)
parts = {
    "configuration": config,
    "modeling": base,
    "image_processing": image_processor,
    "processing": processor,
}
for module, part in parts.items():
    place = type(part).__module__
    assert place.endswith(f".{module}_llava_uhd_v2"), place
    assert place.startswith("llava_uhd_v2_hf." if source == "package" else "transformers_modules."), place
assert type(base).__name__ == "LlavaUhdV2Model"
assert type(model).__name__ == "LlavaUhdV2ForConditionalGeneration"
assert type(processor.image_processor).__module__ == type(image_processor).__module__

image = Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB")
content = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
assert torch.equal(image_processor(image, return_tensors="pt")["pixel_values"], inputs["pixel_values"])
with torch.no_grad():
    results = {
        "hidden": base(**inputs).last_hidden_state,
        "logits": model(**inputs).logits,
        "answer": model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :],
    }
save_file({key: value.contiguous() for key, value in results.items()}, output)
