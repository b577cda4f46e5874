"""What a run's files say of the synthesis at a moment; how it is started, stopped and followed."""

STAGE = "synthesis"
