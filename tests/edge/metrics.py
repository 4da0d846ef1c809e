"""Scrapes a running gateway's ``/metrics`` and reads single values of it."""

from __future__ import annotations

from typing import Any

from gateways import Answer, RunningGateway
from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(gateway: RunningGateway, query: str = "", **kwargs: Any) -> Answer:
    port = gateway.service.ports[-1].getHost().port
    url = f"http://127.0.0.1:{port}/metrics{query}"
    response = await gateway.client.request("GET", url, unbuffered=False, timeout=20, **kwargs)
    return Answer(response.code, response.headers, await response.content())


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.series: Series = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float | None:
        return self.series.get((f"kateway_{name}", frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        """Returns the label sets of a series."""
        return [dict(labels) for found, labels in self.series if found == f"kateway_{name}"]


async def metrics(gateway: RunningGateway) -> Metrics:
    answer = await scrape(gateway)
    assert answer.status == 200, answer.body
    return Metrics(answer.body.decode())
