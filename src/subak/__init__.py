"""Subak: a self-hosted gateway for streamed answers — policy, a durable answer, and proof."""

__version__ = "0.1.0"
