"""The embedded RAG backend: may know core; never the gateway in front of it."""
