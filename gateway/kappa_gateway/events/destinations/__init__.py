"""Deliveries of records to what is no Function: web addresses (`http`) and NATS subjects (`nats`), by the
`Deliverer`."""
