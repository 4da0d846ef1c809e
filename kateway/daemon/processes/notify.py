"""Tells systemd, where it has started us (``Type=notify``), that we serve, reload, or stop: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends a state; ``False`` where systemd does not wait for any."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(f"{state}\nMAINPID={os.getpid()}".encode())
    except OSError:
        return False
    return True
