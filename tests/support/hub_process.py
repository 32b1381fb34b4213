# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The small Hub of hub_server.py in a process of its own, and clients in theirs."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path


CLI = [sys.executable, "-c", "from llava_uhd_v2_hf.cli.app import app; app()"]
OWN_CARD = ["--license", "mit", "--base-model", "org/base", "--dataset", "org/data"]


class Server:
    """Starts with an empty Hub in `folder`/hub; clients keep what they download in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        command = [sys.executable, Path(__file__).with_name("hub_server.py"), folder / "hub"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()

    def environment(self, token="writer", home="home"):
        """Of a client; what it downloads lies in a folder of its own."""
        environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        changes = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(self.folder / home)}
        changes["OMP_NUM_THREADS"] = "1"  # as conftest.py has it
        return environment | changes | ({"HF_TOKEN": token} if token else {})

    def run(self, command, cwd=None, **environment):
        return subprocess.run(command, cwd=cwd, env=self.environment(**environment), text=True, capture_output=True)

    def push(self, *arguments, **environment):
        return self.run([*CLI, "push", *map(str, arguments), *OWN_CARD], **environment)

    def ask(self, path, value=None):
        data = None if value is None else json.dumps(value).encode()
        headers = {"Authorization": "Bearer writer"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers)) as response:
            return json.load(response)

    def files(self, repo_id):
        return {sibling["rfilename"] for sibling in self.ask(f"/api/models/{repo_id}")["siblings"]}

    def requests(self, method, part):
        return [entry for entry in self.ask("/_test/requests") if entry["method"] == method and part in entry["path"]]
