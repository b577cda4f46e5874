"""Training: what the training of teachers and of students has in common."""
