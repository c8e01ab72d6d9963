"""HTTP to and from clients: may know relay, admission and below; never names a concrete store, upstream or observer."""
