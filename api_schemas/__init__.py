"""What crosses a process or a wire: requests, jobs, events, errors, models. Standard library and pydantic only."""
