# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Kinds from outside the package: their source files travel with a checkpoint, or the export says why they can't."""

import importlib
import json
import sys
from functools import partial

import pytest

from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.checkpoint_folder import extension_files, read_checkpoint
from llava_uhd_v2_hf.hub.code import check_code, model_files
from llava_uhd_v2_hf.hub.export import export_checkpoint
from llava_uhd_v2_hf.hub.extensions import Kind, collect_extensions, outside_kinds, portable_source
from llava_uhd_v2_hf.model import registries_llava_uhd_v2 as registries
from tests.support.commands import assert_error, run_cli
from tests.support.hub_process import OWN_CARD


SOURCE = '''\
"""An example: `from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS` stays in this text."""

import torch
from torch import nn

from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS, UPSAMPLERS
if torch:
    from llava_uhd_v2_hf.model.resizing_llava_uhd_v2 import (
        resize,
    )


class Nearest(nn.Module):
    pass


def one_cell(height, width, level, grids):
    return 1, 1


class Outer:
    class Inner:
        pass


UPSAMPLERS["nearest"] = Nearest
POOLING_GRIDS["one"] = one_cell
'''
IMPORT = "from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS\n"


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes and imports modules; afterwards, they and what they registered are gone."""
    for name in ("UPSAMPLERS", "POOLING_GRIDS", "PROJECTORS", "TOWERS"):
        registry = getattr(registries, name)
        copied = registries.Registry(registry.kind, registry.interface, dict(registry))
        monkeypatch.setattr(registries, name, copied)
    known = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "modules")

    def write(text, name="nearest_upsampler"):
        path = (tmp_path / "modules" / name.replace(".", "/")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def name_kinds(folder, **fields):
    """Writes kinds of the projector into a checkpoint's config."""
    config = json.loads((folder / "config.json").read_text())
    config["projector_config"] |= fields
    (folder / "config.json").write_text(json.dumps(config))


def kind_of(value, name="mine", registry="UPSAMPLERS"):
    return Kind("projector_config.upsampler", name, registry, value)


def test_kinds_from_outside_are_found(write_module):
    module = write_module(SOURCE)
    projector = {"upsampler": "nearest", "pooling_grid_rule": "one", "projector_type": "hiwin"}
    config = {"vision_config": {"model_type": "clip_vision_model"}, "projector_config": projector}
    upsampler, rule = outside_kinds(config)
    assert upsampler == Kind("projector_config.upsampler", "nearest", "UPSAMPLERS", module.Nearest)
    assert (rule.registry, rule.value) == ("POOLING_GRIDS", module.one_cell)
    assert outside_kinds({"projector_config": {"upsampler": "vdim"}, "text_config": {"model_type": "llama"}}) == []
    [unknown] = outside_kinds({"vision_config": {"model_type": "unknown"}})
    assert unknown == Kind("vision_config.model_type", "unknown", "TOWERS", None)
    registries.POOLING_GRIDS["selective"]  # a kind of the package that was imported
    assert outside_kinds({"projector_config": {"pooling_grid_rule": "selective"}}) == []


def test_an_export_takes_source_files_along(checkpoint, tmp_path, write_module):
    write_module(SOURCE)
    name_kinds(checkpoint, upsampler="nearest", pooling_grid_rule="one")
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    expected = SOURCE.replace("    from llava_uhd_v2_hf.model.", "    from .").replace(
        "\nfrom llava_uhd_v2_hf.model.", "\nfrom ."
    )
    assert (checkpoint / "nearest_upsampler.py").read_text() == expected
    lines = (checkpoint / "extensions_llava_uhd_v2.py").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith('"""')] == [
        "from .nearest_upsampler import Nearest",
        "from .nearest_upsampler import one_cell",
        "from .registries_llava_uhd_v2 import UPSAMPLERS",
        "from .registries_llava_uhd_v2 import POOLING_GRIDS",
        "UPSAMPLERS['nearest'] = Nearest",
        "POOLING_GRIDS['one'] = one_cell",
        "EXTENSIONS = (Nearest, one_cell,)",
    ]

    found = read_checkpoint(checkpoint)
    assert found.extensions == ["nearest_upsampler.py"]
    assert {"nearest_upsampler.py", *model_files()} <= found.files.keys() and found.left_out == []
    listed = run_cli("push", checkpoint, "org/name", *OWN_CARD, "--dry-run").stdout
    assert " nearest_upsampler.py\n" in listed
    export_checkpoint(checkpoint, tmp_path / "copy", CardRequest(), with_code=False)
    assert (tmp_path / "copy/nearest_upsampler.py").read_text() == expected

    (checkpoint / "nearest_upsampler.py").unlink()
    with pytest.raises(ValueError, match="names code that is not there: nearest_upsampler.py"):
        check_code(read_checkpoint(checkpoint))


