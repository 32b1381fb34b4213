# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What lmms-eval's entry-point group `lmms_eval.models` finds: the name of our model there, and its class."""

from lmms_eval.models.registry_v2 import ModelManifest


MANIFEST = ModelManifest(
    model_id="llava_uhd_v2", chat_class_path="llava_uhd_v2_hf.evaluation.lmms_eval_model.LlavaUhdV2ForLmmsEval"
)

__all__ = ["MANIFEST"]
