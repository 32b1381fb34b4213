# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import builtins
import functools
import socket
import sys
import threading

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.demo.backend import Backend, Conversation, Subject
from llava_uhd_v2_hf.demo.page import Handlers, build_page
from llava_uhd_v2_hf.inference.chat import Chat
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.pictures.attention import attend
from llava_uhd_v2_hf.pictures.attention_picture import draw_attention
from llava_uhd_v2_hf.pictures.pyramid import draw_pyramid, load_pyramid
from llava_uhd_v2_hf.pictures.slices import (
    draw_inspection,
)
from tests.support.demo_page import served


PHOTO = Image.effect_mandelbrot((320, 220), (-2, -1.2, 1, 1.2), 100).convert("RGB")
QUESTIONS = ["What is this?", "And beside it?"]
TOKENS = 12  # of an answer


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """The tiny model, made to speak the words of its toy tokenizer, past the 256 bytes, and no others."""
    folder = tmp_path_factory.mktemp("speaking") / "model"
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    with torch.no_grad():
        model.lm_head.weight[:260] = 0
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    PHOTO.save(path)
    return path


@pytest.fixture(scope="module")
def url(checkpoint, converted_checkpoint, photo, tmp_path_factory):
    models = ["--model", checkpoint, "--model", converted_checkpoint]
    with served(tmp_path_factory.mktemp("page"), *models, "--example", photo) as url:
        yield url


@pytest.fixture
def client(url, tmp_path):
    return Client(url, verbose=False, download_files=tmp_path)


@pytest.fixture(scope="module")
def model_and_processor(checkpoint):
    return tuple(kind.from_pretrained(checkpoint) for kind in (AutoModelForImageTextToText, AutoProcessor))


def ask(client, question, image, model, max_slices=0, max_new_tokens=TOKENS):
    """Everything that the page shows, one after the other: chat, question, pieces, picture."""
    file = handle_file(image) if image else None
    job = client.submit(question, file, str(model), max_slices, max_new_tokens, api_name="/ask")
    job.result()
    return job.outputs()


def texts(shown):
    return [(message["role"], message["content"][0]["text"]) for message in shown[0]]


def pixels(image):
    return np.asarray(Image.open(image) if isinstance(image, str) else image)


# The page, as a client sees it


@pytest.mark.slow
def test_answers_are_those_of_a_chat_and_come_piece_by_piece(client, photo, checkpoint, model_and_processor):
    chat, turns = Chat(*model_and_processor, [PHOTO]), []
    for question in QUESTIONS:
        shown = ask(client, question, photo, checkpoint)
        turns += [("user", question), ("assistant", chat.ask(question, max_new_tokens=TOKENS))]
        assert texts(shown[-1]) == turns
        so_far = [texts(one)[-1][1] for one in shown]
        assert len(set(so_far)) > 3
        assert all(later.strip().startswith(earlier.strip()) for earlier, later in zip(so_far, so_far[1:]))


@pytest.mark.slow
def test_the_attention_is_drawn_for_the_answer_and_for_a_token(client, photo, checkpoint, model_and_processor):
    model, processor = model_and_processor
    chat = Chat(model, processor, [PHOTO], 3)
    chat.ask(QUESTIONS[0], max_new_tokens=TOKENS)
    attention, inspection = attend(chat), inspect_image(PHOTO, processor.image_processor, model.config, 3)
    expected = [
        draw_attention(inspection, attention, tokens, QUESTIONS[0]) for tokens in (range(len(attention.pieces)), [1])
    ]

    *_, (_, question, pieces, picture) = ask(client, QUESTIONS[0], photo, checkpoint, max_slices=3)
    assert question == ""
    assert np.array_equal(pixels(picture), pixels(expected[0]))
    assert [piece["token"] for piece in pieces] == attention.pieces
    picture, pieces = client.predict("2", api_name="/attention")
    assert np.array_equal(pixels(picture), pixels(expected[1]))
    assert [bool(piece["class_or_confidence"]) for piece in pieces] == [index == 1 for index in range(len(pieces))]
    with pytest.raises(AppError, match="'zebra' is neither in the answer nor a number from 1 to"):
        client.predict("zebra", api_name="/attention")


@pytest.mark.slow
def test_slices_and_pyramid_are_those_of_visualize(client, photo, checkpoint, model_and_processor):
    model, processor = model_and_processor
    arguments = (handle_file(photo), str(checkpoint), 4)
    slices = client.predict(*arguments, api_name="/slices")
    inspection = inspect_image(PHOTO, processor.image_processor, model.config, 4)
    assert np.array_equal(pixels(slices), pixels(draw_inspection(inspection)))
    pyramid = client.predict(*arguments, api_name="/pyramid")
    assert np.array_equal(pixels(pyramid), pixels(draw_pyramid(PHOTO, load_pyramid(str(checkpoint)), 4)))


