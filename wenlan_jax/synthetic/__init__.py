"""Procedural images with captions, boxes and questions in seven languages, drawn without any download."""
