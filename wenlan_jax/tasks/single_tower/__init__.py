"""The single tower: pretraining `mlmm`, fine-tuning `rank` and `vqa`. `spec.py` lists the parts."""