@pytest.mark.slow
def test_another_model_begins_another_conversation(client, photo, checkpoint, converted_checkpoint):
    ask(client, QUESTIONS[0], photo, checkpoint)
    shown = ask(client, QUESTIONS[1], photo, converted_checkpoint, max_new_tokens=2)
    assert texts(shown[-1])[0] == ("user", QUESTIONS[1])
    assert len(texts(shown[-1])) == 2


@pytest.mark.slow
def test_two_pages_at_once_have_their_own_conversations(url, photo, checkpoint, model_and_processor):
    images = {"left": PHOTO, "right": PHOTO.rotate(180)}
    answers = {name: [] for name in images}

    def talk(name):
        images[name].save(photo.with_name(f"{name}.png"))
        page = Client(url, verbose=False)
        for question in QUESTIONS:
            shown = ask(page, question, photo.with_name(f"{name}.png"), checkpoint)
            answers[name].append(texts(shown[-1])[-1][1])

    threads = [threading.Thread(target=talk, args=[name]) for name in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, image in images.items():
        chat = Chat(*model_and_processor, [image])
        assert answers[name] == [chat.ask(question, max_new_tokens=TOKENS) for question in QUESTIONS]


@pytest.fixture(scope="module")
def unusable(tmp_path_factory):
    """Files by what is wrong with them."""
    folder = tmp_path_factory.mktemp("unusable")
    (folder / "text.png").write_text("no image")
    PHOTO.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:2000])
    Image.new("1", (12_000, 9_000)).save(folder / "large.png")
    Image.new("1", (20_000, 20_000)).save(folder / "enormous.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "name", "message"),
    [
        ("What?", None, "There is no image yet"),
        (" ", "whole", "There is no question yet"),
        ("What?", "text", r"^text\.png cannot be used: PIL reads no image in it"),
        ("What?", "cut", r"^cut\.png cannot be used: "),
        ("What?", "large", r"^large\.png cannot be used: .*100000000"),
        ("What?", "enormous", r"^enormous\.png cannot be used: .*400000000 pixels"),
        ("Why <image>?", "whole", "number of image tokens"),
    ],
)
def test_errors_are_readable_and_the_page_goes_on(client, unusable, checkpoint, question, name, message):
    with pytest.raises(AppError, match=message) as error:
        ask(client, question, unusable / f"{name}.png" if name else None, checkpoint)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    shown = ask(client, "And now?", unusable / "whole.png", checkpoint, max_new_tokens=2)
    assert texts(shown[-1])[0] == ("user", "And now?")


@pytest.mark.slow
def test_an_example_can_be_taken_and_a_bad_file_after_it(client, unusable, photo, checkpoint):
    taken = client.predict(0, api_name="/first_of")
    assert np.array_equal(pixels(taken), pixels(str(photo)))
    with pytest.raises(AppError, match=r"^text\.png cannot be used: PIL reads no image in it"):
        ask(client, "What?", unusable / "text.png", checkpoint)


@pytest.mark.slow
def test_numbers_out_of_range_and_unknown_models_are_refused(client, photo, checkpoint):
    with pytest.raises(AppError, match="The longest answer must be 1 token or more; got 0"):
        ask(client, "What?", photo, checkpoint, max_new_tokens=0)
    with pytest.raises(AppError, match="not in the list of choices"):
        ask(client, "What?", photo, "another/model")
    with pytest.raises(AppError, match="The longest answer must be 1 token or more; got nothing"):
        ask(client, "What?", photo, checkpoint, max_new_tokens=None)
    with pytest.raises(AppError, match="There is no question yet"):
        ask(client, None, photo, checkpoint)
    for wanted in ("1", None):
        with pytest.raises(AppError, match="There is no answer yet"):
            client.predict(wanted, api_name="/attention")
    unset, zero = (client.predict(handle_file(photo), str(checkpoint), most, api_name="/slices") for most in (None, 0))
    assert np.array_equal(pixels(unset), pixels(zero))


def test_on_a_phone_the_question_follows_the_image(checkpoint, photo):
    """There, all that stands side by side stands one below the other, in the order in which it was made."""
    blocks = build_page(Backend([str(checkpoint)]), [photo]).blocks.values()
    labels = [block.label for block in blocks if getattr(block, "label", None)]
    assert labels[:4] == ["Image", "Examples", "Question", "Chat"]


def test_numbers_below_their_range_leave_no_traceback(checkpoint, photo):
    """gradio prints the traceback of an error unless the error says otherwise."""
    page = Handlers(Backend([str(checkpoint)]))
    requests = [
        lambda: page.slices(str(photo), str(checkpoint), -3),
        lambda: page.pyramid(str(photo), str(checkpoint), -3),
        lambda: next(page.ask("What?", str(photo), str(checkpoint), -3, 5, None)),
    ]
    for request in requests:
        with pytest.raises(gr.Error, match="Most slices must be 1 or more, or 0 for the model's own; got -3") as error:
            request()
        assert not error.value.print_exception


