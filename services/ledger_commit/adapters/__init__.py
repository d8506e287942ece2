"""Where a replica keeps what must survive."""
