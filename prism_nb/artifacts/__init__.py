"""What one stage leaves in the run for the next: images, views and labels, and how to read them."""
