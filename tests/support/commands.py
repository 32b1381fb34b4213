# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The commands in this process, and their errors."""

from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app


def run_cli(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_error(result, *words):
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr
