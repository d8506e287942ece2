"""Edits and pricing: is a claim well formed, covered and new; what is allowed for it; who signs for that."""
