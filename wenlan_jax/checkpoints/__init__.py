"""Train states on disk: saved, checked, read; the only importer of Orbax."""
