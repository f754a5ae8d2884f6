"""Accuracy of a policy on verifiable test sets."""
