"""What kateway is called, what it needs, and what its wheel carries: the package and the twistd plugin."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "([^"]+)"', (here / "kateway/__init__.py").read_text(encoding="utf-8")).group(1)

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
    package_data={"kateway": ["py.typed", "web/openapi.json"]},
    install_requires=[
        "twisted[tls]>=24.7",
        "klein>=24.8",
        "afkak==21.5.0.post0",
        "kazoo>=2.10",
        "service-identity>=24.1",
        "httptools>=0.6.4",
        "attrs>=23.2",
        "cattrs>=24.1",
        "cramjam>=2.9",
        "google-crc32c>=1.6",
        "orjson>=3.10",
        "pyjwt[crypto]>=2.9",
        "shtab>=1.7",
        "treq>=24.9",
        "wsproto>=1.2",
    ],
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
