"""``kpi import`` from Weights & Biases, through its own client and a server on this machine.

The client is the real one, with the process that it starts; only the service is ours. It
answers the three queries of ``Api().run()`` in the service's own words.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

SUMMARY = {
    "accuracy": 0.879,
    "n": 3,
    "loss": "NaN",
    "eval": {"f1": 0.5, "deep": {"er": 1}},
    "note": "text",
    "best": True,
    "weights": {"_type": "histogram", "values": [1], "bins": [1, 2]},
    "_step": 12,
}
RUN = {
    "id": "UnVu", "projectId": "1", "name": "r1", "displayName": "calm-sun-1", "state": "finished",
    "config": "{}", "systemMetrics": "{}", "tags": [], "createdAt": "2026-11-01T00:00:00",
    "heartbeatAt": "2026-11-01T00:00:00", "historyKeys": None, "historyLineCount": 0,
    "user": {"name": "Ada", "username": "ada"},
}  # fmt: skip
VIEWER = {"id": "VXNl", "username": "ada", "entity": "ada", "email": "", "flags": "{}",
          "teams": {"edges": []}}  # fmt: skip


class Service(BaseHTTPRequestHandler):
    """Answers GraphQL queries for one run."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        data: dict[str, Any] = {"viewer": VIEWER, "serverInfo": {"features": []}}
        if "query Run(" in query["query"]:
            asked = query["variables"]
            known = (asked["entity"], asked["project"], asked["name"]) == ("ada", "tickets", "r1")
            run = {**RUN, "summaryMetrics": json.dumps(SUMMARY)} if known else None
            data = {"project": {"internalId": "1", "run": run}}
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def imported(folder: Path, service: str, run: str, *words: str) -> tuple[int, Any]:
    """Runs the command in a process of its own, as the client ends with its process."""
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "DELTAVC_ACTOR": "Ada <ada@example.org>",
        "WANDB_BASE_URL": service, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false",
        "WANDB_DIR": str(folder), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    argv = ["kpi", "import", "HEAD", "--from", f"wandb:{run}", "--json", *words]
    code = "import sys; from deltavc.cli.main import run; sys.argv[0] = 'deltavc'; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


def test_the_numbers_of_a_run(commands: Any, models: Any, tmp_path: Path, service: str) -> None:
    folder = tmp_path / "repo"
    commands.ok(tmp_path, "init", folder)
    commands.ok(folder, "base", "add", "tiny", models.base())
    commands.ok(folder, "commit", models.adapter(), "-m", "a")
    takes = {"accuracy": "acc", "loss": "loss", "eval.f1": "f1", "eval.deep.er": "er"}
    words = [word for pair in takes.items() for word in ("--map", "=".join(pair))]
    code, document = imported(folder, service, "ada/tickets/r1", *words)
    assert code == 0, document
    found = {row["kpi"]: row["value"] for row in document["data"]["measurements"]}
    assert found == {"acc": 0.879, "er": 1.0, "f1": 0.5, "loss": None}
    assert {row["source"] for row in document["data"]["measurements"]} == {"wandb:ada/tickets/r1"}
    # Texts, flags and histograms are no numbers.
    code, document = imported(folder, service, "ada/tickets/r1", "--map", "weights.values=w")
    assert (code, document["error"]["context"]["found"]) == (
        2,
        ["_step", "accuracy", "eval.deep.er", "eval.f1", "loss", "n"],
    )
    code, document = imported(folder, service, "ada/tickets/other", "--map", "accuracy=acc")
    assert (code, document["error"]["slug"]) == (20, "revision-unknown")
