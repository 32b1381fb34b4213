# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs transformers' common tests and our own on several versions of it, and writes the table in docs/ecosystem.md.

`make conformance`: the oldest version that setup.cfg allows, the newest one that vLLM allows, and the newest one. The
other versions are installed beside the environment's own, in .venv/transformers-VERSION.
"""

import configparser
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.tables import replace_table


ROOT = Path(__file__).parents[1]
SUITES = {
    "transformers' common tests": ["-m", "", "tests/upstream"],
    "ours, without the slow ones": ["tests", "--ignore", "tests/upstream", "--ignore", "tests/ecosystem"],
}


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def metadata(requirement: str) -> dict:
    """What PyPI says of the newest version of a distribution that fits."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip("install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", str(report), requirement)
        return json.loads(report.read_text())["install"][0]["metadata"]


def versions() -> dict[str, str]:
    """The versions of transformers, and why each is among them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    ours = next(Requirement(line) for line in lines if line.startswith("transformers"))
    oldest = next(part.version for part in ours.specifier if part.operator == ">=")
    vllm = metadata("vllm")
    pin = next(line for line in vllm["requires_dist"] if Requirement(line).name == "transformers")
    reasons = {metadata(f"transformers=={oldest}")["version"]: "the oldest"}
    reasons.setdefault(metadata(pin)["version"], f"the newest for vLLM {vllm['version']}")
    reasons.setdefault(metadata(str(ours))["version"], "the newest")
    return reasons


def install(version: str) -> str:
    """The folder with a version of transformers, for the module path."""
    folder = Path(sys.prefix) / f"transformers-{version}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as unfinished:
            pip("install", "--quiet", "--no-deps", "--target", unfinished, f"transformers=={version}")
            Path(unfinished).rename(folder)
            Path(unfinished).mkdir()
    return str(folder)


def run(version: str, arguments: list[str]) -> dict[str, int]:
    """Runs pytest, and returns how many tests there were, failed and were skipped."""
    path = os.pathsep.join([install(version), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *arguments, *options]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path, "CI": "1"})
        suite = ElementTree.parse(report).getroot().find("testsuite")
    return {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}


def main() -> None:
    rows, failed = [], 0
    for version, reason in versions().items():
        for suite, arguments in SUITES.items():
            counts = run(version, arguments)
            wrong = counts["failures"] + counts["errors"]
            passed = counts["tests"] - wrong - counts["skipped"]
            rows.append((f"{version} ({reason})", suite, str(passed), str(wrong), str(counts["skipped"])))
            failed += wrong
    replace_table(ROOT / "docs/ecosystem.md", "versions", rows)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
