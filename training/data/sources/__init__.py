"""Where utterances come from, one module a source; each returns `(utterances, dropped)` and nothing else.

A source never replaces a bad row by another one, never splits and never trims audio.
"""
