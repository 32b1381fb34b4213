# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
from llava_uhd_v2_hf.conversion.lora import app


if __name__ == "__main__":
    app()
