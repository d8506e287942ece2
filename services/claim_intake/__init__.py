"""Where claims come in: accept durably, send on, tell each party what happens, and stay responsible to the end."""
