"""The one gate before a stream: may know core; never relay, web or what answers."""
