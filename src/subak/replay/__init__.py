"""The log that holds a stream's events: may know core and its own store; never upstream, relay, telemetry or web."""
