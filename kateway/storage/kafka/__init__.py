"""The Kafka driver."""
