"""Two transforms: a function, and one with options."""

import attrs

from kateway.core.transforms.steps import Fields
from kateway.errors import TransformRejected


def upper(record: Fields) -> Fields | None:
    """Makes a value's letters large. The same record for one that is not changed, ``None`` to pass one over."""
    return record if record.value is None else record._replace(value=record.value.upper())


class Limited:
    """Refuses records of too many bytes."""

    @attrs.frozen
    class Options:
        max_value_bytes: int = 1024

    def __init__(self, options: Options) -> None:
        self._most = options.max_value_bytes

    def __call__(self, record: Fields) -> Fields | None:
        if record.value is not None and len(record.value) > self._most:
            raise TransformRejected(f"at most {self._most} bytes, not {len(record.value)}")
        return record
