# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The command `llava-uhd-v2 convert-lora` as a script."""

import typer

from llava_uhd_v2_hf.cli.conversion import convert_lora


if __name__ == "__main__":
    typer.run(convert_lora)
