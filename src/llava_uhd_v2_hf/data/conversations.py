# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""One record of a data set -> a conversation in transformers' form, checked."""

from collections.abc import Mapping
from typing import Any


IMAGE_MARK = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def read_conversation(record: Mapping[str, Any], prompt: str | None = None) -> dict[str, list[Any]]:
    """The messages and images of a record.

    Args:
        record: LLaVA's, with `conversations` of `from` and `value`, or a chat, with `messages` of `role` and
            `content` (a string, or a list of text and image entries); `image` or `images` beside them, one or a list.
            `<image>` in a string marks the place of an image; the only one of a message is moved to its front
            (released code).
        prompt: response-format prompt for the first question.

    Returns:
        `messages` and `images`, as transformers' processors and TRL take them.

    Raises:
        ValueError: naming the field, if it has a value that can't be used, user and assistant don't take turns, the
            last word is not the assistant's, or marks and images differ in number.
    """
    turns, field = _turns(record)
    messages: list[dict[str, Any]] = []
    images: list[Any] = []
    for number, turn in enumerate(turns):
        message, own_images = _read_turn(turn, f"`{field}[{number}]`")
        messages.append(message)
        images += own_images
    _check_order([message["role"] for message in messages], field)
    images = _all_images(record, images)
    marks = sum(_count_marks(message["content"]) for message in messages)
    if marks != len(images):
        raise ValueError(f"`{field}` has {marks} `{IMAGE_MARK}` marks and there are {len(images)} images.")
    if prompt is not None:
        _add_prompt(next(message for message in messages if message["role"] == "user"), prompt)
    return {"messages": messages, "images": images}


def _turns(record: Mapping[str, Any]) -> tuple[list[Any], str]:
    if not isinstance(record, Mapping):
        raise ValueError(f"the record is a {type(record).__name__}; it must be an object with `conversations`.")
    for field in ("conversations", "messages"):
        turns = record.get(field)
        if isinstance(turns, list) and turns:
            return turns, field
        if turns is not None:
            raise ValueError(f"`{field}` must be a list of turns, got {_shown(turns)}.")
    raise ValueError(f"the record has no `conversations` and no `messages`; it has {', '.join(map(str, record))}.")


def _read_turn(turn: Any, name: str) -> tuple[dict[str, Any], list[Any]]:
    """A message, and the images that stand in its own content."""
    if not isinstance(turn, Mapping):
        raise ValueError(f"{name} must be an object with `from` and `value`, got {_shown(turn)}.")
    is_llava = "from" in turn
    speaker = turn.get("from" if is_llava else "role")
    content = turn.get("value" if is_llava else "content")
    if not isinstance(speaker, str) or speaker not in ROLES:
        raise ValueError(f"{name} is from {_shown(speaker)}; use {', '.join(ROLES)}.")
    if isinstance(content, list) and content:
        content, images = _read_entries(content, name)
    elif isinstance(content, str) and content.strip():
        content, images = _image_first(content), []
    else:
        raise ValueError(f"{name} says nothing: its text must be a string that is not empty, got {_shown(content)}.")
    return {"role": ROLES[speaker], "content": content}, images


def _read_entries(content: list[Any], name: str) -> tuple[list[dict[str, Any]], list[Any]]:
    entries, images = [], []
    for entry in content:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if kind == "text" and isinstance(entry.get("text"), str):
            entries.append({"type": "text", "text": entry["text"]})
        elif kind == "image":
            entries.append({"type": "image"})
            images += [entry[key] for key in ("image", "url", "path") if entry.get(key) is not None][:1]
        else:
            raise ValueError(f"{name} has an entry that is neither text nor an image: {_shown(entry)}.")
    return entries, images


def _image_first(text: str) -> str:
    if text.count(IMAGE_MARK) != 1 or text.startswith(IMAGE_MARK):
        return text
    return f"{IMAGE_MARK}\n{text.replace(IMAGE_MARK, '').strip()}".strip()


def _check_order(roles: list[str], field: str) -> None:
    start = 1 if roles[0] == "system" else 0
    for number, role in enumerate(roles[start:], start=start):
        wanted = "assistant" if (number - start) % 2 else "user"
        if role != wanted:
            raise ValueError(f"`{field}[{number}]`: expected role '{wanted}', got '{role}': roles must alternate.")
    if roles[-1] != "assistant":
        raise ValueError(f"`{field}` ends with the {roles[-1]}; the last turn must be the assistant's.")


def _all_images(record: Mapping[str, Any], own_images: list[Any]) -> list[Any]:
    """The images of a record, from the one place that has them."""
    found = [own_images] if own_images else []
    for field in ("image", "images"):
        value = record.get(field)
        if value is not None and value != []:
            found.append(value if isinstance(value, list) else [value])
    if len(found) > 1:
        raise ValueError("the images are given twice; keep one of `image`, `images` and those in the messages.")
    images = found[0] if found else []
    if any(image is None or image == "" for image in images):
        raise ValueError("`image` has an empty name; leave the field out of a record without images.")
    return images


def _count_marks(content: str | list[dict[str, Any]]) -> int:
    if isinstance(content, str):
        return content.count(IMAGE_MARK)
    return sum(1 if entry["type"] == "image" else entry["text"].count(IMAGE_MARK) for entry in content)


def _add_prompt(message: dict[str, Any], prompt: str) -> None:
    content = message["content"]
    if isinstance(content, str):
        if not content.rstrip().endswith(prompt):
            message["content"] = f"{content.rstrip()}\n{prompt}"
    elif not any(entry["type"] == "text" and entry["text"].rstrip().endswith(prompt) for entry in content):
        content.append({"type": "text", "text": f"\n{prompt}"})


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


__all__ = ["read_conversation"]
