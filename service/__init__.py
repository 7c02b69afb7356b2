"""The microservice: audio in over HTTP, transcripts out.

`app` wires the rooms together, `routes` speaks HTTP, `transcribe` turns an upload into windows and windows into a
transcript, `scheduler` batches the windows of all requests for the one engine. It trains nothing, changes nothing
in the registry, keeps no audio and no transcript, and imports neither torch nor transformers.
"""
