"""Deliveries of records to web addresses (`http`) and NATS subjects (`nats`). Imports `queue.protocol`, `transport`."""
