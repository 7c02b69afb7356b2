"""Metrics in the form of Hugging Face's `evaluate`, loaded from this folder: nothing is downloaded."""