def test_code_of_a_folder_stays_where_a_kind_is_not_registered(checkpoint, write_module):
    write_module(SOURCE)
    name_kinds(checkpoint, upsampler="nearest")
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    before = {path.name: path.read_bytes() for path in checkpoint.glob("*.py")}
    del registries.UPSAMPLERS["nearest"]
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    assert {path.name: path.read_bytes() for path in checkpoint.glob("*.py")} == before

    (checkpoint / "extensions_llava_uhd_v2.py").unlink()
    (checkpoint / "nearest_upsampler.py").unlink()
    words = ("config.json", "projector_config.upsampler `nearest`", "not registered", "import the module")
    assert_error(run_cli("export", checkpoint, "--with-code"), *words)


def test_code_that_is_no_longer_needed_is_removed(checkpoint, write_module):
    write_module(SOURCE)
    name_kinds(checkpoint, upsampler="nearest")
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    name_kinds(checkpoint, upsampler="vdim")
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    found = read_checkpoint(checkpoint)
    assert found.extensions == found.left_out == []


@pytest.mark.parametrize(
    "line",
    [
        "import llava_uhd_v2_hf",
        "import os, llava_uhd_v2_hf.model.geometry_llava_uhd_v2 as geometry",
        "from llava_uhd_v2_hf import LlavaUhdV2Config",
        "from llava_uhd_v2_hf.model import registries_llava_uhd_v2",
        "from llava_uhd_v2_hf.model.unknown import Name",
        "from llava_uhd_v2_hf.utils.units import describe_bytes",
        "from .layers import Layer",
        "from . import layers",
        f"import os; {IMPORT.strip()}",
        "from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 \\\n    import plan_slices",
    ],
)
def test_imports_that_do_not_travel(tmp_path, line):
    path = tmp_path / "mine.py"
    path.write_text(f"import torch\n{IMPORT}\n{line}\n")
    with pytest.raises(ValueError) as error:
        portable_source(path, model_files())
    message = str(error.value)
    assert f"{path}, line 4: expected" in message and f"got `{line.splitlines()[0]}`" in message
    assert "`from llava_uhd_v2_hf.model.<module> import <name>`" in message and "\n" not in message


def test_modules_that_can_not_travel(write_module, tmp_path):
    text = f"{IMPORT}class Mine:\n    class Inner:\n        pass\n"
    collect = partial(collect_extensions, reserved=model_files())
    first = write_module(text, "first.mine").Mine
    assert "class Mine" in collect([kind_of(first)])["mine.py"]
    other, third = write_module(text, "second.mine").Mine, write_module(text, "third").Mine
    ours = write_module(text, "kinds.geometry_llava_uhd_v2").Mine
    main = type("Mine", (), {"__module__": "__main__"})
    built = type("Mine", (), {"__module__": "math"})
    keyword = write_module(text, "kinds.class").Mine
    for kinds, words in [
        ([kind_of(first), kind_of(other, "other")], "another mine.py"),
        ([kind_of(first), kind_of(third, "third")], "Several kinds from outside are named Mine"),
        ([kind_of(ours)], "another geometry_llava_uhd_v2.py"),
        ([kind_of(main)], "expected a module in a .py file of its own, got `__main__`"),
        ([kind_of(built)], "expected a module in a .py file of its own, got `math`"),
        ([kind_of(keyword)], "got `kinds.class`"),
        ([kind_of(first.Inner)], "at the top level of .*mine.py, got `Mine.Inner`"),
        ([kind_of(partial(print))], "expected a class or function at the top level of .*functools.partial"),
    ]:
        with pytest.raises(ValueError, match=words):
            collect(kinds)


def test_a_folders_extensions_are_read_and_not_run(tmp_path):
    path = tmp_path / "extensions_llava_uhd_v2.py"
    path.write_text("from .a import A\nfrom .registries_llava_uhd_v2 import UPSAMPLERS\nraise SystemExit\n")
    assert extension_files(path) == ["a.py"]
    assert extension_files(model_files()["extensions_llava_uhd_v2.py"]) == []
    path.write_text("from .a import\n")
    with pytest.raises(ValueError, match="extensions_llava_uhd_v2.py is not valid Python"):
        extension_files(path)
