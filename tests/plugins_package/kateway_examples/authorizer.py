"""Applications that may read and not publish, for the time of a migration; all else is as bindings have it."""

import attrs

from kateway.core.access.authorization import AccessRequest, BindingAuthorizer, Grant
from kateway.errors import Denied
from kateway.model import Principal
from kateway.registry.interface import Snapshot


class Frozen:
    """Refuses the publishes of some applications."""

    @attrs.frozen
    class Options:
        applications: tuple[str, ...]

    def __init__(self, max_deliveries: int, options: Options) -> None:
        self._bindings = BindingAuthorizer(max_deliveries)
        self._frozen = frozenset(options.applications)

    def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        if asked.purpose == "publish" and principal.application in self._frozen:
            raise Denied(f"{principal.application} is being moved: it may read, and publish again later")
        return self._bindings.authorize(principal, asked, snapshot)
