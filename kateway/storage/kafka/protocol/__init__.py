"""Kafka's wire protocol: requests, record batches, compression, errors."""
