"""What writes answers: one module for each kind of Generator."""
