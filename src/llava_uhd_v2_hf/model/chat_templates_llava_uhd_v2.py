# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Chat templates of the released checkpoints, in Jinja; a converted checkpoint carries its own as a file.

A message's content is a string, used as it is (`<image>` marks the place of an image), or a list of text and image
entries. A list with one image becomes `<image>`, a newline and the stripped text, wherever the image stands (the
released code's rule); in a list with several, each becomes `<image>` and a newline at its own place.

The Vicuna format begins with the tokenizer's BOS token, since much code tokenises a rendered prompt without special
tokens (TRL, vLLM, the tokenizer's own `apply_chat_template`). The space after it is the one that sentencepiece puts
before every text; the processor does not put a second BOS token before it.

`{% generation %}` marks what is trained on: each answer with its end token, from where generation begins: in the
Vicuna format from the space before it, which is a token of its own before a digit. The released code trains the ChatML
format also on `<|im_start|>assistant` and on every `<|im_start|>`, `<|im_end|>` and newline of the other turns; here
these, and the newline after an answer's `<|im_end|>`, are left out.
"""

RENDER_MACRO = """\
{%- macro render(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content | map(attribute="type") | select("in", ["image", "text"]) | list | length < content | length -%}
        {%- set others = content | map(attribute="type") | reject("in", ["image", "text"]) -%}
        {{- raise_exception("A content entry is of type '" ~ others | first ~ "'; use 'text' or 'image'.") -}}
    {%- elif content | selectattr("type", "equalto", "image") | list | length == 1 -%}
        {%- set text = content | selectattr("type", "equalto", "text") | map(attribute="text") | join -%}
        {{- ("<image>\\n" ~ text.strip()).strip() -}}
    {%- else -%}
        {%- for entry in content -%}
            {%- if entry.type == "image" -%}
                {{- "<image>\\n" -}}
            {%- else -%}
                {{- entry.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
"""

_PRELUDE = (
    RENDER_MACRO
    + """\
{%- for message in messages -%}
    {%- if message.role not in ["user", "assistant"] and not (message.role == "system" and loop.first) -%}
        {{- raise_exception(
            "Message " ~ loop.index0 ~ " has the role '" ~ message.role
            ~ "'; use 'user' and 'assistant', and 'system' only for the first."
        ) -}}
    {%- endif -%}
{%- endfor -%}
"""
)

VICUNA_V1_TEMPLATE = (
    _PRELUDE
    + """\
{%- if bos_token -%}
    {{- bos_token ~ " " -}}
{%- endif -%}
{%- if messages[0].role != "system" -%}
    {{- "A chat between a curious user and an artificial intelligence assistant. " -}}
    {{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == "system" -%}
        {{- render(message.content) ~ " " -}}
    {%- elif message.role == "user" -%}
        {{- "USER: " ~ render(message.content) ~ " " -}}
    {%- elif message.role == "assistant" -%}
        {{- "ASSISTANT:" -}}
        {%- generation -%}
            {{- " " ~ render(message.content) ~ eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "ASSISTANT:" -}}
{%- endif -%}
"""
)

QWEN_CHATML_TEMPLATE = (
    _PRELUDE
    + """\
{%- if messages[0].role != "system" -%}
    {{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
    {{- "<|im_start|>" ~ message.role ~ "\\n" -}}
    {%- if message.role == "assistant" -%}
        {%- generation -%}
            {{- render(message.content) ~ "<|im_end|>" -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- render(message.content) ~ "<|im_end|>" -}}
    {%- endif -%}
    {{- "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""
)

# Pre-training on captions: the BOS token, the image, the caption, a newline. The user's words are dropped, as the
# released training does, so the generation prompt is the image alone.
PLAIN_TEMPLATE = (
    _PRELUDE
    + """\
{%- if messages | map(attribute="role") | list not in (["user"], ["user", "assistant"]) -%}
    {{- raise_exception("The plain template takes one user message, the image, and one assistant message.") -}}
{%- elif "<image>" not in render(messages[0].content) -%}
    {{- raise_exception("The plain template needs an image in the user message.") -}}
{%- endif -%}
{{- bos_token if bos_token else "" -}}
{{- "<image>" * (render(messages[0].content).split("<image>") | length - 1) -}}
{%- if messages | length == 2 -%}
    {%- generation -%}
        {{- render(messages[1].content) ~ "\\n" -}}
    {%- endgeneration -%}
{%- endif -%}
"""
)
