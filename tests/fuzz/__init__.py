"""Malformed input of every kind, given to the command line: it does its work, or says four parts.

``python -m tests.fuzz`` runs all cases, in an hour or two of one core; tests/test_fuzz.py runs 300.
Never a traceback, a hang, a signal, or a file left behind.
"""
