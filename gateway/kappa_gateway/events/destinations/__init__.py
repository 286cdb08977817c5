"""Deliveries of records to web addresses (`http`) and NATS subjects (`nats`). Imports the queue's protocol, `transport`."""
