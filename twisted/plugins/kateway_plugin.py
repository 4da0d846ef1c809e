"""Makes ``twistd kateway`` exist; what it does is in ``kateway.service``."""

from twisted.application.service import ServiceMaker

kateway = ServiceMaker("kateway", "kateway.service", "An HTTP gateway to Kafka", "kateway")
