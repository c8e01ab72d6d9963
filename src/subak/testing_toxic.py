"""Moved: import from `subak.testing`."""

from subak.testing import Cut, Direction, How, Line, Lines, ToxicConnection, ToxicProxy, Way

__all__ = ["Cut", "Direction", "How", "Line", "Lines", "ToxicConnection", "ToxicProxy", "Way"]
