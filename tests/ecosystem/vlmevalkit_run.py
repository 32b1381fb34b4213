# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs VLMEvalKit's inference on a data set of files with our model, and scores it.

python tests/ecosystem/vlmevalkit_run.py FOLDER DATA_SET MODEL_ARGUMENTS

VLMEvalKit's modules for data sets, models and inference are its own. Only its packages' `__init__`, which import
hundreds of models and data sets, and with them torchvision and more, are left out: they are empty here.
"""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType


def leave_out_inits(*names):
    root = Path(importlib.util.find_spec("vlmeval").origin).parent
    for name in names:
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package


def read_data_set(name):
    """A table of $LMUData as a data set: of open questions, or of questions with options."""
    from vlmeval.dataset.image_mcq import CustomMCQDataset
    from vlmeval.dataset.image_vqa import CustomVQADataset, ImageVQADataset

    class OpenQuestions(ImageVQADataset):
        load_data = CustomVQADataset.load_data

    return OpenQuestions(name) if "openended" in name else CustomMCQDataset(name)


def main(folder, name, arguments):
    leave_out_inits("vlmeval", "vlmeval.dataset", "vlmeval.vlm")
    data_set = read_data_set(name)
    sys.modules["vlmeval.dataset"].DATASET_TYPE = lambda name: data_set.TYPE
    from vlmeval.smp import load
    from vlmeval.vlm.base import BaseModel

    from llava_uhd_v2_hf.evaluation.vlmevalkit import LlavaUhdV2ForVLMEvalKit

    assert issubclass(LlavaUhdV2ForVLMEvalKit, BaseModel)
    sys.modules["vlmeval.config"] = config = ModuleType("vlmeval.config")
    config.supported_VLM = {"llava-uhd-v2": partial(LlavaUhdV2ForVLMEvalKit, **json.loads(arguments))}
    from vlmeval.inference import infer_data_job

    infer_data_job("llava-uhd-v2", folder, "llava-uhd-v2", data_set)
    [answers] = map(str, Path(folder).glob(f"llava-uhd-v2_{name}.*"))
    score = data_set.evaluate(answers)["Overall"].item() if data_set.TYPE == "VQA" else None
    print(json.dumps({"answers": list(load(answers)["prediction"]), "score": score}))


if __name__ == "__main__":
    main(*sys.argv[1:])
