"""A Hugging Face Space for a version: its files, and the application among them."""
