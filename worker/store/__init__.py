"""The model store: fetches weights, verifies them, and says what is there."""
