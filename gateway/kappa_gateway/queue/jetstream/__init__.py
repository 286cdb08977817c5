"""The queue on NATS JetStream, over nats-py.

`queue` is the adapter; `leases` receives events and settles them, `lanes` keeps a stream for each lane, `store` the
records and the dead letter, `publishing` writes to streams and `stored` reads them. `connection` keeps one `link` to
the server, and `management` is nats-py's manager over it. May import the protocol, the settings, the core and nats-py.
"""
