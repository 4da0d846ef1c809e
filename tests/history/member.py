"""Another client's member in a reader group: librdkafka, which notes what it polled like every reader."""

from __future__ import annotations

import threading

from confluent_kafka import KafkaException
from servers.oracle import Oracle

from history.record import History, Place, ident


class OtherMember(threading.Thread):
    """librdkafka in the same group: polls, then commits what it polled."""

    def __init__(self, history: History, oracle: Oracle, topic: str, group: str, stop: threading.Event) -> None:
        super().__init__(name="librdkafka", daemon=True)
        self._history = history
        self._member = oracle.member(group, [topic], partition_assignment_strategy="range,roundrobin")
        self._stop_event = stop
        self.count = 0

    def run(self) -> None:
        session = self._history.begin(self.name)
        while not self._stop_event.is_set():
            try:
                seen = self._member.poll(200, 0.2)
                for each in seen:
                    self._history.deliver(session, ident(each.value or b""), Place(each.partition, each.offset))
                    self.count += 1
                if seen:
                    self._member.commit()
            except KafkaException:
                # a rebalance came between: the group's next owner starts from what was committed
                session = self._history.begin(self.name)
        self._member.close()
