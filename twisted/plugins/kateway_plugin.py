"""Makes ``twistd kateway`` exist; what it does is in ``kateway.daemon.service``."""

from twisted.application.service import ServiceMaker

kateway = ServiceMaker("kateway", "kateway.daemon.service", "An HTTP gateway to Kafka", "kateway")
