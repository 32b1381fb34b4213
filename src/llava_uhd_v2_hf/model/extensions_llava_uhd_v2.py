# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Kinds from outside that a checkpoint needs. Empty in the package; an export with code names them here."""

EXTENSIONS: tuple[object, ...] = ()
