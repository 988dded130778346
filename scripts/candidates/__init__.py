"""What a candidate is: its features and their checks, candidates from files and from a simulator."""
