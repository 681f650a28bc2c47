"""What a real GPU says: thirteen questions in ten minutes, answered as JSON lines as they come. See README.md beside this."""
