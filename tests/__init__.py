"""The tests; tests/model.py is the oracle they share."""
