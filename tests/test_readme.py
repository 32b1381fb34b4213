# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import re

from PIL import Image

from tests.support.paths import ROOT


def read_blocks(language):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def read_tree():
    """The paths of the file tree, from the indentation of its lines."""
    parents = []
    for line in read_blocks("")[0].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], name]
        yield "".join(parents)


def test_python_snippet_runs_as_printed(converted_checkpoint, tmp_path, monkeypatch, capsys):
    [snippet] = read_blocks("python")
    assert len(snippet.splitlines()) <= 12
    (tmp_path / "llava-uhd-v2-vicuna-7b").symlink_to(converted_checkpoint)
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)

    exec(snippet, namespace := {})  # noqa: S102
    assert 1 <= len(namespace["answer"]) <= 64
    assert capsys.readouterr().out.endswith("\n")


def test_every_path_of_the_tree_exists():
    paths = list(read_tree())
    assert "src/llava_uhd_v2_hf/cli/app.py" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    local = [link for link in links if not link.startswith("https://")]
    assert "docs/images/slices.png" in local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_modules_of_the_package_are_in_the_tree():
    modules = {f"src/llava_uhd_v2_hf/{path.name}" for path in (ROOT / "src/llava_uhd_v2_hf").glob("*_llava_uhd_v2.py")}
    assert modules - set(read_tree()) == set()
