"""From speech somewhere to a checked, split utterance manifest: sources, row checks, splits, report.

Nothing here knows a model or a tokenizer; what needs one receives it as a plain callable.
"""
