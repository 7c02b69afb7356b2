"""The offline job: data, fine-tuning, evaluation and the gate.

It writes versions and verdicts to the registry and never talks to a running service.
"""
