"""What a run tells about itself: metrics, its time, images, and whether it still moves."""
