# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The page: an image, a chat with streaming answers, and three pictures of how the model sees the image."""

import html
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from ..inference.loading import read_image
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..pictures.slices import (
    draw_inspection,
)
from ..utils.errors import describe_error, expected_errors
from .backend import Backend, Conversation, Subject


CHOSEN = "shown"  # the label of the tokens that the picture of the attention is about
FONTS = ["system-ui", "sans-serif"]  # of the machine: the page loads nothing from elsewhere
INTRODUCTION = """# LLaVA-UHD v2
Choose an image and ask about it. The tabs below show how the model sees it."""
# tokens look like buttons; on a phone, the question stands on the first screen
STYLE = """
#tokens .token {border: 1px solid var(--border-color-primary); border-radius: 4px; margin: 2px 1px; padding: 1px 5px}
@media (max-width: 640px) {#image {height: 220px !important}}
"""
CLEANING = (3600, 86_400)  # every so many seconds, uploads and pictures that are so old are deleted
PROGRESS = gr.Progress()  # gradio looks for it among the defaults of a function's arguments
Pieces = list[tuple[str, str | None]]


@contextmanager
def errors_on_the_page(image: str | None) -> Iterator[None]:
    """Shows an expected error as a line on the page; the image is called by its name alone."""
    try:
        yield
    except expected_errors() as error:
        message = describe_error(error)
        if image:
            message = message.replace(image, Path(image).name)
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def subject_of(image: str | None, model: str, max_slices: float | None) -> Subject:
    if not image:
        raise ValueError("There is no image yet: drop one, or take an example.")
    if max_slices is not None and max_slices < 0:
        raise ValueError(f"Most slices must be 1 or more, or 0 for the model's own; got {max_slices:g}.")
    return Subject(model, image, int(max_slices or 0) or None)


def path_of(payload: ImageData | None) -> str | None:
    """Where an uploaded image lies. gradio would open it first, and hide in a long message what is wrong with it."""
    return payload.path if payload else None


def mark(pieces: Sequence[str], tokens: Collection[int]) -> Pieces:
    """The tokens of an answer, the chosen ones labelled."""
    return [(piece, CHOSEN if index in tokens else None) for index, piece in enumerate(pieces)]


