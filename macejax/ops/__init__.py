"""The hot operations: pure functions of arrays, in row form."""
