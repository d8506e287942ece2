"""The neutral service that turns hashed elements into duplicate tags under a key that no payer holds."""
