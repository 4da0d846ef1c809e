"""What kateway is called, what it needs, and what its wheel carries: the package and the twistd plugin."""

import os
import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
COMPILED = (
    "backoff",
    "bounded_cache",
    "core/access/control",
    "core/breaker",
    "core/gateway",
    "core/inflight_shares",
    "drain_pace",
    "model",
    "observe/bundles",
    "observe/cells",
    "observe/http",
    "storage/sqlite/records",
    "storage/kafka/producer/broker_sender",
    "storage/kafka/producer/partition_queue",
    "storage/kafka/producer/pending",
    "storage/kafka/producer/producer",
    "storage/kafka/producer/topic_route",
    "storage/kafka/producer/verdicts",
    "storage/kafka/protocol/primitives",
    "storage/kafka/protocol/produce_requests",
    "storage/kafka/protocol/record_batches",
    "storage/partitioner",
    "web/exchange",
    "web/http1/exchange",
    "web/http1/head_cache",
    "web/http1/parser",
    "web/messages/admission",
    "web/messages/fair_turns",
    "web/messages/paths",
    "web/messages/publish",
    "web/messages/publish_counts",
    "web/messages/queries",
    "web/messages/router",
    "web/params",
    "web/problems",
)
"""The modules of the hot paths. With KATEWAY_COMPILE=1 they become C extensions (mypyc), from the same typed source; a
subclass of a compiled class must be compiled too. Figures: docs/performance.rst."""

version = re.search(r'__version__ = "([^"]+)"', (here / "kateway/__init__.py").read_text(encoding="utf-8")).group(1)

requirements = [
    "twisted[tls]>=24.7",
    "klein>=24.8",
    "afkak==21.5.0.post0",
    "kazoo>=2.10",
    "service-identity>=24.1",
    "httptools>=0.6.4",
    "attrs>=23.2",
    "cattrs>=24.1",
    "common-expression-language>=0.10,<0.11",
    "cramjam>=2.9",
    "google-crc32c>=1.6",
    "jsonschema-rs>=0.61",
    "mypy-extensions>=1.0",
    "orjson>=3.10",
    "pyjwt[crypto]>=2.9",
    "shtab>=1.7",
    "treq>=24.9",
    "wsproto>=1.2",
]
compiling = os.environ.get("KATEWAY_COMPILE") == "1"
extensions = []
if compiling and {"build_ext", "bdist_wheel"} & set(sys.argv):
    # not when pip only asks for metadata, or for the requirements of the build: mypyc is one of them
    from mypyc.build import mypycify

    modules = [f"kateway/{module}.py" for module in COMPILED]
    extensions = mypycify(["--config-file=pyproject.toml", *modules], opt_level="3", debug_level="0")

setup(
    name="kateway",
    version=version,
    description="An HTTP gateway to Kafka: publish and subscribe with anything that can curl",
    long_description=(here / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: Twisted",
        "Intended Audience :: System Administrators",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Networking",
    ],
    python_requires=">=3.11",
    # twisted/plugins has no __init__.py, on purpose: it is a folder that several distributions share
    packages=[*find_packages(include=["kateway", "kateway.*"]), "twisted.plugins"],
    package_data={"kateway": ["py.typed", "web/openapi.json", "web/ui/*", "web/ui/pages/*"]},
    install_requires=requirements,
    extras_require={"tracing": ["opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30"]},
    # mypyc infers more where it sees the types of what is imported
    setup_requires=["mypy[mypyc]>=1.18", "mypy-zope>=1.0.9", *requirements] if compiling else [],
    ext_modules=extensions,
    entry_points={
        "console_scripts": ["kateway-admin = kateway.cli.main:console"],
        "kateway.authenticators": [
            "key-secret = kateway.core.access.key_secret:key_secret_authenticator",
            "jwt = kateway.core.access.bearer_token:jwt_authenticator",
            "client-certificate = kateway.core.access.client_certificate:client_certificate_authenticator",
        ],
        "kateway.authorizers": ["bindings = kateway.core.access.authorization:binding_authorizer"],
        "kateway.audit_sinks": [
            "file = kateway.core.audit.sinks:file_sink",
            "topic = kateway.core.audit.sinks:topic_sink",
        ],
    },
    zip_safe=False,
)
