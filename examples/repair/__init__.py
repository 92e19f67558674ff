"""Repair of seeded bugs in a real package by search over edits; see __main__.py."""
