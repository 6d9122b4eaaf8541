"""Conformance tests: an agent process is tested over TCP, in raw bytes, against section 3 of SPOE.txt."""
