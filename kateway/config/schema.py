"""The configuration as values: attrs classes, each option with its unit in its name and its default in sight.

``configfile`` reads them from TOML. ``conf/kateway.toml`` shows every option with its default; a test holds it to
these classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import attrs

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


def _at_least(low: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value < low:
            raise ValueError(f"must be at least {low:g}, is {value:g}")

    return check


def _between(low: float, high: float) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}, is {value:g}")

    return check


def _name_of_at_most(chars: int) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    def check(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]*", value) or len(value) > chars:
            raise ValueError(f"must be letters, digits and . _ -, at most {chars}, is {value!r}")

    return check


DAY_SECONDS = 86400


@attrs.frozen(kw_only=True)
class HttpConfig:
    """The listeners and every limit of the HTTP edge."""

    public: tuple[str, ...] = ("tcp:9090:interface=127.0.0.1",)
    admin: tuple[str, ...] = ("tcp:9093:interface=127.0.0.1",)
    max_body_bytes: int = attrs.field(default=1048576, validator=_between(1, 1 << 30))
    drain_seconds: float = attrs.field(default=20.0, validator=_between(0, 3600))
    drain_delay_seconds: float = attrs.field(default=0.0, validator=_between(0, 3600))
    header_timeout_seconds: float = attrs.field(default=10.0, validator=_between(0.1, 3600))
    body_idle_timeout_seconds: float = attrs.field(default=30.0, validator=_between(0.1, 3600))
    keepalive_idle_seconds: float = attrs.field(default=75.0, validator=_between(0.1, DAY_SECONDS))
    write_stall_timeout_seconds: float = attrs.field(default=300.0, validator=_between(1, DAY_SECONDS))
    max_request_line_bytes: int = attrs.field(default=8192, validator=_between(64, 1 << 20))
    max_header_bytes: int = attrs.field(default=32768, validator=_between(256, 1 << 20))
    max_header_count: int = attrs.field(default=100, validator=_between(1, 10000))
    max_connections: int = attrs.field(default=10000, validator=_between(1, 1000000))
    max_connections_per_address: int = attrs.field(default=5000, validator=_between(1, 1000000))
    max_pipelined_requests: int = attrs.field(default=64, validator=_between(1, 10000))
    max_inflight_body_bytes: int = attrs.field(default=268435456, validator=_at_least(1048576))
    lingering_close_seconds: float = attrs.field(default=2.0, validator=_between(0, 60))
    half_close_seconds: float = attrs.field(default=1.0, validator=_between(0, 60))
    heartbeat_seconds: float = attrs.field(default=15.0, validator=_between(0.1, 3600))
    max_unsent_bytes: int = attrs.field(default=65536, validator=_between(4096, 1 << 26))
    max_queue_seconds: float = attrs.field(default=5.0, validator=_between(0.1, 60))
    refused_pause_seconds: float = attrs.field(default=0.05, validator=_between(0, 1))
    cors_origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    """Whose PROXY headers and X-Forwarded-For are believed."""


@attrs.frozen(kw_only=True)
class AdminTokenConfig:
    """A further token of the admin listener, and what it gives the right to."""

    file: str = ""
    role: Literal["admin", "operator", "viewer"] = "viewer"


AdminTokens = dict[str, AdminTokenConfig]


@attrs.frozen(kw_only=True)
class AdminConfig:
    """Access to the admin listener, its sessions, and how far an operator's looks go."""

    token_file: str = ""
    tokens: AdminTokens = attrs.field(factory=dict)
    """By their names."""
    max_sessions: int = attrs.field(default=1000, validator=_between(1, 10000))
    session_idle_seconds: float = attrs.field(default=1800.0, validator=_between(1, DAY_SECONDS))
    session_max_seconds: float = attrs.field(default=43200.0, validator=_between(1, 30 * DAY_SECONDS))
    max_portal_links: int = attrs.field(default=1000, validator=_between(1, 10000))
    portal_link_seconds: float = attrs.field(default=600.0, validator=_between(1, DAY_SECONDS))
    max_tenant_keys: int = attrs.field(default=100, validator=_between(1, 100000))
    """Of an application; those that administrators made count."""
    hosts: tuple[str, ...] = ()
    peek_max_records: int = attrs.field(default=10000, validator=_between(1, 1000000))
    peek_max_bytes: int = attrs.field(default=16777216, validator=_between(1024, 1 << 30))
    peek_max_seconds: float = attrs.field(default=5.0, validator=_between(0.1, 60))
    peek_value_bytes: int = attrs.field(default=4096, validator=_between(16, 1 << 20))
    trace_memory_frames: int = attrs.field(default=0, validator=_between(0, 100))
    """Of each allocation; 0: none is traced."""


