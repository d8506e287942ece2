"""Fraud scoring: features over sliding windows, rules with reasons, and the signed bit that holds a claim for analysts."""
