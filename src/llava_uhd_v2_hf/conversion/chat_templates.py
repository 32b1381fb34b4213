# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Chat template of a new checkpoint: that of its language model, with images and marks around what is trained on.

The language model's template is not analysed but run, inside a template of ours. Contents become strings, in which
`<image>` marks an image. Each answer is passed on between two characters that no text has, which say where it came out
and are removed there; `{% generation %}` then marks the answer from where generation begins to its end token. The
tracker of transformers needs these marks outside macros, so they can't stand in the language model's own source.

A template is taken only after its prompts were compared with those of the language model.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ..model.chat_templates_llava_uhd_v2 import (
    PLAIN_TEMPLATE,
    QWEN_CHATML_TEMPLATE,
    RENDER_MACRO,
    VICUNA_V1_TEMPLATE,
)


NAMED_TEMPLATES = {"vicuna": VICUNA_V1_TEMPLATE, "qwen2": QWEN_CHATML_TEMPLATE, "plain": PLAIN_TEMPLATE}
FALLBACKS = {"llama": "vicuna", "qwen2": "qwen2"}  # by type of the text model
START, END = "\ufdd0", "\ufdd1"  # noncharacters of Unicode
NOWHERE = START  # is in no text between answers

_PREPARE = (
    RENDER_MACRO
    + """\
{%- set prepared = namespace(messages=[], marked=[], answers=0) -%}
{%- for message in messages -%}
    {%- set entry = dict(message, content=render(message.content)) if message.content is defined else message -%}
    {%- set prepared.messages = prepared.messages + [entry] -%}
    {%- if message.role == "assistant" and message.content is defined -%}
        {%- set text = entry.content.strip() -%}
        {%- set parts = [entry.content, ""] if text == "" else entry.content.split(text, 1) -%}
        {%- set text = parts[0] ~ "\\ufdd0" ~ text ~ "\\ufdd1" ~ parts[1] -%}
        {%- set entry = dict(entry, content=text) -%}
        {%- set prepared.answers = prepared.answers + 1 -%}
    {%- endif -%}
    {%- set prepared.marked = prepared.marked + [entry] -%}
{%- endfor -%}
"""
)
# Of the text between two answers, the beginning of the second is what follows the generation prompt; or what always
# stands before an answer, where there is no such prompt.
_RUN = """\
{%- macro language_model_template(messages) %}
@SOURCE@{%+ endmacro -%}
{%- set pieces = language_model_template(prepared.marked).split("\\ufdd0") -%}
{%- set ends = pieces | join("") -%}
{%- if pieces | length == prepared.answers + 1 and ends.split("\\ufdd1") | length == pieces | length -%}
    {%- set answer = namespace(text="") -%}
    {%- for piece in pieces -%}
        {%- if loop.first -%}
            {%- set rest = piece -%}
        {%- else -%}
            {%- set text, rest = piece.split("\\ufdd1") -%}
            {%- set length = rest | length - rest.lstrip() | length + @END@ | length -%}
            {%- set length = length if rest.lstrip().startswith(@END@) else 0 -%}
            {%- generation -%}
                {{- answer.text ~ text ~ rest[:length] -}}
            {%- endgeneration -%}
            {%- set rest = rest[length:] -%}
        {%- endif -%}
        {%- set answer.text = "" -%}
        {%- if not loop.last and @PROMPT@ in rest -%}
            {%- set answer.text = rest.split(@PROMPT@)[-1] -%}
        {%- elif not loop.last and rest.endswith(@BEGIN@) -%}
            {%- set answer.text = @BEGIN@ -%}
        {%- endif -%}
        {{- rest[:rest | length - answer.text | length] -}}
    {%- endfor -%}
{%- else -%}
    {{- language_model_template(prepared.messages) -}}
{%- endif -%}
"""

