"""What talks to the orchestrator, here or on AWS: where it is, how it is asked, what it costs."""
