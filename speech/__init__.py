"""What audio, features, a Whisper model, text and scores are.

Training and serving both stand on this room: they decode, window, extract features, decode tokens, normalise
text and score with the same code, so that a difference between the two cannot exist. It knows neither the
registry, nor HTTP, nor data sets, and nothing here imports torch or transformers but the modules that say so.
"""
