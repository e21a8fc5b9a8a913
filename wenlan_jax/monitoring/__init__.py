"""What a run tells about itself: metrics, its time, pictures, and whether it still moves."""
