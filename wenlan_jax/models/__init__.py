"""The networks, as pure Linen modules: arrays in, arrays out; no configs, meshes or files."""