_SYSTEM = {"role": "system", "content": "Be brief."}
_QUESTION, _ANSWER = {"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two, three."}
_SPACED = [{"role": "user", "content": " Four? "}, {"role": "assistant", "content": "\n  Five\n\nsix. \n"}]
CONVERSATIONS = (
    [_QUESTION],
    [_QUESTION, _ANSWER],
    [_QUESTION, _ANSWER, *_SPACED],
    [*_SPACED, _QUESTION, _ANSWER],
    [*_SPACED, _QUESTION],
    [_SYSTEM, _QUESTION],
    [_SYSTEM, _QUESTION, _ANSWER],
    [_SYSTEM, *_SPACED, _QUESTION, _ANSWER],
)
_IMAGE = [{"type": "image"}, {"type": "text", "text": "One?"}]

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a checkpoint.

    Args:
        source: in Jinja.
        name: `"own"`, `"vicuna"`, `"qwen2"`, `"plain"` or the name of a file.
        reason: why another one than the language model's was taken; empty if nothing is to be said.
    """

    source: str
    name: str
    reason: str = ""


class UnusableTemplateError(ValueError):
    """A chat template that images and marks can't be added to."""


def choose_chat_template(tokenizer: PreTrainedTokenizerBase, model_type: str, choice: str | None) -> ChatTemplate:
    """Returns the chat template of a new checkpoint.

    Args:
        tokenizer: of the language model, with its template if it has one.
        model_type: of the language model.
        choice: `"own"`, the language model's; `"vicuna"`, `"qwen2"` or `"plain"`, the released ones; or a file in
            Jinja. None for the language model's, and where there is none that can be used, the released one for its
            type.

    Raises:
        ValueError: if the chosen template is not there or can't be used, or there is none for this type.
    """
    if choice in NAMED_TEMPLATES:
        return ChatTemplate(NAMED_TEMPLATES[choice], choice)
    if choice not in (None, "own"):
        source, name = _read_file(choice), Path(choice).name
        return ChatTemplate(with_images_and_marks(source, tokenizer, f"The chat template {name}"), name)
    try:
        return ChatTemplate(with_images_and_marks(_own_source(tokenizer), tokenizer), "own")
    except UnusableTemplateError as error:
        fallback = FALLBACKS.get(model_type)
        if choice == "own" or fallback is None:
            raise ValueError(
                f"{error} Choose another with --chat-template {'|'.join(NAMED_TEMPLATES)}|FILE."
            ) from error
        return ChatTemplate(NAMED_TEMPLATES[fallback], fallback, str(error))


