"""Joins the parts that pass on to other gateways; without ``[cluster] endpoint`` there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.ssl import Certificate as Trusted
from twisted.internet.ssl import PrivateCertificate, optionsForClientTLS, trustRootFromCertificates

from kateway.cluster.directory import CoordinatorDirectory, label, labelled
from kateway.cluster.interface import UNIX, Home, same_place
from kateway.cluster.links import Links
from kateway.cluster.relay import Siblings, address_of
from kateway.config.addresses import parse_address
from kateway.config.schema import ClusterConfig
from kateway.core.groups.memberships import Memberships
from kateway.core.passing.passing import PassingOn
from kateway.core.passing.serving import STATE_SECONDS, Serving
from kateway.core.transforms.in_force import TransformsInForce
from kateway.daemon.periodic import RegularWork
from kateway.daemon.secret import secret
from kateway.errors import ConfigError
from kateway.observe import families
from kateway.observe.delivery import DeliveryCells
from kateway.observe.exposition import Sampled
from kateway.observe.series import Series
from kateway.storage.interface import GroupMembers, Store
from kateway.web.tcp.endpoints import WILDCARDS, parse_endpoint
from kateway.web.tcp.listener import bound_address, listen

Adopt = Callable[[IProtocolFactory], Sequence[IListeningPort]]
LEAST_SECRET_CHARACTERS = 16
END = b"-----END CERTIFICATE-----"


class Clustering:
    """Links to other gateways, and what is done over them. ``ConfigError``: a secret or certificate cannot be read."""

    def __init__(
        self,
        config: ClusterConfig,
        name: str,
        reactor: Any,
        stores: Mapping[str, Store],
        groups: Memberships,
        transforms: TransformsInForce,
        series: Series | None,
        siblings: Siblings | None = None,
        adopt: Adopt | None = None,
    ) -> None:
        """``siblings``: the processes of this gateway, where it has several, and ``adopt`` then listens on the sockets
        that the supervisor made for this one.
        """
        self._adopt = adopt
        self._siblings = siblings
        self._inner_port: IListeningPort | None = None
        self.address = config.advertise
        self._config = config
        self._name = name
        self._reactor = reactor
        self._series = series
        self._port: IListeningPort | None = None
        self.serving = Serving(groups, transforms, reactor, self._cells)
        tls = client_tls(config) if config.endpoint.startswith("ssl:") else None
        self.links = Links(
            reactor,
            config,
            cluster_secret(config).encode(),
            name,
            self.serving,
            tls,
            certified=bool(tls) and not config.secret_file,
            siblings=siblings,
        )
        shared = {name: cast(GroupMembers, store) for name, store in stores.items() if hasattr(store, "members")}
        directory = CoordinatorDirectory(shared, reactor.seconds, config.directory_seconds)
        self.passing = PassingOn(name, groups, directory, self.links, reactor, config)

    def _cells(self, names: Sequence[str], cluster: str) -> DeliveryCells | None:
        series = self._series
        if series is None:
            return None
        return DeliveryCells(series.group(*names), series.cluster(cluster), series.seconds, series.wall)

    async def start(self, regular: RegularWork) -> None:
        """Listens. ``ConfigError``: the endpoint is taken."""
        if self._config.endpoint:
            if self._adopt is None:
                self._port = await listen(self._reactor, self._config.endpoint, self.links.factory)
            else:
                (self._port,) = self._adopt(self.links.factory)
            self.address = self.address or bound_address(self._port)
        if self._siblings is not None:
            await self._listen_inside(self._siblings)
        self.links.addresses = frozenset({self.address})
        regular.every(STATE_SECONDS, self.serving.tell_states)

    async def _listen_inside(self, siblings: Siblings) -> None:
        """Listens for links from the other processes of this host, and from other hosts through them."""
        path = siblings.socket_path(siblings.index)
        self._inner_port = await listen(self._reactor, f"unix:{path}:mode=600", self.links.inner_factory)
        self.links.address = self.address
        self.address = address_of(self.address, siblings.index) if self.address else f"unix:{path}"

    def drain(self) -> None:
        """Ends the readers of other gateways' clients. Acknowledgements still come, over new links, too: until the
        groups are left the leases are here.
        """
        self.passing.stop()
        self.serving.drain()

    async def give_way(self) -> None:
        """Takes no more links, and ends those that came in: this process holds no group any more."""
        await self._stop_listening()
        self.links.give_way()

    async def stop(self) -> None:
        """Takes no more links, and ends all that there are."""
        await self._stop_listening()
        self.links.stop()

    async def _stop_listening(self) -> None:
        ports, self._port, self._inner_port = (self._port, self._inner_port), None, None
        for port in ports:
            if port is not None:
                await maybeDeferred(port.stopListening)

    def goes_on_as(self, client_id: str) -> bool:
        """Goes on as a member that another process was, which called itself so; ``False``: other gateways that look for
        it by that would not come here.
        """
        home = labelled(client_id)
        if home is None or not same_place(home.gateway, self._name):
            return False
        if home.address != self.address and not (home.address.startswith(UNIX) and self.address.startswith(UNIX)):
            return False
        if home.gateway != self._name:
            self.passing.goes_on_as(home.gateway, self._name)
        return True

    def gives_way_to(self, name: str) -> None:
        """The process of this name goes on with the memberships of this one."""
        self.passing.goes_on_as(self._name, name)

    def label(self) -> str:
        """What the members of this gateway append to their client id."""
        return label(Home(self._name, self.address))

    @property
    def advertised(self) -> str:
        """The address that the other gateways are told, the same for all processes; empty where there is none."""
        return self.address if self._siblings is None else self.links.address

    def linked(self) -> tuple[str, ...]:
        """The gateways that there is a link to."""
        return tuple(sorted({link.peer for link in self.links.live()}))

    def sampled(self) -> Iterator[Sampled]:
        """The figures of the links."""
        live = self.links.live()
        yield families.CLUSTER_LINKS, (), float(len(live))
        yield families.CLUSTER_STREAMS, (), float(sum(link.streams for link in live))
        yield families.CLUSTER_REMOTE_READERS, (), float(self.serving.readers)
        yield families.CLUSTER_REFUSED, (), float(self.links.refused)
        for way, counts in (("out", self.passing.counts), ("in", self.serving.passed)):
            for what, count in counts.items():
                yield families.CLUSTER_REQUESTS, (way, what), float(count)
        for way, size in (("in", self.links.bytes_received()), ("out", self.links.bytes_sent())):
            yield families.CLUSTER_BYTES, (way,), float(size)


def cluster_secret(config: ClusterConfig) -> str:
    """The secret of all gateways; empty where none is needed. ``ConfigError``."""
    found = secret("cluster.secret", config.secret_file, "")
    if config.secret_file and len(found) < LEAST_SECRET_CHARACTERS:
        raise ConfigError(
            [f"cluster.secret_file: {config.secret_file} has fewer than {LEAST_SECRET_CHARACTERS} characters"]
        )
    return found


def client_tls(config: ClusterConfig) -> Callable[[str], Any]:
    """The options of a TLS connection to a gateway, by its host. ``ConfigError`` names the file that is at fault."""
    trust = None  # the system's
    if config.ca_file:
        pems = _read("cluster.ca_file", config.ca_file).split(END)[:-1]
        try:
            trust = trustRootFromCertificates([Trusted.loadPEM(pem + END + b"\n") for pem in pems])
        except (SSL.Error, ValueError) as error:
            raise ConfigError([f"cluster.ca_file: {config.ca_file} is no certificate in PEM"]) from error
        if not pems:
            raise ConfigError([f"cluster.ca_file: {config.ca_file} holds no certificate"])
    shown = None
    if config.certificate_file:
        pem = _read("cluster.certificate_file", config.certificate_file) + b"\n"
        pem += _read("cluster.key_file", config.key_file)
        try:
            shown = PrivateCertificate.loadPEM(pem)
        except (SSL.Error, ValueError) as error:
            raise ConfigError(["cluster.key_file: certificate_file and key_file are no pair in PEM"]) from error
    return lambda host: optionsForClientTLS(host, trustRoot=trust, clientCertificate=shown)


def _read(option: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigError([f"{option}: {file}: {error.strerror or error}"]) from error


def faults(config: ClusterConfig) -> list[str]:
    """Names what the options say wrongly together."""
    if not config.endpoint:
        given = [name for name in ("advertise", "secret_file", "ca_file") if getattr(config, name)]
        return [f"cluster.{name}: means nothing without cluster.endpoint" for name in given]
    problems: list[str] = []
    try:
        listening = parse_endpoint(config.endpoint)
    except ConfigError as error:
        return [f"cluster.endpoint: {problem}" for problem in error.problems]
    if listening.kind not in {"tcp", "tcp6", "ssl"}:
        problems.append("cluster.endpoint: other hosts reach tcp: and ssl: endpoints only")
    if config.advertise:
        try:
            parse_address(config.advertise)
        except ValueError as error:
            problems.append(f"cluster.advertise: {error}")
    elif listening.interface in WILDCARDS:
        problems.append("cluster.advertise: the endpoint has no address of its own: say HOST:PORT of this host")
    certified = listening.kind == "ssl" and config.ca_file and "clientCa" in listening.options
    if not (config.secret_file or listening.is_loopback or certified):
        problems.append(
            "cluster.secret_file: needed unless the endpoint is on loopback, or is ssl: with clientCa beside a ca_file"
        )
    if bool(config.certificate_file) != bool(config.key_file):
        problems.append("cluster.key_file: certificate_file and key_file go together")
    if config.silence_seconds < 2 * config.heartbeat_seconds:
        problems.append("cluster.silence_seconds: must be at least twice heartbeat_seconds")
    return problems
