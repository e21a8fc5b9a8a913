"""The networks, as pure Linen modules: arrays in, arrays out. They know nothing of configs, meshes or files."""