@pytest.mark.slow
def test_the_page_is_for_this_machine_alone(url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    # an address of this machine too, where a server of all addresses would answer
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


# What stands behind the page


@pytest.fixture
def conversation(checkpoint, photo):
    return Conversation(Subject(str(checkpoint), str(photo)))


def test_the_image_is_encoded_once(checkpoint, conversation, monkeypatch):
    numbers, encode = [], LlavaUhdV2Model.get_image_features

    def record(self, pixel_values, image_sizes, **kwargs):
        numbers.append(len(image_sizes))
        return encode(self, pixel_values, image_sizes, **kwargs)

    monkeypatch.setattr(LlavaUhdV2Model, "get_image_features", record)
    backend = Backend([str(checkpoint)])
    for question in QUESTIONS:
        assert list(backend.answer(conversation, question, 3))
        assert conversation.attention is not None
    assert numbers == [1]


def test_one_model_is_kept(checkpoint, converted_checkpoint, conversation):
    backend = Backend([str(checkpoint), str(converted_checkpoint)])
    assert backend.loaded is None
    list(backend.answer(conversation, "What?", 2))
    first = backend.load(str(checkpoint))
    assert backend.load(str(checkpoint)) == first
    backend.load(str(converted_checkpoint))
    assert backend.loaded[0] == str(converted_checkpoint) and backend.chat is None
    list(backend.answer(conversation, "And?", 2))
    assert len(conversation.turns) == 4


def test_who_stops_listening_stops_the_model(checkpoint, conversation, monkeypatch):
    steps, forward = [], LlavaUhdV2ForConditionalGeneration.forward

    @functools.wraps(forward)
    def count(self, *arguments, **options):
        steps.append(1)
        return forward(self, *arguments, **options)

    backend = Backend([str(checkpoint)])
    expected = list(backend.answer(Conversation(conversation.subject), "What?", 4))[-1]
    monkeypatch.setattr(LlavaUhdV2ForConditionalGeneration, "forward", count)
    answer = backend.answer(conversation, "What?", 800)
    next(answer)
    answer.close()
    taken = len(steps)
    assert taken < 200
    assert conversation.messages == [] and conversation.attention is None
    assert list(backend.answer(conversation, "What?", 4))[-1] == expected


def test_an_error_while_answering_comes_through(checkpoint, conversation, monkeypatch):
    @functools.wraps(LlavaUhdV2ForConditionalGeneration.forward)
    def fail(self, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    backend = Backend([str(checkpoint)])
    monkeypatch.setattr(LlavaUhdV2ForConditionalGeneration, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        list(backend.answer(conversation, "What?", 3))
    monkeypatch.undo()
    assert list(backend.answer(conversation, "What?", 3))


def test_an_answer_whose_attention_fails_has_none(checkpoint, conversation, monkeypatch):
    def fail(chat):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    backend = Backend([str(checkpoint)])
    list(backend.answer(conversation, "What?", 3))
    monkeypatch.setattr("llava_uhd_v2_hf.demo.backend.attend", fail)
    list(backend.answer(conversation, "And?", 3))
    assert len(conversation.turns) == 4
    with pytest.raises(ValueError, match="memory is too small"):
        backend.draw_attention(conversation, None)


# The command


def demo(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere/at/all"], "There is no folder nowhere/at/all"),
        (["--model", "MODEL", "--example", "missing.png"], "There is no image file missing.png"),
        (["--model", "MODEL", "--example", "TEXT"], "text.png cannot be used: PIL reads no image in it"),
        (["--model", "MODEL", "--port", "PORT"], "Cannot find empty port"),
    ],
)
def test_wrong_options_are_errors_in_one_line(arguments, message, checkpoint, unusable):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"MODEL": checkpoint, "PORT": taken.getsockname()[1], "TEXT": unusable / "text.png"}
        result = demo(*[values.get(argument, argument) for argument in arguments])
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr.rpartition("Error: ")[2]


def test_a_model_is_needed():
    result = demo()
    assert result.exit_code == 2 and "--model" in result.stderr


def test_without_gradio_the_extra_is_named(checkpoint, monkeypatch):
    load = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "gradio":
            raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
        return load(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "llava_uhd_v2_hf.demo.page", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    result = demo("--model", checkpoint)
    assert result.exit_code == 1
    assert (
        result.stderr
        == "Error: gradio is not installed; this needs: pip install '.[demo]' in a clone of llava-uhd-v2-hf\n"
    )
