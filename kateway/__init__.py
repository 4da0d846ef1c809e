"""An HTTP gateway to Kafka: publish and subscribe with anything that can curl."""

__version__ = "0.1.0"
