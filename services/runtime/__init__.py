"""The ground floor of every process: settings, logging, metrics, signals, gRPC and Kafka wiring, keys.

Imports `claims` at most, never a service.
"""
