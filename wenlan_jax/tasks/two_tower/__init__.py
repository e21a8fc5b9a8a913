"""Two towers, `brivl` and `clip`: an image tower and a text tower trained by contrast. `spec.py` lists the parts."""
