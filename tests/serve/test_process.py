# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The server as a process: how it starts, what it says when it can't, and how it stops."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from peft import LoraConfig, get_peft_model
from serve_clients import PATH, ServerProcess, as_body, ask, data_url, image_part, jpeg_of_scans  # noqa: E402

from tests.support.serve_checkpoint import Reference


pytestmark = pytest.mark.slow  # each starts a process
UNBUFFERED = {**os.environ, "PYTHONUNBUFFERED": "1"}
LONG = ask("Tell me a long story.", max_tokens=900)


def start_stream(server):
    """A stream of which the first text has come, so that its request runs."""
    stream = iter(server.client().chat.completions.create(model=server.model, **LONG, stream=True))
    next(stream)
    return stream


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_end_before_the_server_does(talker, number):
    server = ServerProcess(talker)
    idle = socket.create_connection(("127.0.0.1", server.port))
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(f"POST {PATH} HTTP/1.1\r\nHo".encode())
    stream = start_stream(server)
    server.process.send_signal(number)
    *_, last = stream
    assert last.choices[0].finish_reason == "length"
    assert server.process.wait(30) == 0
    with pytest.raises(openai.APIConnectionError):
        server.client().models.list()
    idle.close()
    half.close()


def test_what_takes_too_long_ends_with_an_error(talker):
    server = ServerProcess(talker, "--stop-seconds", 1)
    stream = start_stream(server)
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(f"POST {PATH} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="stopping"):
        list(stream)
    assert time.monotonic() - start < 3
    assert server.process.wait(30) == 0
    half.close()


STUCK_MODEL = """
import torch
from llava_uhd_v2_hf.model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
LlavaUhdV2ForConditionalGeneration.generate = lambda self, **inputs: torch.linalg.svd(torch.randn(5000, 5000))
"""


def wait_for_body(server):
    with socket.create_connection(("127.0.0.1", server.port)) as half:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        half.sendall(f"{head}Content-Length: 99\r\n\r\n{{".encode())
        response = http.client.HTTPResponse(half)
        response.begin()
        return response.status, json.loads(response.read())


def test_every_stage_of_a_request_ends_in_time(talker):
    """The model inside one long operation, a decoder, a download, a body: one server has all of them in hand."""
    slow_images = [image_part(data_url(jpeg_of_scans(5000, 100), "image/jpeg"))] * 8
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stages = {
            "model": ask("Hello"),
            "decoder": ask(*slow_images),
            "download": ask(image_part(f"http://127.0.0.1:{silent.getsockname()[1]}/a.png")),
        }
        flags = (
            "--stop-seconds",
            2,
            "--allow-private-image-urls",
            "--max-decode-bytes",
            8 << 30,
            "--decode-seconds",
            60,
        )
        server = ServerProcess(talker, *flags, prelude=STUCK_MODEL)
        with ThreadPoolExecutor(len(stages) + 1) as pool:
            answers = {
                name: pool.submit(server.send, as_body(server, request)) for name, request in stages.items()
            } | {"body": pool.submit(wait_for_body, server)}
            end = time.monotonic() + 30
            while server.metric("in_hand") < len(answers) or server.metric("running") < 1:
                assert time.monotonic() < end, {
                    name: answer.done() and answer.result() for name, answer in answers.items()
                }
            time.sleep(0.5)
            start = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - start < 2.5
            for name, answer in answers.items():
                status, value = answer.result()[:2]
                assert (name, status, value["error"]["code"]) == (name, 503, "stopping")
    assert "Traceback" not in server.log.read_text()


def test_told_to_stop_while_it_starts(talker):
    command = [sys.executable, "-c", "from llava_uhd_v2_hf.cli.app import app; app()", "serve", "--port", "0"]
    prelude = "from llava_uhd_v2_hf.serve import server; server.load_folded = lambda model: print(1) or time.sleep(60)"
    command[2] = f"import time; {prelude}; {command[2]}"
    process = subprocess.Popen([*command, "--model", str(talker)], stdout=subprocess.PIPE, env=UNBUFFERED)
    assert process.stdout.readline() == b"1\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close()


def test_an_adapter(talker, tmp_path):
    reference = Reference(talker)
    plain = reference.answer(LONG | {"max_tokens": 20})
    settings = LoraConfig(target_modules=r".*language_model.*(q|v)_proj", init_lora_weights=False)
    adapted = get_peft_model(reference.model, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    reference.processor.save_pretrained(tmp_path / "adapter")
    reference.model = adapted.merge_and_unload().eval()
    answer = reference.answer(LONG | {"max_tokens": 20})
    assert answer != plain
    with ServerProcess(tmp_path / "adapter") as server:
        completion = server.client().chat.completions.create(model="adapter", **LONG | {"max_tokens": 20})
    assert completion.choices[0].message.content == answer


def run(*arguments, prelude=""):
    code = f"{prelude}; from llava_uhd_v2_hf.cli.app import app; app()"
    command = [sys.executable, "-c", code.removeprefix("; "), "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_one_line(result, *words):
    assert (result.returncode, result.stdout) == (1, "")
    message = result.stderr.rpartition("Error: ")[2]
    assert message.endswith("\n") and message.count("\n") == 1 and "Traceback" not in result.stderr
    for word in words:
        assert str(word) in message


def test_a_port_that_is_in_use(talker):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(run("--model", talker, "--port", port), port, "in use")


def test_a_host_that_is_not_there(talker):
    assert_one_line(run("--model", talker, "--host", "nobody.invalid"), "nobody.invalid")


def test_a_model_that_is_not_there(tmp_path):
    assert_one_line(run("--model", tmp_path / "nothing"), "There is no folder", tmp_path)


def test_a_folder_without_weights(talker, tmp_path):
    (tmp_path / "config.json").write_text((talker / "config.json").read_text())
    assert_one_line(run("--model", tmp_path, "--port", 0), tmp_path)


@pytest.mark.parametrize("module", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_module_that_is_missing(talker, module):
    result = run("--model", talker, prelude=f"import sys; sys.modules['{module}'] = None")
    assert_one_line(result, module, "pip install '.[serve]'")


def test_a_limit_that_is_none(talker):
    assert_one_line(run("--model", talker, "--body-seconds", "0"), "body_seconds")
