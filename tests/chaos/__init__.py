"""What becomes of jobs while processes are killed and stopped, and while Valkey and S3 fail: ``make chaos``."""
