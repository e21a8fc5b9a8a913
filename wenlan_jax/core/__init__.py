"""The train state, what it is made of, and the step that moves it; the protocols of a task and of an evaluation."""
