"""Teachers: networks trained on the real data, then frozen to steer, label and measure."""
