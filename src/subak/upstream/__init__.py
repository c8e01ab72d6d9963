"""What answers a question: may know core and its own foreign libraries; never replay, relay, telemetry or web."""
