"""The audit trail: a sealed, append-only log whose personal part can be erased; may know core only."""
