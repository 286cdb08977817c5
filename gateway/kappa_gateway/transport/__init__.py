"""HTTP/1.1 to addresses: an endpoint, its connections, one request on each. Knows no pods and no functions.

Imports only the core's errors.
"""