def show_chat(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


class Handlers:
    """What happens on the page; every method is an end point of its API too."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def slices(self, image: str | None, model: str, max_slices: float | None) -> Image.Image | None:
        """Draws how the image is cut; nothing while there is none."""
        if not image:
            return None
        with errors_on_the_page(image):
            return draw_inspection(self.backend.inspect(subject_of(image, model, max_slices)))

    def ask(
        self,
        question: str | None,
        image: str | None,
        model: str,
        max_slices: float | None,
        max_new_tokens: float | None,
        conversation: Conversation | None,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[tuple]:
        """Yields the chat, and at the end the answer's tokens and the attention of all of them."""
        with errors_on_the_page(image):
            subject = subject_of(image, model, max_slices)
            if not question or not question.strip():
                raise ValueError("There is no question yet: write one.")
            if max_new_tokens is None or max_new_tokens < 1:
                found = "nothing" if max_new_tokens is None else f"{max_new_tokens:g}"
                raise ValueError(f"The longest answer must be 1 token or more; got {found}.")
            if conversation is None or conversation.subject != subject:
                conversation = Conversation(subject)
            progress(0, desc=f"Loading {model}")
            self.backend.load(model)
            progress(0.5, desc="Reading the image and the question")
            turns = [*conversation.turns, ("user", question)]
            for text in self.backend.answer(conversation, question, int(max_new_tokens)):
                yield show_chat([*turns, ("assistant", text)]), question, conversation, [], None
            pieces, picture = None, None
            if conversation.attention is None:
                gr.Warning(html.escape(conversation.no_attention, quote=False))
            else:
                picture, tokens = self.backend.draw_attention(conversation, None)
                pieces = mark(conversation.attention.pieces, tokens)
            yield show_chat(conversation.turns), "", conversation, pieces, picture

    def pyramid(
        self,
        image: str | None,
        model: str,
        max_slices: float | None,
        progress: gr.Progress = PROGRESS,
    ) -> Image.Image:
        """Draws the pyramids of all views."""
        with errors_on_the_page(image):
            subject = subject_of(image, model, max_slices)
            progress(0, desc=f"Loading {model}")
            self.backend.load(model)
            progress(0.5, desc="Encoding every view")
            return self.backend.draw_pyramid(subject)

    def attention(self, wanted: str | None, conversation: Conversation | None) -> tuple[Image.Image, Pieces]:
        """Draws where the model looked for a token of the last answer, named by its number or its text."""
        with errors_on_the_page(conversation.subject.image if conversation else None):
            if conversation is None:
                raise ValueError("There is no answer yet: ask something first.")
            picture, tokens = self.backend.draw_attention(conversation, (wanted or "").strip() or None)
            return picture, mark(conversation.attention.pieces, tokens)


def first_of(sample: list[str]) -> str:
    """The file of an example that was clicked on."""
    return sample[0]


def number_of_token(event: gr.SelectData) -> str:
    """The number, counted from 1, of the token that was clicked on."""
    return str(event.index + 1)


def build_page(backend: Backend, examples: Sequence[Path]) -> gr.Blocks:
    """
    Args:
        backend: answers and draws.
        examples: image files that the page offers.
    """
    do = Handlers(backend)
    with gr.Blocks(title="LLaVA-UHD v2", analytics_enabled=False, delete_cache=CLEANING) as page:
        gr.Markdown(INTRODUCTION)
        conversation = gr.State(None)
        with gr.Row():
            with gr.Column(scale=2):
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=340,
                    elem_id="image",
                )
                image.preprocess = path_of  # type: ignore[method-assign]
                if examples:
                    # gr.Examples would replace the image's component, and its `preprocess` with it
                    offered = gr.Dataset(
                        components=[image], samples=[[str(path)] for path in examples], label="Examples"
                    )
                    offered.click(first_of, offered, image, show_progress="hidden", api_visibility="undocumented")
            with gr.Column(scale=3):
                question = gr.Textbox(label="Question", placeholder="What is in the picture?", lines=1)
                with gr.Row():
                    ask_button, stop = (
                        gr.Button("Ask", variant="primary", min_width=120),
                        gr.Button("Stop", min_width=120),
                    )
                chat = gr.Chatbot(label="Chat", height=340, render_markdown=False, buttons=["copy_all"])
        with gr.Row():
            model = gr.Dropdown(backend.models, value=backend.models[0], label="Model", scale=2, min_width=300)
            # a `minimum` of gradio's would leave a traceback in the log
            max_slices = gr.Number(0, label="Most slices (0: default)", precision=0, min_width=120)
            max_new_tokens = gr.Number(256, label="Longest answer (tokens)", precision=0, min_width=120)
        with gr.Tab("Slices"):
            gr.Markdown("How the image is cut, and the order of its tokens.")
            slices = _picture("slices")
        with gr.Tab("Pyramid"):
            gr.Markdown(
                "Features of the vision tower, and of every level that is made of them: what is alike has one colour."
            )
            draw, pyramid = gr.Button("Draw the pyramid"), _picture("pyramid")
        with gr.Tab("Attention"):
            gr.Markdown("Where the model looked when it chose a word. Click on a token of the answer.")
            pieces = gr.HighlightedText(
                label="Answer",
                color_map={CHOSEN: "yellow"},
                show_inline_category=False,
                show_label=False,
                elem_id="tokens",
            )
            wanted = gr.Textbox(label="Or name it: its number, or a part of the answer; empty for all of it", lines=1)
            attention = _picture("attention")

        subject = [image, model, max_slices]
        running = gr.on(
            [question.submit, ask_button.click],
            do.ask,
            [question, *subject, max_new_tokens, conversation],
            [chat, question, conversation, pieces, attention],
            api_name="ask",
            show_progress_on=[question],
            concurrency_id="backend",
        )
        stop.click(None, cancels=[running])
        told = [conversation, chat, pieces, attention]
        chat.clear(lambda: (None, [], [], None), None, told, cancels=[running], api_visibility="private")
        gr.on(
            [image.change, model.change, max_slices.change],
            lambda: (None, [], [], None, None, None),
            None,
            [*told, slices, pyramid],
            cancels=[running],
            api_visibility="private",
        ).then(do.slices, subject, slices, api_name="slices", show_progress="minimal", concurrency_id="backend")
        draw.click(do.pyramid, subject, pyramid, api_name="pyramid", concurrency_id="backend")
        shown = [attention, pieces]
        wanted.submit(do.attention, [wanted, conversation], shown, api_name="attention", concurrency_id="backend")
        pieces.select(number_of_token, None, wanted, api_visibility="private").then(
            do.attention, [wanted, conversation], shown, api_visibility="private", concurrency_id="backend"
        )
    return page.queue(default_concurrency_limit=1)


def _picture(name: str) -> gr.Image:
    return gr.Image(
        label=name,
        show_label=False,  # it would stand on the picture's own captions
        type="pil",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
    )


def serve(
    models: Sequence[str], examples: Sequence[Path], port: int | None, report: Callable[[str], object] = print
) -> None:
    """Serves the page on loopback until it is interrupted.

    Args:
        models: folders or Hub ids of checkpoints or adapters; the first is chosen at first.
        examples: image files that the page offers.
        port: None for the first from 7860 on that is free.
        report: is told where the page is.

    Raises:
        OSError: if an example is not there, or the port is taken.
        ValueError: if an example is no image, or a model no checkpoint.
    """
    for path in examples:
        read_image(path, LlavaUhdV2ImageProcessor(max_image_pixels=None))
    page = build_page(Backend(models), examples)
    _, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        allowed_paths=[str(path) for path in examples],
        ssr_mode=False,
        footer_links=[],
        css=STYLE,
        theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
        quiet=True,
        prevent_thread_lock=True,
    )
    report(f"The page is at {url} until you press Ctrl+C.")
    page.block_thread()


__all__ = ["build_page", "serve"]
