"""What a run tells about itself: metrics, time, curves, and whether it still moves."""
