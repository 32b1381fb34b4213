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
    assert "src/llava_uhd_v2_hf/cli/" in paths and len(paths) <= 16
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    local = [link for link in links if not link.startswith("https://")]
    assert "docs/images/slices.png" in local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_every_room_is_in_the_tree():
    package = ROOT / "src/llava_uhd_v2_hf"
    rooms = {f"src/llava_uhd_v2_hf/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert rooms - set(read_tree()) == set()


def test_every_page_of_the_documentation_is_linked():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []
