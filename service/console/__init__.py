"""The console: a page for people, in front of the service's own HTTP interface; it has no second way to a model."""
