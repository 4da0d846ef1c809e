"""A gateway that the manager's tests run before, and what goes wrong on its pages."""

from __future__ import annotations

import http.client
import json
from typing import Any

from playwright.sync_api import ConsoleMessage, Page
from servers.daemon import Daemon

EXPECTED = "Failed to load resource: the server responded with a status of "


class Gateway:
    """A running gateway with a registry, and calls of its admin API."""

    def __init__(self, daemon: Daemon, authorization: dict[str, str] | None = None) -> None:
        """``authorization`` are headers of every call of the admin API."""
        self.daemon = daemon
        self._authorization = authorization or {}
        self.url = f"{daemon.admin}/ui/"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        port: int = 0,
    ) -> tuple[int, bytes]:
        made = http.client.HTTPConnection("127.0.0.1", port or self.daemon.admin_port, timeout=30)
        try:
            made.request(method, path, body, headers or {})
            response = made.getresponse()
            return response.status, response.read()
        finally:
            made.close()

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """A call that must succeed."""
        given = None if body is None else json.dumps(body)
        status, answer = self.ask(
            method, f"/admin/v1/{path}", given, {"Content-Type": "application/json", **self._authorization}
        )
        assert status < 300, (path, status, answer)
        return json.loads(answer) if answer else None

    def topic(self, name: str, partitions: int = 2) -> str:
        """A topic of an application of its own; its name is application/topic/version."""
        self.admin("PUT", f"applications/{name.split('/', maxsplit=1)[0]}", {})
        self.admin("PUT", f"topics/{name}", {"partitions": partitions})
        return name

    def publish(self, topic: str, *values: str | None, **members: Any) -> None:
        self.admin("POST", f"records/{topic}?batch=1", [{"value": value, **members} for value in values])

    def key(self, application: str, kind: str) -> dict[str, str]:
        """A new key's headers."""
        made = self.admin("POST", f"applications/{application}/keys", {"kind": kind})
        return {"Pubkey" if kind == "pub" else "Subkey": made["key"], "Secret": made["secret"]}

    def read(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        return self.ask("GET", f"/v1/topics/{path}", headers=headers, port=self.daemon.public_port)

    def die(self, reader: str, topic: str, group: str, *values: str) -> None:
        """Publishes records of which the group has had enough: they are its dead letters."""
        owner, name, _version = topic.split("/")
        self.publish(topic, *values)
        key = self.key(reader, "sub")
        where = f"{owner}.{name}/{group}" if reader != owner else f"{name}/{group}"
        headers = {**key, "Accept": "application/x-ndjson"}
        status, body = self.read(f"{where}?limit={len(values)}&idle=2&ack=explicit", headers)
        assert status == 200, body
        letters = [json.loads(line) for line in body.splitlines()]
        acks = [{"partition": each["partition"], "offset": each["offset"], "outcome": "dead"} for each in letters]
        given = json.dumps(acks)
        answered = self.ask(
            "POST",
            f"/v1/topics/{where}/acks?sync=1",
            given,
            {**key, "Content-Type": "application/json"},
            self.daemon.public_port,
        )
        assert answered[0] == 200, answered

    def metric(self, name: str) -> float:
        """A series of /metrics; 0 where it is not there."""
        lines = self.ask("GET", "/metrics", headers=self._authorization)[1].decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    def audited(self, action: str) -> list[str]:
        """The objects of an action's events."""
        lines = (self.daemon.folder / "data" / "audit.jsonl").read_text().splitlines()
        return [event["object"] for event in map(json.loads, lines) if event["action"] == action]


class Watch:
    """What went wrong on a page: console errors, reports of its policy, requests to other origins."""

    def __init__(self, page: Page, origin: str) -> None:
        self.refusals: set[int] = set()
        """Statuses that a test provokes: the browser logs each."""
        self._wrong: list[str] = []
        self._asked: list[str] = []
        page.on("console", self._told)
        page.on("pageerror", lambda error: self._wrong.append(f"{error}\n{error.stack}"))
        page.on("request", lambda request: self._asked.append(request.url))
        self._origin = origin

    def _told(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._wrong.append(message.text)

    def wrong(self) -> list[str]:
        provoked = tuple(f"{EXPECTED}{status} " for status in self.refusals)
        strangers = [url for url in self._asked if not url.startswith((self._origin, "blob:"))]
        return [text for text in self._wrong if not (provoked and text.startswith(provoked))] + strangers
