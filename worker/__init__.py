"""The worker: everything that touches pixels or a model, and the steward that keeps house."""
