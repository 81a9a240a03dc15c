"""Contracts that every model of the registry keeps."""
