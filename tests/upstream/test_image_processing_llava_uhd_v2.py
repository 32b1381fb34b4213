# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common image processor tests, run against ours."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor
from tests.upstream.transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
)


pytestmark = pytest.mark.slow


class LlavaUhdV2ImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        super().__init__(parent, batch_size=3, max_resolution=120, max_slices=4, slice_resolution=56, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": LlavaUhdV2ImageProcessor}

    def expected_output_image_shape(self, images):
        """(p_max, 3 * patch * patch): the patches of all views of the image that has the most."""
        processor = LlavaUhdV2ImageProcessor(**self.prepare_image_processor_dict())
        sizes = []
        for image in images:
            if isinstance(image, Image.Image):
                sizes.append(image.size[::-1])
            elif isinstance(image, np.ndarray):
                sizes.append(image.shape[:2])
            else:
                sizes.append(image.shape[1:])
        return max(processor.get_number_of_image_patches(*size) for size in sizes), 3 * processor.patch_size**2


class LlavaUhdV2ImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = LlavaUhdV2ImageProcessingTester
    test_cast_dtype = True

    def setUp(self):
        """Python imports our package at its start, which the scripts that some tests run don't."""
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        Path(folder, "sitecustomize.py").write_text("import llava_uhd_v2_hf")
        search_path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.enterContext(patch.dict(os.environ, PYTHONPATH=search_path))
