"""Bridges to what runs a training: third-party environments and their imports stay in here."""
