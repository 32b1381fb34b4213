# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Spoils tiny checkpoints and feeds them to the commands of conversion, export and push.

    python -m tests.support.fuzz_conversion --cases 2000             # a table of outcomes; exit code 1 if one failed
    python -m tests.support.fuzz_conversion --repeat '{"command": ...}'  # one case again, as a failure prints it

hypothesis draws the cases: a command, its options, and what is changed in its files, by their structure. Each case
runs in a fork of its own. It must write its output, or end with exit code 1 and a line that begins with "Error: ", and
must not allocate more than 1 GiB, write anything outside OUTPUT, start a process or take 60 seconds.
"""

import argparse
import collections
import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from tests.support.hub_process import OWN_CARD
from tests.support.spoilt_checkpoints import EDITS, WEIGHTS, apply_edit, write_parts


torch.set_num_threads(1)  # forks have no other threads

MEMORY = 2**30  # bytes that a case may allocate
SECONDS = 60  # that a case may take
OUTPUT = "output"
OUT_OF_MEMORY = ("MemoryError", "allocate memory", "std::bad_alloc")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.truncate", "os.chmod")
OUTSIDE = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "urllib.Request")
DTYPES = ("float32", "bfloat16", "float16")

# command: arguments before OUTPUT, and the folders whose files are spoilt
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "convert": (["convert", "released"], ["released"]),
    "assemble": (["assemble", "tower", "text"], ["tower", "text"]),
    "export-released": (["export-released", "ours"], ["ours"]),
    "convert-lora": (["convert-lora", "lora", "ours"], ["lora", "ours"]),
    "verify": (["verify", "released", "ours"], ["released", "ours"]),
    "export": (["export", "ours", "--out"], ["ours"]),
    "push": (["push", "ours", "org/name", "--dry-run", *OWN_CARD], ["ours"]),
}
NO_OUTPUT = ("verify", "push")
OPTIONS: dict[str, list[list[str]]] = {
    "convert": [
        *(["--dtype", dtype] for dtype in DTYPES),
        ["--skip-tokenizer"],
        ["--vision-config", "released/vision_tower_config.json"],
    ],
    "assemble": [
        *(["--dtype", dtype] for dtype in DTYPES),
        *(["--levels", levels] for levels in ("0", "0,2", "99", "0,0", "", "0,1,2,3,4,5,6,7,8,9")),
        *(["--query-grid", *grid] for grid in (("1", "1"), ("0", "0"), ("-1", "5"), ("100000", "100000"))),
        *(["--num-query-sets", number] for number in ("0", "1", "1000000")),
        *(["--max-slices", number] for number in ("1", "1000000000000")),
        *(["--row-separator-id", number] for number in ("-1", "13", "600", "1000000000000")),
        *(["--chat-template", name] for name in ("own", "vicuna", "plain", "none.jinja", "released")),
        *(["--seed", number] for number in ("-1", "1", str(2**64), str(10**30))),
        *(["--vdim", path] for path in ("released/model.safetensors", "lora/adapter_model.bin", "tower")),
        *(["--projector", path] for path in ("released/model.safetensors", "lora/non_lora_trainables.bin")),
        ["--token-layout", "sequential"],
        ["--upsampler", "bilinear"],
    ],
    "export-released": [["--vision-tower", name] for name in ("", "a\nb", "../x")],
    "export": [
        ["--with-code"],
        ["--include", "../secret.json"],
        ["--include", "config.json"],
        ["--card", "vicuna-7b"],
    ],
    "push": [["--with-code"], ["--max-shard-size", "1MB"], ["--max-shard-size", "-1"], ["--private"]],
}
ALWAYS = {"convert": ["--vision-config", "released/vision_tower_config.json"]}


@st.composite
def cases(draw: Callable[..., Any]) -> dict[str, Any]:
    """Draws a command, its options, the form of its weights, and edits of its files."""
    command = draw(st.sampled_from(sorted(COMMANDS)))
    _, folders = COMMANDS[command]
    options = draw(st.lists(st.sampled_from(OPTIONS.get(command, [[]])), max_size=1))
    return {
        "command": command,
        "options": [word for option in options for word in option],
        "weights": {folder: draw(st.sampled_from(WEIGHTS[folder])) for folder in folders},
        "edits": [
            [draw(st.sampled_from(folders)), *draw(draw(st.sampled_from(EDITS)))]
            for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
        ],
    }


def run_case(case: dict[str, Any], parts: Path, work: Path) -> dict[str, Any]:
    """Runs a case; returns its outcome ("written", "refused", "failed"), and why it failed.

    Args:
        case: of [`cases`].
        parts: folder of [`write_parts`].
        work: empty folder.
    """
    start = time.perf_counter()
    arguments, folders = COMMANDS[case["command"]]
    for folder in sorted({*folders, *("released", "lora")} & {path.name for path in parts.iterdir()}):
        shutil.copytree(parts / folder, work / folder)
    (work / "secret.json").write_text('{"secret": 1}')
    os.chdir(work)
    for folder, form in case["weights"].items():
        apply_edit(work, [folder, "form", form])
    for index, edit in enumerate(case["edits"]):
        with suppress(Exception) if index else nullcontext():  # a spoilt file can't always be spoilt again
            apply_edit(work, edit)
    before = _snapshot(work)
    words = arguments + ([] if case["command"] in NO_OUTPUT else [OUTPUT])
    words += ALWAYS.get(case["command"], []) + case["options"]
    # shards of a push are temporary files beside the folder
    place = work / ("ours" if case["command"] == "push" else OUTPUT)
    result = _in_fork(lambda: _invoke(words, place))
    problem = result["problem"] or _left_behind(case["command"], result["exit_code"], before, work)
    outcome = "failed" if problem else "written" if result["exit_code"] == 0 else "refused"
    return result | {"outcome": outcome, "problem": problem, "seconds": time.perf_counter() - start}


def _snapshot(work: Path) -> dict[str, Any]:
    """Returns what lies in a folder, with times and sizes of files."""
    found = {}
    for path in sorted(work.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(work))] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return {name: value for name, value in found.items() if name.partition("/")[0] != OUTPUT}


def _left_behind(command: str, exit_code: int, before: dict[str, Any], work: Path) -> str:
    after = _snapshot(work)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed := [name for name in changed if not Path(name).is_dir()]:
        return f"changed outside OUTPUT: {changed}"
    output = work / OUTPUT
    if exit_code and output.exists():
        return "an error left OUTPUT behind"
    if exit_code == 0 and command not in NO_OUTPUT:
        key_file = output / ("adapter_config.json" if command == "convert-lora" else "config.json")
        try:
            json.loads(key_file.read_text(), parse_constant=lambda word: 1 / 0)
        except (OSError, ValueError, ZeroDivisionError) as error:
            return f"success without a valid {key_file.name}: {error!r}"
    return ""


def _invoke(words: list[str], output: Path) -> dict[str, Any]:
    """Runs the command line in this process, which is a fork of its own."""
    watched: list[str] = []
    _watch(output, watched)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = CliRunner().invoke(app, words)
    text = f"{result.stdout}\n{result.stderr}"
    problem = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        problem = "".join(traceback.format_exception(*result.exc_info)[-4:])
    elif any(word in text for word in OUT_OF_MEMORY):
        problem = "out of memory"
    elif watched:
        problem = f"outside OUTPUT: {watched[:5]}"
    elif result.exit_code == 1 and "Error: " not in result.stderr and words[0] != "verify":
        problem = "exit code 1 without an error"
    elif result.exit_code not in (0, 1, 2):
        problem = f"exit code {result.exit_code}"
    return {
        "exit_code": result.exit_code,
        "problem": problem,
        "message": result.stderr.rpartition("Error: ")[2][:300],
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10,
    }


def _watch(output: Path, found: list[str]) -> None:
    """Notes what this process changes outside the output, starts or connects to."""

    def allowed(path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True  # an open file
        text = os.path.abspath(os.fsdecode(path))
        return text == os.devnull or text.startswith((f"{output}/", f"{output}.")) or text == str(output)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and not allowed(arguments[0]):
            found.append(f"open {arguments[0]!r}")
        elif event in OUTSIDE:
            found.append(f"{event} {arguments[:2]!r}")
        elif event in CHANGES and not all(allowed(path) for path in arguments[:2]):
            if event == "os.remove" and arguments[1] != -1:  # of an open folder, whose own removal is seen
                return
            found.append(f"{event} {arguments[:2]!r}")

    sys.addaudithook(audit)


def _in_fork(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs an action in a fork with little memory and time; returns its result, or how it ended."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            os.close(reader)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.enable()
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                result = action()
            except BaseException:
                result = {"exit_code": -1, "problem": traceback.format_exc(), "message": "", "megabytes": 0}
            with os.fdopen(writer, "w") as file:
                json.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if not text:
        return {"exit_code": status, "problem": f"the process ended with {status}", "message": "", "megabytes": 0}
    return json.loads(text)


def fuzz(number: int, first_seed: int, report: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Runs cases; returns what [`run_case`] says of each, and the cases themselves."""
    results: list[dict[str, Any]] = []
    cwd = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        parts = Path(folder) / "parts"
        made = _in_fork(lambda: {"problem": write_parts(parts)})
        if made["problem"]:
            raise RuntimeError(f"The sound checkpoints can't be made: {made['problem']}")

        @seed(first_seed)
        @settings(
            max_examples=number,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def run(case: dict[str, Any]) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as work:
                try:
                    results.append({"case": case} | run_case(case, parts, Path(work)))
                finally:
                    os.chdir(cwd)
            if results[-1]["outcome"] == "failed":
                report(f"{json.dumps(case)}\n    {results[-1]['problem']}")

        run()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--repeat", help="one case, in JSON")
    arguments = parser.parse_args()
    if arguments.repeat:
        with tempfile.TemporaryDirectory() as folder:
            _in_fork(lambda: {"problem": write_parts(Path(folder) / "parts")})
            (Path(folder) / "work").mkdir()
            result = run_case(json.loads(arguments.repeat), Path(folder) / "parts", Path(folder) / "work")
            print(json.dumps(result, indent=2))
            sys.exit(result["outcome"] == "failed")
    results = fuzz(arguments.cases, arguments.seed)
    counts = collections.Counter((result["case"]["command"], result["outcome"]) for result in results)
    for command in COMMANDS:
        numbers = [f"{counts[command, outcome]:6} {outcome}" for outcome in ("written", "refused", "failed")]
        print(f"{command:16}", *numbers)
    failed = sum(result["outcome"] == "failed" for result in results)
    slowest, largest = (max(result[key] for result in results) for key in ("seconds", "megabytes"))
    print(f"{failed} of {len(results)} failed; slowest {slowest:.1f} s, most memory {largest} MiB")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
