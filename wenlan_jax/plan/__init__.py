"""The pod planner: what a run will need and cost on devices that are not here."""
