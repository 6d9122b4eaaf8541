"""Faults made from outside: what each costs an agent at most, and that the same agent answers afterwards."""
