# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A server of OpenAI's chat completions for one model; needs the extra `serve`."""