def _own_source(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise UnusableTemplateError("The language model's tokenizer has no chat template.")
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise UnusableTemplateError(
            "The language model's tokenizer has several chat templates, none the default."
        ) from error


def _read_file(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"There is no chat template {name}: expected own, {', '.join(NAMED_TEMPLATES)} or a file.")
    return path.read_text(encoding="utf-8")


def with_images_and_marks(
    source: str, tokenizer: PreTrainedTokenizerBase, name: str = "The language model's chat template"
) -> str:
    """Returns a template that makes the prompts of `source`, takes images, and marks answers with their end token.

    Args:
        source: in Jinja.
        tokenizer: with the special tokens that the template writes.
        name: of the template, for messages.

    Raises:
        UnusableTemplateError: if there is no such template, saying what stands in the way.
    """
    problem = ""
    try:
        for candidate in _candidates(source, tokenizer):
            found = find_difference(source, candidate, tokenizer.special_tokens_map)
            if not found:
                return candidate
            problem = problem or found
    except UnusableTemplateError as error:
        problem = problem or str(error)
    raise UnusableTemplateError(f"{name} can't be used: {problem.rstrip('.')}.")


def _candidates(source: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yields the template as it is, where it has marks, then inside ours."""
    if "endgeneration" in source:
        yield source
        source = re.sub(r"{%([-+]?)\s*generation\b", r"{%\1 if true", source)
        source = re.sub(r"{%([-+]?)\s*endgeneration\b", r"{%\1 endif", source)
    values = {f"@{name}@": _literal(text) for name, text in _edges(source, tokenizer).items()}
    run = re.sub("@[A-Z]+@", lambda found: values.get(found[0], found[0]), _RUN)
    yield _PREPARE + run.replace("@SOURCE@", source.removesuffix("\n"))


def _literal(text: str) -> str:
    escaped = text.encode("unicode_escape").decode().replace('"', '\\"')
    return f'"{escaped}"'


def _edges(source: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Returns the generation prompt, what stands between it and an answer, and the token that ends an answer."""
    variables = tokenizer.special_tokens_map
    marked = [_QUESTION, {**_ANSWER, "content": f"{START}Two{END}"}]
    try:
        question = _render(source, [_QUESTION], variables, add_generation_prompt=False)[0]
        prompt = _render(source, [_QUESTION], variables, add_generation_prompt=True)[0]
        whole = _render(source, marked, variables)[0]
    except Exception as error:  # a template can raise any
        raise UnusableTemplateError(str(error)) from error
    head, _, rest = whole.partition(START)
    rest = rest.partition(END)[2].lstrip()
    ends = [token for token in _added_tokens(tokenizer) if rest.startswith(token)]
    if not ends:
        raise UnusableTemplateError(f"expected a token that ends an answer, got {rest!r}")
    begin = head.removeprefix(prompt) if head.startswith(prompt) else ""
    added = prompt.removeprefix(question) if prompt.startswith(question) else ""
    return {"PROMPT": added or NOWHERE, "BEGIN": begin, "END": max(ends, key=len)}


def _render(
    source: str, messages: Messages, variables: Mapping[str, Any], *, mark: bool = False, **values: Any
) -> tuple[str, list[tuple[int, int]]]:
    """Returns a prompt, and the (first, last + 1) characters of what it marks."""
    texts, marks = render_jinja_template(
        [list(messages)], chat_template=source, return_assistant_tokens_mask=mark, **values, **variables
    )
    return texts[0], marks[0] if mark else []


def find_difference(source: str, candidate: str, variables: Mapping[str, Any]) -> str:
    """Compares a template with the one that it was made of, on `CONVERSATIONS`.

    Returns:
        The first difference: of prompts, in the places of images, or of what is marked; empty if there is none.
    """
    for messages, prompting in product(CONVERSATIONS, (False, True)):
        values = {"add_generation_prompt": prompting}
        lists = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        try:
            expected = _render(source, messages, variables, **values)[0]
        except Exception:  # a role or an order that it does not take; `_edges` has tried a question and an answer
            continue
        try:
            found, marks = _render(candidate, messages, variables, mark=True, **values)
            of_lists = _render(candidate, lists, variables, **values)[0]
        except Exception as error:
            return f"{error}"
        for text in (found, of_lists):
            if text != expected:
                return f"with images and marks it makes {text!r}, expected {expected!r}."
        answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
        spans = [found[first:last] for first, last in marks]
        if len(spans) != len(answers) or not all(map(_is_marked, spans, answers)):
            return f"it marks {spans}, expected {answers}, each with its end token."
    return _image_difference(candidate, variables)


def _is_marked(span: str, answer: str) -> bool:
    """Whether a span holds an answer, and behind it an end token."""
    return bool(span.partition(answer)[2].strip())


def _image_difference(candidate: str, variables: Mapping[str, Any]) -> str:
    for content in (_IMAGE, [*_IMAGE, *_IMAGE]):
        expected = sum(entry["type"] == "image" for entry in content)
        try:
            found = _render(candidate, [{"role": "user", "content": content}, _ANSWER], variables)[0].count("<image>")
        except Exception as error:
            return f"{error}"
        if found != expected:
            return f"it writes `<image>` {found} times for {expected} images."
    return ""


def end_tokens(template: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the token that ends an answer; none if a text does, as in the plain format."""
    messages = [{"role": "user", "content": "<image>\nOne?"}, _ANSWER]
    text, marks = _render(template, messages, tokenizer.special_tokens_map, mark=True)
    span = text[slice(*marks[-1])].rstrip()
    ends = [token for token in _added_tokens(tokenizer) if span.endswith(token)]
    return sorted(ends, key=len)[-1:]


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token for token in map(str, tokenizer.added_tokens_decoder.values()) if token.strip()]


__all__ = ["ChatTemplate", "choose_chat_template", "end_tokens", "with_images_and_marks"]
