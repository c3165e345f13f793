"""Bytes in: Kafka and files."""
