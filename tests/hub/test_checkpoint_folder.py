# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Complete checkpoint folders: missing files, damaged weights, other models."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file

from llava_uhd_v2_hf.hub.checkpoint_folder import read_checkpoint
from tests.support.commands import assert_error, run_cli


def test_complete_checkpoint(checkpoint):
    (checkpoint / "optimizer.pt").write_bytes(b"pickle")
    (checkpoint / "checkpoint-500").mkdir()
    (checkpoint / "checkpoint-500/modeling_llava_uhd_v2.py").write_text("")
    found = read_checkpoint(checkpoint)
    assert list(found.weights) == ["model.safetensors"]
    assert {"config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json"} < set(found.files)
    assert found.left_out == ["checkpoint-500", "optimizer.pt"]
    assert not found.has_code


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ],
)
def test_missing_files_are_named(checkpoint, name):
    (checkpoint / "tokenizer.model").unlink()  # with which alone it would be complete
    (checkpoint / name).unlink()
    assert_error(run_cli("export", checkpoint), "not complete", name)


def test_all_missing_files_are_named_at_once(tmp_path):
    result = run_cli("push", tmp_path, "org/name")
    assert_error(result, "config.json", "generation_config.json", "tokenizer", "model.safetensors")


def test_pickles_are_no_weights(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert_error(run_cli("push", checkpoint, "org/name"), "model.safetensors", "pytorch_model.bin won't do")


def test_cut_weights_are_refused(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert_error(run_cli("export", checkpoint), weights, "not whole")


def test_lost_shards_and_tensors_are_refused(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    first = sorted(tensors)[0]
    weight_map = dict.fromkeys(tensors, "model-00002-of-00002.safetensors") | {
        first: "model-00001-of-00002.safetensors"
    }
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file(tensors, checkpoint / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match="Missing: model-00001-of-00002.safetensors"):
        read_checkpoint(checkpoint)
    second = sorted(tensors)[1]
    save_file({second: tensors[second]}, checkpoint / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=f"00001-of-00002.safetensors has no `{re.escape(first)}`"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/tmp/evil.safetensors", "a/b.safetensors", "..", "", 5, None]
)
def test_an_index_names_files_of_its_folder_alone(checkpoint, tmp_path, name):
    (checkpoint / "model.safetensors").rename(tmp_path / "evil.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    before = sorted(tmp_path.rglob("*"))
    for command in (["export", checkpoint, "--out", tmp_path / "copy"], ["push", checkpoint, "org/name", "--dry-run"]):
        assert_error(run_cli(*command), "Expected names of files without folders", repr(name))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "recipe.yaml", "config.json", "model.safetensors"])
def test_links_out_of_the_folder_are_refused(checkpoint, tmp_path, name):
    secret = tmp_path / "secret"
    if (checkpoint / name).exists():
        (checkpoint / name).rename(secret)
    else:
        secret.write_text("secret")
    (checkpoint / name).symlink_to(secret)
    for command in (["export", checkpoint, "--out", tmp_path / "copy"], ["push", checkpoint, "org/name", "--dry-run"]):
        assert_error(run_cli(*command), f"{name} is a link to {secret}")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("name", "target"), [("LICENSE", ".env"), ("picture.png", "notes.txt")])
def test_links_to_what_is_not_published_are_refused(checkpoint, name, target):
    (checkpoint / target).write_text("secret")
    (checkpoint / name).symlink_to(target)
    (checkpoint / "README.md").write_text("![](picture.png)")
    assert_error(run_cli("push", checkpoint, "org/name", "--dry-run"), f"{name} is a link to {target}")
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to("config.json")
    assert name in read_checkpoint(checkpoint).files


SECRETS = [
    *(
        "LICENSE.env",
        "LICENSE_KEY",
        "NOTICE.pem",
        "licenses/LICENSE",
        ".env",
        ".LICENSE",
        "token.json",
        "config.json.bak",
    ),
    *("chat_templates/.secret.jinja", ".keys_llava_uhd_v2.py", "id_rsa", "training_args.bin"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_other_files_stay(checkpoint, name):
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("secret")
    found = read_checkpoint(checkpoint)
    assert name not in found.files and name.partition("/")[0] in found.left_out


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt", "recipe.yaml"])
def test_licences_and_recipes_are_published(checkpoint, name):
    (checkpoint / name).write_text("text")
    assert name in read_checkpoint(checkpoint).files


LINKS = ["[a]({})", "![a]({})", "![a](./{})", '[a]({} "title")', "[a](<{}>)", '<img src="{}">', "<a href='{}'>a</a>"]


@pytest.mark.parametrize("link", LINKS)
def test_of_what_a_card_links_pictures_are_published(checkpoint, link):
    pictures = ["losses.png", "pictures/A.JPEG", "a.webp"]
    others = ["credentials.json", "notes.md", "table.csv", ".env", ".hidden/a.png", ".secret.png"]
    for name in (*pictures, *others, "unlinked.png"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("content")
    names = [*pictures, *others, "../outside.png", "/etc/a.png", "https://host/b.png", "gone.png"]
    (checkpoint / "README.md").write_text("\n".join(link.format(name) for name in names))
    found = read_checkpoint(checkpoint)
    assert set(pictures) < set(found.files) and not {*others, "unlinked.png"} & set(found.files)
    assert found.linked == sorted(others)
    assert "credentials.json" in read_checkpoint(checkpoint, ["./credentials.json"]).files


def test_links_of_a_snapshot_in_the_cache_are_followed(checkpoint, tmp_path):
    blobs, snapshot = (tmp_path / "models--org--name" / name for name in ("blobs", "snapshots/0a1b"))
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert "model.safetensors" in read_checkpoint(snapshot).weights


def test_other_models_are_refused(checkpoint):
    (checkpoint / "config.json").write_text('{"model_type": "llava"}')
    assert_error(run_cli("export", checkpoint), "`llava`", "`llava_uhd_v2`")


def test_folder_that_is_not_there(tmp_path):
    assert_error(run_cli("export", tmp_path / "none"), tmp_path / "none")
