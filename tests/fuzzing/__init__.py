"""Bytes of all kinds for every part that reads what a peer sends. README.rst says how to go on."""
