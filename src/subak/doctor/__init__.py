"""What `subak doctor` looks at: this machine, what the gateway would need, the upstream, and the line to the reader.

It changes nothing that is there and leaves nothing behind. `machine` and `directory` need no other part of Subak, so
that they can still speak when an installation is broken; the rest asks through the very adapters that the gateway uses.
"""
