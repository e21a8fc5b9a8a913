"""`wenlan sweep`: the rows of an ablation table, each over several seeds, run, resumed, compared and written down."""