@attrs.frozen(kw_only=True)
class TlsConfig:
    """TLS towards a Kafka cluster; ``ca_file`` empty: the system's trust store."""

    enabled: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


@attrs.frozen(kw_only=True)
class SaslConfig:
    """SASL towards a Kafka cluster. Secrets come from files, which are read again for each connection, or from the
    environment, never from this file.
    """

    mechanism: Literal["none", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "none"
    username: str = ""
    password_file: str = ""
    password_env: str = ""
    token_file: str = ""
    """For OAUTHBEARER."""


@attrs.frozen(kw_only=True)
class EmbeddedStorageConfig:
    """A cluster that lives in one SQLite file of ours."""

    driver: Literal["embedded"] = "embedded"
    path: str = "kateway-data"
    partitions: int = attrs.field(default=4, validator=_between(1, 1000))
    create_topics: bool = True
    max_inflight_bytes: int = attrs.field(default=67108864, validator=_at_least(1048576))
    max_bytes: int = attrs.field(default=0, validator=_at_least(0))
    """How large the file may grow; beyond it publishes are refused as when the disk is full. 0: as the disk allows."""
    prefetch_max_bytes: int = attrs.field(default=1048576, validator=_between(16384, 1 << 26))
    """How much is read ahead for each partition of a subscription that takes fast; slow ones get less."""
    rebalance_grace_seconds: float = attrs.field(default=5.0, validator=_between(0, 300))
    """How long the end of a subscription waits for its last commits."""
    retention_check_seconds: float = attrs.field(default=60.0, validator=_between(0.1, DAY_SECONDS))
    breaker_open_after_seconds: float = attrs.field(default=12.0, validator=_between(0, 3600))
    """Without a written publish, until publishes are refused at once; longer than Kafka needs to replace a dead broker.
    0: never.
    """
    breaker_minimum_requests: int = attrs.field(default=20, validator=_between(1, 1000000))
    breaker_probe_seconds: float = attrs.field(default=1.0, validator=_between(0.1, 10))


GroupProtocol = Literal["auto", "consumer", "classic"]


@attrs.frozen(kw_only=True)
class KafkaStorageConfig:
    """A Kafka cluster."""

    driver: Literal["kafka"]
    brokers: tuple[str, ...] = attrs.field(default=("127.0.0.1:9092",), validator=attrs.validators.min_len(1))
    brokers_from_zookeeper: str = ""
    """``host:port[,host:port…][/root]``: brokers are found there, not in ``brokers``. For Kafka up to 3.9."""
    create_topics: bool = False
    partitions: int = attrs.field(default=4, validator=_between(1, 10000))
    replicas: int = attrs.field(default=1, validator=_between(1, 100))
    compression: Compression = "none"
    max_inflight_bytes: int = attrs.field(default=67108864, validator=_at_least(1048576))
    max_request_bytes: int = attrs.field(default=1000000, validator=_at_least(1024))
    fetch_max_bytes: int = attrs.field(default=1048576, validator=_between(1024, 1 << 26))
    connect_timeout_seconds: float = attrs.field(default=5.0, validator=_between(0.1, 300))
    request_timeout_seconds: float = attrs.field(default=10.0, validator=_between(0.5, 300))
    metadata_refresh_seconds: float = attrs.field(default=60.0, validator=_between(1, 3600))
    group_protocol: GroupProtocol = "auto"
    """``consumer``: the brokers assign (KIP-848), from Kafka 4.0 on. ``auto``: where they offer that and keep a member
    that is gone no longer than we would.
    """
    breaker_open_after_seconds: float = attrs.field(default=12.0, validator=_between(0, 3600))
    """Without a written publish, until publishes are refused at once; longer than Kafka needs to replace a dead broker.
    0: never.
    """
    breaker_minimum_requests: int = attrs.field(default=20, validator=_between(1, 1000000))
    breaker_probe_seconds: float = attrs.field(default=1.0, validator=_between(0.1, 10))
    handoff: bool = False
    """Keeps records on disk while the cluster does not take them; answered 202 instead of 503."""
    handoff_max_bytes: int = attrs.field(default=1073741824, validator=_at_least(1048576))
    handoff_max_age_seconds: float = attrs.field(default=86400.0, validator=_between(1, 30 * DAY_SECONDS))
    handoff_drain_bytes_per_second: int = attrs.field(default=16777216, validator=_between(1024, 1 << 34))
    tls: TlsConfig = TlsConfig()
    sasl: SaslConfig = SaslConfig()


PluginOptions = dict[str, dict[str, Any]]
"""Options of what others add by entry points: one table each, by the entry point's name."""

OptionsTable = dict[str, Any]
"""The options of one such plugin, for its own attrs class to check."""


@attrs.frozen(kw_only=True)
class PluginStorageConfig:
    """A cluster whose driver is a plugin: ``driver`` is the name of its entry point."""

    driver: str
    partitions: int = attrs.field(default=4, validator=_between(1, 10000))
    replicas: int = attrs.field(default=1, validator=_between(1, 100))
    create_topics: bool = False
    max_inflight_bytes: int = attrs.field(default=67108864, validator=_at_least(1048576))
    """Shared among the applications; what the store itself takes is the driver's to bound."""
    breaker_open_after_seconds: float = attrs.field(default=12.0, validator=_between(0, 3600))
    breaker_minimum_requests: int = attrs.field(default=20, validator=_between(1, 1000000))
    breaker_probe_seconds: float = attrs.field(default=1.0, validator=_between(0.1, 10))
    options: OptionsTable = attrs.field(factory=dict)


StorageConfig = EmbeddedStorageConfig | KafkaStorageConfig | PluginStorageConfig


@attrs.frozen(kw_only=True)
class PublishConfig:
    """Publishes that carry an Idempotency-Key."""

    idempotency_window_seconds: float = attrs.field(default=3600.0, validator=_between(1, 30 * DAY_SECONDS))
    idempotency_max_entries: int = attrs.field(default=100000, validator=_between(1, 100000000))
    idempotency_scan_max_bytes: int = attrs.field(default=268435456, validator=_at_least(1048576))


@attrs.frozen(kw_only=True)
class DeliveryConfig:
    """How records are handed to readers and when they count as delivered."""

    max_deliveries: int = attrs.field(default=0, validator=_between(0, 1000000))
    commit_interval_seconds: float = attrs.field(default=1.0, validator=_between(0.01, 60))
    linger_seconds: float = attrs.field(default=15.0, validator=_between(0, 3600))
    session_timeout_seconds: float = attrs.field(default=10.0, validator=_between(6, 300))
    instance_name: str = attrs.field(default="", validator=_name_of_at_most(100))
    settle_seconds: float = attrs.field(default=2.0, validator=_between(0.05, 300))
    max_unsettled_bytes: int = attrs.field(default=4194304, validator=_between(65536, 1 << 30))
    max_unacknowledged_records: int = attrs.field(default=10000, validator=_between(1, 10000000))
    max_unacknowledged_bytes: int = attrs.field(default=16777216, validator=_between(65536, 1 << 32))


@attrs.frozen(kw_only=True)
class RegistryConfig:
    """Applications and their rights: ``open`` lets every caller on loopback do everything.

    All but ``path`` and ``driver`` are for ZooKeeper. Its credentials, ``user:password`` of the digest scheme, come
    from a file or the environment, never from this file.
    """

    driver: Literal["open", "embedded", "file", "zookeeper"] = "open"
    path: str = ""
    hosts: str = ""
    session_timeout_seconds: float = attrs.field(default=6.0, validator=_between(1, 300))
    write_timeout_seconds: float = attrs.field(default=5.0, validator=_between(0.1, 300))
    credentials_file: str = ""
    credentials_env: str = ""
    access: Literal["open", "creator", "creator-world-read"] = "open"


@attrs.frozen(kw_only=True)
class JwtConfig:
    """How a bearer token is checked, and which of its claims names the application."""

    algorithms: tuple[str, ...] = ("RS256", "ES256")
    jwks_file: str = ""
    secret_file: str = ""
    audience: str = ""
    issuer: str = ""
    application_claim: str = "application"
    kinds_claim: str = ""
    leeway_seconds: float = attrs.field(default=30.0, validator=_between(0, 600))
    max_token_bytes: int = attrs.field(default=8192, validator=_between(256, 1 << 16))


@attrs.frozen(kw_only=True)
class ClientCertificateConfig:
    """Which application a client certificate's subject stands for (the certificate itself is checked by TLS)."""

    subjects: dict[str, str] = attrs.field(factory=dict)
    common_name_is_application: bool = False


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Authentication: its methods, tried in their order, and the consequences of repeated failures."""

    methods: tuple[str, ...] = ("key-secret",)
    authorizer: str = "bindings"
    max_cached_secrets: int = attrs.field(default=10000, validator=_between(1, 10000000))
    max_failures: int = attrs.field(default=20, validator=_between(1, 1000000))
    max_address_failures: int = attrs.field(default=200, validator=_between(1, 1000000))
    failure_window_seconds: float = attrs.field(default=10.0, validator=_between(0.1, DAY_SECONDS))
    right_remembered_seconds: float = attrs.field(default=3600.0, validator=_between(0, DAY_SECONDS))
    max_tracked_addresses: int = attrs.field(default=10000, validator=_between(1, 10000000))
    note_used_interval_seconds: float = attrs.field(default=60.0, validator=_between(1, DAY_SECONDS))
    jwt: JwtConfig = JwtConfig()
    client_certificate: ClientCertificateConfig = attrs.field(factory=ClientCertificateConfig)
    options: PluginOptions = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class QuotasConfig:
    """Memory for counting; the quotas themselves are in the registry."""

    max_tracked: int = attrs.field(default=100000, validator=_between(1, 10000000))
    headers: bool = True


@attrs.frozen(kw_only=True)
class AuditConfig:
    """Which events are kept, and where: every admin change always, the rest by option."""

    sinks: tuple[str, ...] = ("file",)
    publishes: bool = False
    subscribes: bool = False
    acknowledgements: bool = False
    max_queued_events: int = attrs.field(default=10000, validator=_between(1, 10000000))
    file: str = ""
    max_file_bytes: int = attrs.field(default=104857600, validator=_at_least(4096))
    max_files: int = attrs.field(default=10, validator=_between(1, 10000))
    topic: str = ""
    cluster: str = "default"
    topic_timeout_seconds: float = attrs.field(default=10.0, validator=_between(0.1, 300))
    options: PluginOptions = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class LogConfig:
    """Logging. ``access``: one event a request, to the log or to ``access_file``."""

    format: Literal["text", "json"] = "text"
    access: bool = True
    access_file: str = ""


@attrs.frozen(kw_only=True)
class InfluxConfig:
    """An InfluxDB that the figures are sent to; without ``url`` none are. ``database`` is of version 1, ``org`` and
    ``bucket`` of version 2. Secrets come from files or the environment, never from this file.
    """

    url: str = ""
    database: str = ""
    user: str = ""
    password_file: str = ""
    password_env: str = ""
    org: str = ""
    bucket: str = ""
    token_file: str = ""
    token_env: str = ""
    ca_file: str = ""
    """Of https; empty: the system's trust store."""
    interval_seconds: float = attrs.field(default=10.0, validator=_between(0.1, DAY_SECONDS))
    tags: dict[str, str] = attrs.field(factory=dict)
    timeout_seconds: float = attrs.field(default=10.0, validator=_between(0.1, 300))
    """Of a request, from connecting to the end of its answer."""
    max_request_lines: int = attrs.field(default=5000, validator=_between(1, 1000000))
    max_queue_bytes: int = attrs.field(default=16777216, validator=_between(65536, 1 << 30))
    """What waits while the server is away, compressed. Beyond it the oldest is dropped."""


@attrs.frozen(kw_only=True)
class MetricsConfig:
    """What is counted, how much of it is kept, and where it is sent beside those that ask for it."""

    enabled: bool = True
    max_series: int = attrs.field(default=40000, validator=_between(1000, 1000000))
    """Lines that are counted; topics, groups and applications beyond it are counted together."""
    sinks: tuple[str, ...] = ()
    sink_interval_seconds: float = attrs.field(default=10.0, validator=_between(0.1, DAY_SECONDS))
    options: PluginOptions = attrs.field(factory=dict)
    influx: InfluxConfig = attrs.field(factory=InfluxConfig)


@attrs.frozen(kw_only=True)
class PluginsConfig:
    """When a plugin's call has failed, and when a plugin is taken out."""

    plugin_max_failures: int = attrs.field(default=5, validator=_between(1, 1000000))
    plugin_max_seconds: float = attrs.field(default=0.05, validator=_between(0.001, 60))
    """Of a call that holds the reactor up: of a transform, an authenticator, an authorizer."""
    plugin_max_write_seconds: float = attrs.field(default=10.0, validator=_between(0.01, 3600))
    """Of a sink's write, which holds nothing up."""
    plugin_probe_seconds: float = attrs.field(default=10.0, validator=_between(0.1, 3600))


@attrs.frozen(kw_only=True)
class HistoryConfig:
    """What is kept of the figures of the last days, in memory and in a file; nothing without ``[metrics] enabled``."""

    enabled: bool = True
    max_bytes: int = attrs.field(default=16777216, validator=_between(1 << 20, 1 << 32))
    """Applications, topics and groups that were silent longest have none where they do not fit."""
    snapshot_interval_seconds: float = attrs.field(default=300.0, validator=_between(1, DAY_SECONDS))
    """So much is lost at most where the process is killed."""
    lag_interval_seconds: float = attrs.field(default=60.0, validator=_between(1, 3600))
    """How old the lag of a group may be that was read here within the last day and is not any more."""


ProcessCount = int | Literal["auto"]


def _number_or_auto(_instance: Any, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if value != "auto" and not 1 <= value <= 256:
        raise ValueError(f"must be from 1 to 256, or auto, is {value}")


@attrs.frozen(kw_only=True)
class ProcessConfig:
    """The processes of one host that share its listeners, and the bounds within which one is replaced."""

    count: ProcessCount = attrs.field(default=1, validator=_number_or_auto)
    """``auto``: one for each processor that this host gives us."""
    hang_seconds: float = attrs.field(default=5.0, validator=_between(1, 300))
    """Without a sign of life for so long, a process is killed and replaced."""
    start_seconds: float = attrs.field(default=60.0, validator=_between(1, 3600))
    """How long a process may take until it serves."""
    max_restart_pause_seconds: float = attrs.field(default=30.0, validator=_between(0.1, 3600))
    """Between attempts to replace a process that ends again and again right after its start."""


@attrs.frozen(kw_only=True)
class ElasticConfig:
    """How elastic topics grow; which ones are is in the registry."""

    sustained_seconds: float = attrs.field(default=300.0, validator=_between(1, DAY_SECONDS))
    """A load has to be above its target for so long."""
    sample_seconds: float = attrs.field(default=10.0, validator=_between(0.5, 600))
    """How often the store is asked for a topic's load."""
    lease_seconds: float = attrs.field(default=20.0, validator=_between(1, 3600))
    """For so long a gateway that does not hear of the registry places keys as before."""
    gone_seconds: float = attrs.field(default=90.0, validator=_between(1, 3600))
    """For so long a growth waits after a gateway has left the list: it may be cut off and write all the same. Longer
    than a session, ``lease_seconds`` and the longest publish together.
    """
    max_held_bytes: int = attrs.field(default=33_554_432, validator=_between(0, 1 << 34))
    """Of messages that wait while their keys go over."""
    max_topics: int = attrs.field(default=2000, validator=_between(1, 2000))
    """That are elastic. Each gateway's entry names them all, and a node of ZooKeeper's takes 1 MB."""


@attrs.frozen(kw_only=True)
class TracingConfig:
    """Traces of requests, sent by OTLP over HTTP; without ``otlp_endpoint`` nothing is traced."""

    otlp_endpoint: str = ""
    sample_ratio: float = attrs.field(default=0.01, validator=_between(0, 1))
    """Of requests without a ``traceparent``; of those that have one the caller decides."""
    service_name: str = attrs.field(default="kateway", validator=_name_of_at_most(100))
    interval_seconds: float = attrs.field(default=1.0, validator=_between(0.05, 60))
    """For so long spans wait at most for others to be sent with."""
    timeout_seconds: float = attrs.field(default=10.0, validator=_between(0.1, 300))
    """Of a request with its repeats."""
    max_request_spans: int = attrs.field(default=512, validator=_between(1, 100000))
    max_queued_spans: int = attrs.field(default=8192, validator=_between(1, 1000000))
    """What waits while the receiver is away; beyond it spans are dropped and counted."""


@attrs.frozen(kw_only=True)
class ClusterConfig:
    """Passing on between gateways; without ``endpoint`` a gateway stands alone."""

    endpoint: str = ""
    advertise: str = ""
    """``host:port`` where other gateways reach the endpoint; empty: where it listens."""
    secret_file: str = ""
    ca_file: str = ""
    """Of ``ssl:`` endpoints: the authority that the certificates of all gateways are of."""
    certificate_file: str = ""
    key_file: str = ""
    """What this gateway shows where it dials, in PEM."""
    heartbeat_seconds: float = attrs.field(default=1.0, validator=_between(0.05, 60))
    silence_seconds: float = attrs.field(default=5.0, validator=_between(0.2, 300))
    """A link on which the other gateway says nothing for so long is cut; so long, too, connecting may take."""
    request_timeout_seconds: float = attrs.field(default=5.0, validator=_between(0.1, 60))
    """Of a request that is passed on; with ``sync=1`` the commit is waited for, too."""
    directory_seconds: float = attrs.field(default=3.0, validator=_between(0, 60))
    """How old the coordinator's word on where a group is held may be."""
    max_links: int = attrs.field(default=1000, validator=_between(1, 100000))
    max_handshakes: int = attrs.field(default=100, validator=_between(1, 100000))
    """Connections that have not proved yet that they are gateways'."""
    max_link_streams: int = attrs.field(default=10000, validator=_between(1, 1000000))
    """Of each kind that one gateway may have at another: calls, readers."""
    max_frame_bytes: int = attrs.field(default=67108864, validator=_between(65536, 1 << 30))
    """Of what passes at once; a record that is larger is not passed on."""


@attrs.frozen(kw_only=True)
class Config:
    """Everything, as one immutable value."""

    http: HttpConfig = HttpConfig()
    admin: AdminConfig = AdminConfig()
    storage: dict[str, StorageConfig] = attrs.field(factory=lambda: {"default": EmbeddedStorageConfig()})
    publish: PublishConfig = PublishConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    registry: RegistryConfig = RegistryConfig()
    auth: AuthConfig = attrs.field(factory=AuthConfig)
    quotas: QuotasConfig = QuotasConfig()
    audit: AuditConfig = attrs.field(factory=AuditConfig)
    log: LogConfig = LogConfig()
    metrics: MetricsConfig = attrs.field(factory=MetricsConfig)
    plugins: PluginsConfig = PluginsConfig()
    transforms: PluginOptions = attrs.field(factory=dict)
    """Of topics in open mode, by ``default/TOPIC/VERSION``; with a registry they are there."""
    history: HistoryConfig = HistoryConfig()
    elastic: ElasticConfig = ElasticConfig()
    tracing: TracingConfig = TracingConfig()
    cluster: ClusterConfig = ClusterConfig()
    process: ProcessConfig = ProcessConfig()
    data_directory: str = ""
    """Of the audit and the embedded registry; empty: beside the default embedded store, else ``kateway-data``."""
