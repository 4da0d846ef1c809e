"""What is counted of the keys that publish to a topic."""

from __future__ import annotations

from kateway.observe.bundles import MOST_PRODUCERS, OTHER, Producer
from kateway.observe.series import Series


def test_rate_and_last_use_come_from_looks() -> None:
    producer = Producer()
    producer.value = 5.0
    producer.look(10.0, 1000.0)
    assert (producer.rate, producer.used_at) == (None, 1000.0)
    producer.value = 25.0
    producer.look(20.0, 1010.0)
    assert (producer.rate, producer.used_at) == (2.0, 1010.0)
    producer.look(30.0, 1020.0)
    assert (producer.rate, producer.used_at) == (0.0, 1010.0)


def test_keys_beyond_the_most_are_counted_together() -> None:
    topic = Series(lambda: 0.0, max_series=1000).topic("app1", "foo", "v1")
    for number in range(MOST_PRODUCERS + 5):
        topic.producer("app1", f"key-{number}").value += 1
    assert len(topic.producers) == MOST_PRODUCERS + 1
    assert topic.producers[OTHER, OTHER].value == 5
