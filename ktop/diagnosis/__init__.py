"""Which pipe is the narrowest: pure functions over Frames. Begin with engine.Diagnosis."""
