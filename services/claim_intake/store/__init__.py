"""Intake's database: accepted claims, what is still to be sent, what is still owed, and the ordered status events."""
