"""Brokers that want TLS and SASL."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from kafka_reader import until
from servers.certificate import self_signed
from servers.fixtures import skipping_where_missing
from servers.kafka import KafkaCluster
from twisted.internet import reactor
from twisted.internet.task import deferLater

from kateway.config.schema import KafkaStorageConfig, SaslConfig, TlsConfig
from kateway.model import Message, Receipt
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

MODULE = "org.apache.kafka.common.security"
PASSWORD = "pa,ss=word"
SESSION_SECONDS = 2
"""What the broker gives a login by SCRAM-SHA-256; other mechanisms' logins last."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and the same with its key."""
    folder = self_signed(tmp_path_factory.mktemp("tls"))
    public, both = folder / "cert.pem", folder / "server.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + public.read_bytes())
    return public, both


@pytest.fixture(scope="module", params=["SASL_PLAINTEXT", "SASL_SSL"])
def secured(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[tuple[KafkaCluster, TlsConfig]]:
    """A broker whose clients have to authenticate, inside TLS or not."""
    public, both = certificate
    settings = {
        "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,PLAINTEXT:{request.param},DIRECT:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.plaintext.oauthbearer.sasl.jaas.config": (
            f'{MODULE}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
        "listener.name.plaintext.scram-sha-256.connections.max.reauth.ms": str(SESSION_SECONDS * 1000),
        "listener.name.plaintext.plain.sasl.jaas.config": (
            f'{MODULE}.plain.PlainLoginModule required user_me="{PASSWORD}";'
        ),
        "listener.name.plaintext.scram-sha-256.sasl.jaas.config": f"{MODULE}.scram.ScramLoginModule required;",
        "listener.name.plaintext.scram-sha-512.sasl.jaas.config": f"{MODULE}.scram.ScramLoginModule required;",
    }
    if request.param == "SASL_SSL":
        settings["listener.name.plaintext.ssl.keystore.type"] = "PEM"
        settings["listener.name.plaintext.ssl.keystore.location"] = str(both)
    with skipping_where_missing():
        cluster = KafkaCluster("4.3.1", settings=settings, proxied=True)
    try:
        cluster.start()
        admin = AdminClient({"bootstrap.servers": cluster.direct, "log_level": 0})
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            wanted = UserScramCredentialUpsertion("me", ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
            admin.alter_user_scram_credentials([wanted])["me"].result(30)
        yield cluster, TlsConfig(enabled=request.param == "SASL_SSL", ca_file=str(public))
    finally:
        cluster.close()


def token(seconds: float) -> str:
    """What Kafka's unsecured validator takes: a JWT without a signature."""

    def part(table: dict[str, object]) -> str:
        return urlsafe_b64encode(json.dumps(table).encode()).rstrip(b"=").decode()

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': 'me', 'iat': now - 1, 'exp': now + seconds})}."


def store_for(secured: tuple[KafkaCluster, TlsConfig], mechanism: str, secret: str, folder: Path) -> KafkaStore:
    cluster, tls = secured
    file = folder / "secret"
    file.write_text(secret + "\n")
    if mechanism == "OAUTHBEARER":
        sasl = SaslConfig(mechanism="OAUTHBEARER", token_file=str(file))
    else:
        sasl = SaslConfig(mechanism=mechanism, username="me", password_file=str(file))
    return KafkaStore(KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses), tls=tls, sasl=sasl), reactor)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"])
@here
async def test_a_store_that_may_publishes_and_reads(secured, mechanism, tmp_path, topic_name):
    store = store_for(secured, mechanism, token(60) if mechanism == "OAUTHBEARER" else PASSWORD, tmp_path)
    await store.start()
    try:
        await store.create_topic(topic_name, partitions=1)
        outcomes = await store.publish(topic_name, [Message(b"x" * 500_000)], -1, reactor.seconds() + 10)
        assert outcomes == [Receipt(0, 0)]
        fetched = await store.read(topic_name, 0, 0, max_bytes=1 << 20, wait_seconds=5)
        assert [record.value for record in fetched.records] == [b"x" * 500_000]
    finally:
        await store.stop(5)


@pytest.mark.parametrize(
    ("mechanism", "wrong", "reason"),
    [
        ("PLAIN", "wrong", "uthentication failed"),
        ("SCRAM-SHA-512", "wrong", "uthentication failed"),
        ("OAUTHBEARER", token(-60), "invalid_token"),
    ],
)
@here
async def test_a_wrong_secret_is_what_health_says_until_the_file_has_the_right_one(
    secured, mechanism, wrong, reason, tmp_path
):
    store = store_for(secured, mechanism, wrong, tmp_path)
    await store.start()
    try:
        await until(lambda: reason in store.health().reason)
        assert wrong not in store.health().reason
        (tmp_path / "secret").write_text(token(60) if mechanism == "OAUTHBEARER" else PASSWORD)
        await until(lambda: store.health().healthy)
    finally:
        await store.stop(5)


@here
async def test_a_login_that_the_broker_limits_is_renewed_without_a_lost_request(secured, tmp_path, topic_name):
    cluster, _ = secured
    store = store_for(secured, "SCRAM-SHA-256", PASSWORD, tmp_path)
    await store.start()
    try:
        await store.create_topic(topic_name, partitions=2)
        end = reactor.seconds() + 2 * SESSION_SECONDS
        offsets: dict[int, list[object]] = {-1: [], 1: []}
        asked = 0
        while reactor.seconds() < end:
            asked += 1
            for partition, (acks, outcomes) in enumerate(offsets.items()):
                message = Message(b"%d" % asked, partition=partition)
                publishing = store.publish(topic_name, [message], acks, reactor.seconds() + 10)
                publishing.addCallback(outcomes.extend)
            await deferLater(reactor, 0.005)
            if asked == 1:
                await until(lambda: all(offsets.values()))
                before = cluster.proxies[1].connections_made
        await until(lambda: all(len(outcomes) == asked for outcomes in offsets.values()))
        # in their order, each once
        for partition, outcomes in enumerate(offsets.values()):
            assert outcomes == [Receipt(partition, offset) for offset in range(asked)]
        assert cluster.proxies[1].connections_made > before
        assert store.health().healthy
    finally:
        await store.stop(5)


@here
async def test_a_store_that_does_not_authenticate_is_told_what_may_be_missing(secured):
    cluster, _ = secured
    store = KafkaStore(KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses)), reactor)
    await store.start()
    try:
        await until(lambda: "TLS" in store.health().reason)
        assert not store.health().healthy
    finally:
        await store.stop(5)
