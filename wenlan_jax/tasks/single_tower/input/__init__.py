"""The batches of the single tower: lengths, the schedule of objectives, masks, negatives and regions."""
