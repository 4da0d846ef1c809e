"""The table of all metrics: name, type, labels, buckets and help of each family.

``GET /metrics`` shows nothing that is not here. Never a label: a key, an address, a request's id, a path, a partition.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "info"]

UNITS = ("seconds", "bytes", "ratio", "records")
TOPIC = ("application", "topic", "version")
GROUP = (*TOPIC, "group", "reader_application")
DURATION_BUCKETS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
AGE_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
BATCH_BUCKETS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)

OPERATIONS = (
    "publish", "subscribe", "acknowledge", "lag", "offsets", "read", "topic", "admin", "health", "metrics", "ui",
    "other",
)  # fmt: skip
"""What a request asks for."""


class Family(NamedTuple):
    """One metric with all of its label sets."""

    name: str
    """As Prometheus knows it: a counter's ends in ``_total``, an info's in ``_info``."""
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def stem(self) -> str:
        """The name as OpenMetrics declares it: without ``_total`` and ``_info``."""
        return self.name.removesuffix("_total").removesuffix("_info")

    @property
    def unit(self) -> str:
        """What it is measured in; empty for plain counts."""
        last = self.stem.rpartition("_")[2]
        return last if last in UNITS else ""

    @property
    def lines(self) -> int:
        """How many lines one label set takes."""
        return len(self.buckets) + 3 if self.kind == "histogram" else 1


def _counter(name: str, labels: tuple[str, ...], help: str) -> Family:
    return Family(f"kateway_{name}_total", "counter", labels, help)


def _gauge(name: str, labels: tuple[str, ...], help: str) -> Family:
    return Family(f"kateway_{name}", "gauge", labels, help)


def _histogram(name: str, labels: tuple[str, ...], help: str, buckets: tuple[float, ...] = DURATION_BUCKETS) -> Family:
    return Family(f"kateway_{name}", "histogram", labels, help, buckets)


HTTP_REQUESTS = _counter("http_requests", ("operation", "code"), "Requests answered; 499: the client went first.")
HTTP_DURATION = _histogram(
    "http_request_duration_seconds", ("operation",), "From a request's first byte to its response's first byte."
)
HTTP_IN_FLIGHT = _gauge("http_requests_in_flight", ("operation",), "Requests that are being answered.")
HTTP_CONNECTIONS = _gauge("http_connections", ("listener",), "Open connections.")
HTTP_REJECTED = _counter("http_rejected", ("reason",), "Requests and connections refused before they were looked at.")

PUBLISH_RECORDS = _counter("publish_records", TOPIC, "Records taken: written, or kept in the handoff.")
PUBLISH_BYTES = _counter("publish_bytes", TOPIC, "Bytes of the keys and values of records taken.")
PUBLISH_ERRORS = _counter(
    "publish_errors", (*TOPIC, "reason"), "Records not taken; a request refused as a whole counts once."
)
PUBLISH_MAYBE_WRITTEN = _counter("publish_maybe_written", ("cluster",), "Records whose outcome is unknown.")
PUBLISH_HANDOFF = _counter("publish_handoff_records", ("cluster",), "Records taken into the handoff.")
PUBLISH_DUPLICATES = _counter("publish_duplicates", ("cluster",), "Publishes answered from an Idempotency-Key.")
PUBLISH_BATCH = _histogram("publish_batch_records", ("cluster",), "Records of a publish.", BATCH_BUCKETS)

SUBSCRIBE_RECORDS = _counter("subscribe_records", GROUP, "Records sent to readers, redeliveries included.")
SUBSCRIBE_BYTES = _counter("subscribe_bytes", GROUP, "Bytes of the bodies sent to readers.")
SUBSCRIBE_ACKNOWLEDGED = _counter(
    "subscribe_acknowledged_records",
    (*GROUP, "outcome"),
    "Deliveries that ended: ok, retry, dead, or expired with their lease.",
)
SUBSCRIBE_REDELIVERED = _counter("subscribe_redelivered_records", GROUP, "Records sent for a second or later time.")
SUBSCRIBE_BLOCKED = _counter("subscribe_blocked_seconds", GROUP, "Time in which readers had no room for more.")
SUBSCRIBE_READERS = _gauge("subscribe_readers", GROUP, "Readers connected here.")
SUBSCRIBE_AGE = _histogram(
    "subscribe_record_age_seconds", ("cluster",), "From a record's timestamp to its delivery.", AGE_BUCKETS
)
SUBSCRIBE_SETTLE = _histogram("subscribe_settle_seconds", ("cluster",), "From sending a record to its settling.")

GROUP_LAG = _gauge(
    "group_lag_records",
    GROUP,
    "Records behind the end of the partitions held here; of a group that is read here no more, of the whole topic.",
)
GROUP_OLDEST = _gauge("group_oldest_seconds", GROUP, "Age of the oldest record that is not acknowledged, if known.")
GROUP_UNACKNOWLEDGED = _gauge("group_unacknowledged_records", GROUP, "Records with readers, not acknowledged.")
GROUP_OLDEST_UNACKNOWLEDGED = _gauge(
    "group_oldest_unacknowledged_seconds", GROUP, "For how long a reader has had the oldest of them."
)
GROUP_DEAD = _gauge("group_dead_letter_records", GROUP, "Dead letters that wait, as of the lag, if known.")
GROUP_COMMIT_FAILURES = _counter("group_commit_failures", GROUP, "Commits that failed; they are made again.")
GROUP_LEASES_NOT_MOVED = _counter(
    "group_leases_not_moved", GROUP, "Leases that a partition's next owner was not told of; their records come again."
)
GROUP_REBALANCES = _counter("group_rebalances", GROUP, "Rebalances that took partitions from this process.")

QUOTA_USED = _gauge("quota_used_ratio", ("application", "quota"), "Share of a quota in use; above 1: in debt.")
QUOTA_THROTTLED = _counter("quota_throttled", ("application", "quota"), "Requests refused or slowed for a quota.")
AUTH_FAILURES = _counter("auth_failures", ("reason",), "Requests without the right to what they asked for.")

STORE_UP = _gauge("store_up", ("cluster",), "Whether the store can be used.")
STORE_BYTES = _gauge("store_bytes_in_flight", ("cluster",), "Bytes of records on their way to the store.")
STORE_HANDOFF = _gauge("store_handoff_records", ("cluster",), "Records in the handoff.")
STORE_HANDOFF_OLDEST = _gauge("store_handoff_oldest_seconds", ("cluster",), "Age of the oldest of them.")
STORE_DURATION = _histogram("store_request_duration_seconds", ("cluster", "request"), "A request of ours to a store.")
STORE_QUEUE = _histogram("store_queue_seconds", ("cluster", "request"), "How long it waited to be sent.")
STORE_ERRORS = _counter("store_errors", ("cluster", "error"), "What stores answered instead of what was asked for.")

BREAKER_STATE = _gauge("breaker_state", ("cluster", "state"), "1 for the state that the breaker is in.")
BREAKER_TRANSITIONS = _counter("breaker_transitions", ("cluster", "state"), "Changes to a state.")
REGISTRY_UP = _gauge("registry_up", ("driver",), "Whether the registry can be reached.")
REGISTRY_DELAY = _histogram(
    "registry_apply_delay_seconds", ("driver",), "From the notice of a change until it is in force here."
)
CLUSTER_LINKS = _gauge("cluster_links", (), "Links to other gateways, whichever end made them.")
CLUSTER_STREAMS = _gauge("cluster_streams", (), "Readers whose records pass over a link, at either end.")
CLUSTER_REMOTE_READERS = _gauge("cluster_remote_readers", (), "Clients of other gateways that read here.")
CLUSTER_REQUESTS = _counter(
    "cluster_requests", ("direction", "request"), "Requests passed on to another gateway (out), and by others (in)."
)
CLUSTER_BYTES = _counter("cluster_bytes", ("direction",), "Bytes over links.")
CLUSTER_REFUSED = _counter("cluster_refused", (), "Connections to the endpoint that proved to be no gateway's.")
REACTOR_LAG = _histogram("reactor_lag_seconds", (), "How late a timer of 10 Hz comes.")

GENERATION = _gauge("configuration_generation", (), "How often the configuration was loaded.")
RELOAD_SUCCESS = _gauge("configuration_last_reload_success", (), "Whether the last load or reload succeeded.")
RELOAD_TIME = _gauge("configuration_last_reload_timestamp_seconds", (), "When that was.")
DRAINING = _gauge("draining", (), "Whether the gateway is stopping.")
BUILD_INFO = Family("kateway_build_info", "info", ("version", "python", "twisted"), "What runs.")
CPU = Family("process_cpu_seconds_total", "counter", (), "CPU time used.")
RESIDENT = Family("process_resident_memory_bytes", "gauge", (), "Memory in use.")
OPEN_FILES = Family("process_open_fds", "gauge", (), "Open file descriptors.")
MAX_FILES = Family("process_max_fds", "gauge", (), "Most file descriptors that may be open.")
PROCESS_UP = _gauge("process_up", ("process",), "Whether a process gave its figures, where there are several.")
STARTED = Family("process_start_time_seconds", "gauge", (), "When the process began.")
AUDIT_DROPPED = _counter("audit_dropped", ("sink",), "Audit events that a sink did not get.")
ELASTIC_HELD = _gauge("elastic_held", (), "Messages that wait because their key goes over to another partition.")
ELASTIC_WAITED = _counter("elastic_waited", (), "Messages that had to wait because their key went over.")
ELASTIC_REFUSED = _counter(
    "elastic_refused",
    (),
    "Messages that were refused because their deadline, or the room, ended while their key went over.",
)
ELASTIC_GROWTHS = _counter(
    "elastic_growths", (), "Changes of elastic topics' partitions that this gateway carried out."
)
ELASTIC_BOUND = _counter(
    "elastic_handover_bound", (), "Such changes in which handover_seconds ended before every group had read so far."
)
UI_SESSIONS = _gauge("ui_sessions", (), "Sessions of the manager.")
OVERFLOW = _counter("metrics_overflow", ("family",), "Label sets that had no room and went to (other).")
METRICS_PUSH_DROPPED = _counter(
    "metrics_push_dropped", ("reason",), "Lines that InfluxDB did not get: no room for more to wait, or refused."
)
TRACING_DROPPED = _counter(
    "tracing_dropped", ("reason",), "Spans that were lost: no room for more to wait (queue), or not taken (export)."
)

FAMILIES: dict[str, Family] = {family.name: family for family in list(globals().values()) if isinstance(family, Family)}
"""By name, in the order in which they are shown."""
